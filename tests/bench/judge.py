"""What the bench's figures mean: medians, the table, and the bounds they are held to. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from tests.bench.contenders import ALL, APPLY, FLOOR, RUN

# Times the floor, at one host (where Python's start is what it costs) and at ten or more.
BOUNDS = {RUN: (1.5, 1.1), APPLY: (1.75, 1.25)}
SLOWER = {"pyinfra": 10.0, "ansible-core": 20.0}  # times `lvsfab run`, the same work
MIB = 1.0  # of memory for each host beyond the first
FEWER, MORE, LINEAR = 200, 1000, 1.25  # hosts; a host among the many may cost so much more
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

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


def in_readme(text: str, by: Mapping[Key, Mapping[str, float]]) -> str:
    """README with these figures in its table. Rows of other numbers of hosts stay: who is held
    against whom is always of one run.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README has no {BEGIN} ... {END}")
    head, rule, *rows = table(by).splitlines()
    measured = {str(number) for number, _, _ in by}
    kept = [row for row in old.splitlines() if (n := _hosts(row)).isdecimal() and n not in measured]
    rows = sorted([*kept, *rows], key=lambda row: int(_hosts(row)))
    return "\n".join([before + begin, head, rule, *rows, end + after])


def _hosts(row: str) -> str:
    """The first cell of a table's row: how many hosts."""
    cells = row.split("|")
    return cells[1].strip() if len(cells) > 1 else ""


def costs(by: Mapping[Key, Mapping[str, float]]) -> list[str]:
    """What must hold on a busy machine too: the work is done, processor time, memory."""
    found = []
    for (number, name, run), told in by.items():
        where = f"{number} hosts, {run} run"
        if name in (FLOOR, *BOUNDS) and not told["whole"]:
            found.append(f"{where}: {name} did not do the work")
        if name not in BOUNDS:
            continue
        floor, alone = by.get((number, FLOOR, run)), by.get((1, name, run))
        if floor is not None and number >= 10 and told["cpu"] > floor["cpu"]:
            found.append(f"{where}: {name}: client CPU above OpenSSH's own")
        if alone is not None and told["mib"] - alone["mib"] > MIB * (number - 1):
            found.append(f"{where}: {name}: more than {MIB} MiB for each further host")
    return found + not_in_proportion(by, "cpu")


def times(by: Mapping[Key, Mapping[str, float]]) -> list[str]:
    """Wall time against the floor, and of many hosts against fewer."""
    found = []
    for (number, name, run), told in by.items():
        floor = by.get((number, FLOOR, run))
        if name in BOUNDS and floor is not None:
            bound = BOUNDS[name][number >= 10]
            if told["wall"] > bound * floor["wall"]:
                found.append(f"{number} hosts, {run} run: {name} above {bound} times the floor")
    return found + not_in_proportion(by, "wall")


def not_in_proportion(by: Mapping[Key, Mapping[str, float]], what: str) -> list[str]:
    """Whether `lvsfab run` costs as much for each of 1,000 hosts as for each of 200."""
    found = []
    for run in ("first", "second"):
        few, many = by.get((FEWER, RUN, run)), by.get((MORE, RUN, run))
        if few is None or many is None:
            continue
        each, more = 1000 * few[what] / FEWER, 1000 * many[what] / MORE
        if more > LINEAR * each:
            told = f"{more:.1f} ms a host at {MORE} hosts, {each:.1f} at {FEWER}"
            found.append(f"{run} run: {what} is not in proportion: {told}")
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
