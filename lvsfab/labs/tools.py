"""The machine's own programs that build images and kernels: found, installed, run.

As root what is missing is installed, and said; an ordinary user is told the exact command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from lvsfab.errors import LabError
from lvsfab.labs import cache
from lvsfab.labs.base import Progress

# An ordinary user's PATH lacks the sbin directories, where depmod and debootstrap are.
Line = Callable[[str], None]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":" + PATH)


def environment(**more: str) -> dict[str, str]:
    """The caller's (proxies, TMPDIR), with the C locale and the sbin directories."""
    own = os.environ.get("PATH", "")
    return {**os.environ, "LC_ALL": "C", "PATH": f"{own}:{PATH}", **more}


def ensure(needs: Mapping[str, str], progress: Progress) -> None:
    """See that programs are there: `needs` maps a program, or the absolute path of a file, to the
    Debian package that has it.
    """
    packages = sorted({package for need, package in needs.items() if not _there(need)})
    if not packages:
        return
    line = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or which("apt-get") is None:
        raise LabError(
            f"this machine lacks {', '.join(packages)}",
            tip=f"sudo {' '.join(line)}",
        )
    progress(f"installing {', '.join(packages)} ({' '.join(line)})")
    with cache.lock("apt-install", progress):
        _install(line, progress)
    left = sorted(need for need in needs if not _there(need))
    if left:
        raise LabError(f"still missing after the installation: {', '.join(left)}")


def _install(line: list[str], progress: Progress) -> None:
    """apt-get install; with fresh lists when it fails, for a new machine has old ones or none."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(line, timeout=600, env=quiet)
    except LabError:
        progress("reading the machine's package lists (apt-get update), then once more")
        run(["apt-get", "update"], timeout=300)
        run(line, timeout=600, env=quiet)


def _there(need: str) -> bool:
    return Path(need).exists() if need.startswith("/") else which(need) is not None


def run(
    argv: list[str],
    *,
    timeout: float,
    tip: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdout: IO[bytes] | None = None,
    line: Line | None = None,
) -> str:
    """Run one program to its end, `timeout` seconds at most; returns what it printed (both
    streams; standard error alone when `stdout` takes the other).

    Everything goes to the file `log` as well (appended), where there is one; `line` sees each line
    as it comes. A failure is a LabError with the last lines and the log's name.
    """
    shown = " ".join(argv[:6]) + (" ..." if len(argv) > 6 else "")
    kept: list[str] = []
    try:
        process = subprocess.Popen(
            ["timeout", "--kill-after=10", f"{timeout:.0f}", *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
            cwd=cwd,
            env=environment(**(env or {})),
        )
    except OSError as error:
        raise LabError(f"{argv[0]} cannot be run: {error.strerror}", tip=tip) from error
    stream = process.stderr if stdout else process.stdout
    assert stream is not None  # noqa: S101 - one of the two is a pipe, by construction above
    try:
        with stream, _sink(log) as sink:
            for raw in stream:
                text = raw.decode(errors="replace").rstrip()
                kept.append(text)
                sink.write(text + "\n")
                if line is not None:
                    line(text)
        status = process.wait()
    except BaseException:
        process.terminate()  # `timeout` hands it on to its whole process group
        process.wait()
        raise
    output = "\n".join(kept)
    if status == 0:
        return output
    why = f"took over {timeout:.0f} s" if status in (124, 137) else f"ended with status {status}"
    tail = "".join(f"\n  {text}" for text in kept[-15:])
    where = f"\n  (all of it: {log})" if log is not None else ""
    raise LabError(f"{shown}: {why}{tail}{where}", tip=tip)


def _sink(log: Path | None) -> IO[str]:
    if log is None:
        return Path(os.devnull).open("a")
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("a")


def log_file(name: str) -> Path:
    """A fresh log for one build, beside the cache's entries."""
    path = cache.root() / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    return path
