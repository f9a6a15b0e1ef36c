"""How the bench judges its figures, and writes them down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.contenders import APPLY, FLOOR, RUN
from tests.bench.judge import BEGIN, END, Key, costs, in_readme, medians, peers, table, times

README = Path(__file__).parent.parent.parent / "README.md"


def row(name: str, hosts: int, wall: float = 1.0, **other: Any) -> dict[str, Any]:
    told = {"name": name, "hosts": hosts, "run": "first", "wall": wall, "cpu": 0.1, "mib": 40.0}
    return {**told, "done": hosts, "code": 0, **other}


def by(*rows: dict[str, Any]) -> dict[Key, dict[str, float]]:
    """What one run of the bench told, the second run as the first."""
    return medians([*rows, *({**r, "run": "second"} for r in rows)])


def test_medians_count_and_every_round_must_have_done_the_work() -> None:
    rows = [row(RUN, 1, wall) for wall in (3.0, 1.0, 2.0)]
    assert medians(rows)[1, RUN, "first"]["wall"] == 2.0
    assert medians(rows)[1, RUN, "first"]["whole"]
    assert not medians([*rows, row(RUN, 1, done=0)])[1, RUN, "first"]["whole"]


@pytest.mark.parametrize(("name", "one", "many"), [(RUN, 1.5, 1.1), (APPLY, 1.75, 1.25)])
def test_wall_times_are_held_against_the_floor(name: str, one: float, many: float) -> None:
    for hosts, bound in ((1, one), (10, many), (200, many)):
        assert times(by(row(FLOOR, hosts), row(name, hosts, bound - 0.01))) == []
        told = times(by(row(FLOOR, hosts), row(name, hosts, bound + 0.01)))
        assert told == [
            f"{hosts} hosts, {run} run: {name} above {bound} times the floor"
            for run in ("first", "second")
        ]


@pytest.mark.parametrize(("what", "judge"), [("wall", times), ("cpu", costs)])
def test_a_thousand_hosts_cost_five_times_what_two_hundred_do(what: str, judge: Any) -> None:
    few = row(RUN, 200, **{what: 10.0})
    assert judge(by(few, row(RUN, 1000, **{what: 60.0}))) == []
    told = judge(by(few, row(RUN, 1000, **{what: 65.0})))
    assert told[0] == (
        f"first run: {what} is not in proportion: 65.0 ms a host at 1000 hosts, 50.0 at 200"
    )
    assert len(told) == 2


@pytest.mark.parametrize("name", [RUN, APPLY])
def test_what_is_judged_on_a_busy_machine_too(name: str) -> None:
    floor = row(FLOOR, 10)
    assert costs(by(floor, row(name, 10), row(name, 1))) == []
    assert "did not do the work" in costs(by(row(name, 10, code=5)))[0]
    assert "CPU above" in costs(by(floor, row(name, 10, cpu=0.2)))[0]
    assert "MiB" in costs(by(row(name, 1), row(name, 10, mib=50.0)))[0]


def test_peers_are_aims() -> None:
    told = peers(by(row(RUN, 10), row("pyinfra", 10, 7.0), row("ansible-core", 10, 21.0)))
    assert [line.partition(": ")[2] for line in told] == ["pyinfra took but 7.0 times as long"] * 2


def test_the_table_in_readme() -> None:
    found = by(row(FLOOR, 10, 2.0), row(RUN, 10, 1.0))
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert in_readme(text, found) == f"before\n{BEGIN}\n{table(found)}\n{END}\nafter\n"
    one = in_readme(text, by(row(FLOOR, 1), row(FLOOR, 200)))
    both = in_readme(one, found).splitlines()[4:-2]
    assert [line.split("|")[1].strip() for line in both] == ["1", "10", "10", "200"]
    with pytest.raises(ValueError, match="has no"):
        in_readme("no table", found)


def test_readme_has_the_table() -> None:
    text = README.read_text()
    assert text.index(BEGIN) < text.index("| hosts | who |") < text.index(END)
    changed = in_readme(text, by(row(FLOOR, 1, 123.0)))
    assert "| 123.00 |" in changed
    assert changed.count("\n| 200 |") == text.count("\n| 200 |") > 3
