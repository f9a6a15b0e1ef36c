"""Compile Debian's kernel source for User-Mode Linux, as little of it as a lab needs.

allnoconfig plus docker/kernel.config: what the file does not name is off. Every line of it must
have taken effect, or the build ends with the names of those that did not.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from lvsfab.errors import LabError
from lvsfab.labs import cache, tools
from lvsfab.labs.base import Progress

NEEDS = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "strip": "binutils",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/stdio.h": "libc6-dev",
}
_COMPILE_TIME = 3600.0  # seconds; about 3 min on two idle cores

_EVENTS = "arch/um/os-Linux/irq.c"
_MANY = re.compile(r"^(#define MAX_EPOLL_EVENTS )64\n", re.MULTILINE)

# Not unpacked: what no UML build reads. Kconfig and Makefiles stay, for the whole tree is parsed.
_LEFT_OUT = (
    "Documentation/*.rst",
    "Documentation/*.txt",
    "Documentation/*.yaml",
    "arch/[!ux]*/*.*",  # every architecture but um and x86 (xtensa's few files come along)
    "arch/[!ux]*/*_defconfig",
    "drivers/gpu/*.[chS]",
    "drivers/media/*.[ch]",
    "drivers/staging/*.[ch]",
    "drivers/net/ethernet/*.[ch]",
    "drivers/net/wireless/*.[ch]",
    "samples/*.[ch]",
    "sound/*.[ch]",
    "tools/testing/*",
)


def unpack(deb: Path, directory: Path, progress: Progress, log: Path) -> Path:
    """The source tree in a linux-source-X.Y package, without what a UML build does not read."""
    progress("unpacking the kernel's source")
    directory.mkdir()
    tools.run(["dpkg-deb", "-x", str(deb), str(directory)], timeout=600, log=log)
    found = sorted(directory.glob("usr/src/linux-source-*.tar.xz"))
    if len(found) != 1:
        raise LabError(f"{deb.name} has another layout than expected")
    out = [f"--exclude=linux-source-*/{pattern}" for pattern in _LEFT_OUT]
    argv = ["tar", "-C", str(directory), "--no-same-owner", *out, "-I", "xz -T0"]
    tools.run([*argv, "-xf", str(found[0])], timeout=900, log=log)
    found[0].unlink()
    return directory / found[0].name.removesuffix(".tar.xz")


def mend(source: Path, progress: Progress) -> None:
    """One interrupt at a time. User-Mode Linux takes up to 64 events of an edge-triggered epoll
    into one static array. An interrupt within the first one's softirqs fills that array anew, and
    the events behind the first are lost: a disk's request, an interface's packets wait for ever.
    """
    file = source / _EVENTS
    text = file.read_text()
    if _MANY.search(text) is None:
        progress(f"{_EVENTS} is another than expected: left as it is")
    file.write_text(_MANY.sub(r"\g<1>1\n", text))


def configure(source: Path, fragment: str, progress: Progress, log: Path) -> None:
    progress("configuring the kernel")
    (source / "lvsfab.config").write_text(fragment)
    _make(source, log, "KCONFIG_ALLCONFIG=lvsfab.config", "allnoconfig", seconds=300)
    failed = without_effect(fragment, (source / ".config").read_text())
    if failed:
        raise LabError(
            "these lines of docker/kernel.config had no effect: " + ", ".join(failed),
            tip="an option was renamed, or lacks one it depends on; see its Kconfig",
        )


def without_effect(fragment: str, config: str) -> tuple[str, ...]:
    """The fragment's lines that the resulting configuration does not hold."""
    given = set(config.splitlines())
    lines = (line.strip() for line in fragment.splitlines())
    wanted = [line for line in lines if re.match(r"CONFIG_\w+=", line)]
    return tuple(line for line in wanted if line not in given)


def compile_into(space: Path, source: Path, progress: Progress, log: Path) -> None:
    """Make SPACE/linux and SPACE/modules/VERSION, both stripped."""
    jobs = len(os.sched_getaffinity(0))
    began = time.monotonic()
    objects = 0
    told = began

    def line(said: str) -> None:
        nonlocal objects, told
        objects += bool(re.match(r"\s+(CC|AS|LD)\b", said))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            progress(f"compiling the kernel: {objects} objects in {told - began:.0f} s")

    progress(f"compiling the kernel on {jobs} cores")
    # -O1 compiles in two thirds of the time of -O2; a lab's kernels wait for each other, not for
    # their instructions. One job more than there are cores: some wait for files.
    how = (f"-j{jobs + 1}", "KCFLAGS=-O1")
    _make(source, log, *how, "linux", "modules", seconds=_COMPILE_TIME, line=line)
    progress(f"compiled the kernel: {objects} objects in {time.monotonic() - began:.0f} s")
    root = space / "root"
    install = ("INSTALL_MOD_STRIP=1", f"INSTALL_MOD_PATH={root}", "DEPMOD=true")
    _make(source, log, *install, "modules_install", seconds=300)
    tools.run(["strip", "-o", str(space / "linux"), str(source / "linux")], timeout=60)
    (root / "lib/modules").rename(space / "modules")
    cache.remove(root)


def _make(
    source: Path, log: Path, *args: str, seconds: float, line: tools.Line | None = None
) -> None:
    fixed = {  # nothing of the builder or the moment in the kernel
        "KBUILD_BUILD_USER": "lvsfab",
        "KBUILD_BUILD_HOST": "lab",
        "KBUILD_BUILD_TIMESTAMP": "2000-01-01",
    }
    tools.run(
        ["make", "ARCH=um", *args],
        timeout=seconds,
        cwd=source,
        env=fixed,
        log=log,
        line=line,
        tip=f"the whole output is in {log}",
    )
