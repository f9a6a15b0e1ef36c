"""A lab's keeper seen from outside: starting it, and ending it whatever state it is in."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lvsfab.errors import LabError
from lvsfab.labs import connect, namespaces, runtime

READY_WAIT = 30.0  # seconds for the keeper to prepare namespaces, mounts, networks: 0.2 s
ASK_WAIT = 2.0  # seconds for a keeper to end when asked, then when told (SIGTERM)
END_WAIT = 10.0  # seconds for the keeper and all below it to end when killed


def start(directory: Path, lock: int) -> None:
    """Start the keeper of the lab whose `spec` is in `directory`, and wait until its hosts'
    kernels are about to start. The keeper has nothing in common with this process: no terminal,
    no session, no descriptor but `lock`, which it holds until it is ready.
    """
    package = Path(__file__).resolve().parents[2]
    ready, said = os.pipe()
    with (directory / "keeper.log").open("wb") as log:
        started = subprocess.Popen(
            [
                *(sys.executable, "-S", "-m", "lvsfab.labs.keeper"),
                *(str(directory), str(said), str(lock)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PYTHONPATH": str(package), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            pass_fds=(said, lock),
            start_new_session=True,
        )
    os.close(said)
    try:
        text = _read(ready, READY_WAIT)
    finally:
        os.close(ready)
    if text is None:
        started.kill()
        end(directory)
        raise LabError(f"the lab's keeper was not ready after {READY_WAIT:.0f} s")
    with suppress(subprocess.TimeoutExpired):  # what we started ends; the keeper is its child
        started.wait(ASK_WAIT)
    answer = json.loads(text) if text else {"error": "the lab's keeper died at its start"}
    if answer:
        raise _failure(answer, (directory / "keeper.log").read_text(errors="replace"))


def _failure(answer: dict[str, str], log: str) -> LabError:
    number = int(answer.get("errno", "0"))
    # a mount that is refused in namespaces of one's own is AppArmor's way of forbidding them
    if "forbidden" in answer or number in (1, 13):
        message, tip = namespaces.explain(number)
        said = f": {answer['error']}" if "error" in answer else ""
        return LabError(f"{message}{said}", tip=tip)
    network = f": {connect.NETWORK_FAILED}: " in answer["error"]
    tip = "this machine's kernel may lack them: sudo modprobe -a bridge veth" if network else ""
    return LabError(f"{answer['error']}\n{log}".strip(), tip=tip)


def _read(fd: int, timeout: float) -> str | None:
    """What the keeper says, "" when it ended without a word, None after `timeout` s."""
    ready, _, _ = select.select([fd], [], [], timeout)
    return os.read(fd, 65536).decode() if ready else None


def end(directory: Path) -> None:
    """End the keeper and with it every process, mount and network of the lab."""
    who = runtime.recorded_keeper(directory)
    with suppress(OSError):
        who = runtime.identity(connect.keeper_pid(directory)) or who
    if who is None:
        return
    with suppress(OSError, ValueError):
        connect.ask(directory, {"do": "shutdown"}, timeout=ASK_WAIT)
    if runtime.end(who, signal.SIGTERM, ASK_WAIT) or runtime.end(who, signal.SIGKILL, END_WAIT):
        return
    raise LabError(
        f"the lab's keeper (process {who.pid}) did not end within {END_WAIT:.0f} s of SIGKILL",
        tip=f"look what it is stuck in: cat /proc/{who.pid}/stack",
    )
