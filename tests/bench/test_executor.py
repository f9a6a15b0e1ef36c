"""The executor beside its peers, in one run on the same hosts: `make bench-executor`.

LVSFAB_BENCH_HOSTS=1,10,50,200 says for how many hosts (default 1,10). Peers are installed into
virtual environments of their own; one that cannot be is named, with the reason. The floor, and
lvsfab, take turns five times and their medians count. Wall times are judged on a machine that had
nothing else to do when it began; processor time and memory always.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.bench.contenders import ALL, install
from tests.bench.sshd import enter

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parent.parent.parent
HOSTS = os.environ.get("LVSFAB_BENCH_HOSTS", "1,10")
FLOOR, RUN, APPLY = ALL[0].name, "lvsfab run --script", "lvsfab apply"
ONE, MANY = 1.5, 1.1  # times the floor, at one host and at ten or more
SLOWER = {"pyinfra": 10.0, "ansible-core": 20.0}  # times `lvsfab run`, the same work
MIB = 1.0  # of memory for each host beyond the first

Row = Mapping[str, Any]
Key = tuple[int, str, str]  # hosts, contender, first or second run


def medians(rows: Iterable[Row]) -> dict[Key, dict[str, float]]:
    """Of each contender's rounds; `whole`: whether it did the work on every host each time."""
    by: dict[Key, list[Row]] = {}
    for row in rows:
        by.setdefault((row["hosts"], row["name"], row["run"]), []).append(row)
    return {
        key: {
            **{what: statistics.median(r[what] for r in found) for what in ("wall", "cpu", "mib")},
            "whole": all(r["done"] == key[0] and r["code"] == 0 for r in found),
        }
        for key, found in by.items()
    }


def table(by: Mapping[Key, Mapping[str, float]]) -> str:
    """As README has it."""
    lines = [
        "| hosts | who | first run, s | x floor | second run, s | x floor | CPU, ms a host | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number in sorted({hosts for hosts, _, _ in by}):
        for one in ALL:
            first, second = (by.get((number, one.name, run)) for run in ("first", "second"))
            if first is None or second is None:
                continue
            name = one.name if first["whole"] else f"{one.name} (did not do the work)"
            words = [str(number), name]
            for run, told in (("first", first), ("second", second)):
                floor = by.get((number, FLOOR, run))
                times = f"{told['wall'] / floor['wall']:.2f}" if floor else "-"
                words += [f"{told['wall']:.2f}", times]
            words += [f"{1000 * first['cpu'] / number:.0f}", f"{first['mib']:.0f}"]
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def costs(by: Mapping[Key, Mapping[str, float]]) -> list[str]:
    """What must hold on a busy machine too: the work is done, processor time, memory."""
    found = []
    for (number, name, run), told in by.items():
        where = f"{number} hosts, {run} run"
        if name in (FLOOR, RUN, APPLY) and not told["whole"]:
            found.append(f"{where}: {name} did not do the work")
        if name != RUN:
            continue
        floor, alone = by.get((number, FLOOR, run)), by.get((1, RUN, run))
        if floor is not None and number >= 10 and told["cpu"] > floor["cpu"]:
            found.append(f"{where}: client CPU above OpenSSH's own")
        if alone is not None and told["mib"] - alone["mib"] > MIB * (number - 1):
            found.append(f"{where}: more than {MIB} MiB for each further host")
    return found


def times(by: Mapping[Key, Mapping[str, float]]) -> list[str]:
    """Wall time against the floor."""
    found = []
    for (number, name, run), floor in by.items():
        ours, bound = by.get((number, RUN, run)), ONE if number < 10 else MANY
        if name == FLOOR and ours is not None and ours["wall"] > bound * floor["wall"]:
            found.append(f"{number} hosts, {run} run: above {bound} times the floor")
    return found


def peers(by: Mapping[Key, Mapping[str, float]]) -> list[str]:
    """The aims against peers that these figures miss."""
    found = []
    for (number, name, run), told in by.items():
        ours = by.get((number, RUN, run))
        if name in SLOWER and ours is not None and told["wall"] < SLOWER[name] * ours["wall"]:
            ratio = told["wall"] / ours["wall"]
            found.append(f"{number} hosts, {run} run: {name} took but {ratio:.1f} times as long")
    return found


def test_beside_its_peers(tmp_path: Path) -> None:
    for one in ALL:
        if one.package and (why := install(one.package)):
            print(f"left out: {one.name}: {why}")
    tmp_path.chmod(0o755)
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    argv = enter([sys.executable, "-m", "tests.bench.executor", str(tmp_path), HOSTS])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    by = medians(rows)
    print("\n" + table(by))
    print("\n".join(f"missed: {aim}" for aim in (*times(by), *peers(by))))
    assert not costs(by)
    if busy:
        print("this machine is busy with other work: wall times were not judged")
    else:
        assert not times(by)
