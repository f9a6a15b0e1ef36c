"""The command line as one process among others: pipes that end, disks that are full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys
import lvsfab.cli, lvsfab.transports.ssh
from tests.unit.local import LocalChannel
lvsfab.transports.ssh.connect = lambda endpoint: LocalChannel(["sh", "-s"])
lvsfab.cli.main(sys.argv[1:])
"""


def start(
    tmp_path: Path, *argv: str, out: int = subprocess.PIPE, **more: str
) -> subprocess.Popen[bytes]:
    """lvsfab, whose hosts are shells of this machine."""
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path), **more}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *argv], stdout=out, stderr=subprocess.PIPE, env=env
    )


def gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_ends_the_run_quietly(tmp_path: Path, more: list[str]) -> None:
    text = f"echo $$ >>{tmp_path}/pids; " + ("echo x; exec sleep 60" if more else "exec yes")
    hosts = ["-H", "a,b,c", "--parallel", "3"]
    run = start(tmp_path, "run", *hosts, *more, "*", "--timeout", "4", "--shell", text)
    assert run.stdout is not None
    assert run.stderr is not None
    if not more:
        assert run.stdout.read(1)
    run.stdout.close()
    assert run.wait(timeout=30) == 141
    assert run.stderr.read() == b""
    run.stderr.close()
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert pids
    assert all(map(gone, pids))


def test_an_output_that_cannot_be_written_is_no_fault_of_a_host(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        run = start(tmp_path, "run", "-H", "a", "*", "--", "echo", "x", out=full.fileno())
        _, said = run.communicate(timeout=30)
    assert run.returncode == 1
    assert b"error: standard output cannot be written: No space left on device" in said
    assert b"UNREACHABLE" not in said


def test_what_this_locale_cannot_say_is_written_as_escapes(tmp_path: Path) -> None:
    run = start(
        tmp_path, "run", "-H", "a", "*", "--shell", "printf 'gr\\303\\274n\\n'",
        PYTHONIOENCODING="ascii",
    )  # fmt: skip
    out, said = run.communicate(timeout=30)
    assert (run.returncode, said) == (0, b"")
    assert out.split() == [b"a", b"gr\\xfcn"]
