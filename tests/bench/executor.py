"""The bench itself, in the namespace: `python -m tests.bench.executor BASE N,N,... [NAMES]`.

Prints one JSON object a line: contender, hosts, round, run (first or second), wall and CPU seconds
of the client with all its children, the resident memory of its largest process (MiB), and on how
many hosts the work was done. Rounds of the floor and of lvsfab alternate, so that what else the
machine does meets both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import contenders
from tests.bench.contenders import CONTENT, FILES, Contender
from tests.bench.sshd import Fleet, fleet

TIMEOUT = 1800.0  # s for one run; Ansible took 3.5 s a host


def measure(argv: Sequence[str], folder: Path) -> dict[str, object]:
    began = time.monotonic()
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(TIMEOUT, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen need not wait for it
    wall = time.monotonic() - began
    return {
        "wall": round(wall, 3),
        "cpu": round(used.ru_utime + used.ru_stime, 3),
        "mib": round(used.ru_maxrss / 1024, 1),
        "code": process.returncode,
    }


def done_on(found: Fleet, number: int) -> int:
    """On how many hosts the work is whole."""

    def whole(host: str) -> bool:
        folder = found.base / "hosts" / host / "srv" / "bench"
        paths = [folder / f"f{i}" for i in range(FILES)]
        return all(p.is_file() and p.read_text() == c for p, c in zip(paths, CONTENT, strict=True))

    return sum(whole(host) for host in found.hosts[:number])


def contend(one: Contender, found: Fleet, number: int, folder: Path, turn: int) -> None:
    folder.mkdir(parents=True)
    argv = one.make(found, number, folder)
    found.clear()
    for run in ("first", "second"):
        told = measure(argv, folder)
        told |= {"name": one.name, "hosts": number, "round": turn, "run": run}
        told["done"] = done_on(found, number)
        if told["done"] != number or told["code"] != 0:
            told["said"] = (folder / "out").read_text(errors="replace")[-2000:]
        print(json.dumps(told), flush=True)


def main() -> None:
    base = Path(sys.argv[1])
    numbers = [int(word) for word in sys.argv[2].split(",")]
    names = sys.argv[3].split(",") if len(sys.argv) > 3 else []
    with fleet(base, max(numbers)) as found:
        for number in numbers:
            here = [
                one for one in contenders.ALL
                if number <= one.most
                and (not names or any(name in one.name for name in names))
                and not (one.package and contenders.install(one.package))
            ]  # fmt: skip
            for turn in range(max(one.rounds(number) for one in here)):
                for one in here:
                    if turn < one.rounds(number):
                        folder = base / "work" / f"{number}-{one.make.__name__}-{turn}"
                        contend(one, found, number, folder, turn)


if __name__ == "__main__":
    main()
