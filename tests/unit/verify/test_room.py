"""Thresholds: no more is sent than fits, and a full server is no broken law."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvsfab.model import RealServer, Scheduler
from lvsfab.verify import room
from lvsfab.verify.law import Load
from lvsfab.verify.oracles import judge as alone
from lvsfab.verify.room import State
from lvsfab.verify.verdict import Status
from tests.unit.verify.test_oracles import servers, service


def limits(upper: int, lower: int, *weights: int) -> tuple[RealServer, ...]:
    return tuple(replace(s, upper=upper, lower=lower) for s in servers(*weights))


@pytest.mark.parametrize(
    ("upper", "lower", "load", "state"),
    [
        (0, 0, Load(900, 900), State.OPEN),
        (20, 10, Load(), State.OPEN),
        (20, 10, Load(4, 5), State.OPEN),
        (20, 10, Load(0, 10), State.PERHAPS),
        (20, 10, Load(10, 9), State.PERHAPS),
        (20, 10, Load(10, 10), State.FULL),
        (20, 10, Load(0, 36), State.FULL),
        (20, 0, Load(0, 14), State.OPEN),  # three quarters
        (20, 0, Load(0, 15), State.PERHAPS),
    ],
)
def test_who_gets_connections(upper: int, lower: int, load: Load, state: State) -> None:
    assert room.state(limits(upper, lower, 1)[0], load) is state


@pytest.mark.parametrize(
    ("scheduler", "weights", "before", "most"),
    [
        (Scheduler.RR, (1, 1), {}, 40),
        (Scheduler.RR, (1, 1), {"rs1": Load(0, 5)}, 30),  # rs1's 15, and as many of rs2
        (Scheduler.RR, (1, 1, 0), {}, 40),
        (Scheduler.RR, (1, 1), {"rs1": Load(0, 15)}, 20),  # rs1 may wait, rs2 alone is sure
        (Scheduler.WRR, (3, 1), {}, 24),
        (Scheduler.WRR, (30, 1), {}, 20),  # less than a cycle: all may go to rs1
        (Scheduler.WLC, (1, 1), {"rs1": Load(2, 3)}, 35),
        (Scheduler.LBLC, (1, 1), {"rs1": Load(2, 3)}, 15),
        (Scheduler.FO, (1, 2), {}, 20),
        (Scheduler.SH, (1, 1), {"rs2": Load(0, 4)}, 16),
        (Scheduler.SH, (1, 1), {"rs2": Load(0, 20)}, 0),  # its clients would be refused
        (Scheduler.RR, (1, 1), {"rs1": Load(0, 20), "rs2": Load(0, 12)}, 0),
    ],
)
def test_how_many_fit(
    scheduler: Scheduler, weights: tuple[int, ...], before: dict[str, Load], most: int
) -> None:
    assert room.capacity(service(scheduler), limits(20, 10, *weights), before) == most


def test_servers_without_a_threshold_take_any_number() -> None:
    assert room.capacity(service(Scheduler.RR), servers(1, 1), {}) is None
    mixed = (*limits(20, 10, 1), *servers(1, 1)[1:])
    assert room.capacity(service(Scheduler.WLC), mixed, {}) is None
    assert room.capacity(service(Scheduler.RR), mixed, {}) == 40
    assert room.capacity(service(Scheduler.RR), mixed, {"rs1": Load(0, 20)}) is None


@pytest.mark.parametrize(
    ("upper", "scheduler", "before", "sent"),
    [
        (20, Scheduler.RR, {}, (28, True)),
        (20, Scheduler.WLC, {}, (28, True)),
        (200, Scheduler.RR, {}, (60, True)),
        (36, Scheduler.RR, {}, (60, True)),
        (2, Scheduler.RR, {}, (4, False)),
        (20, Scheduler.RR, {"rs1": Load(0, 20), "rs2": Load(0, 20)}, (0, False)),
        (20, Scheduler.WLC, {"rs1": Load(0, 20)}, (8, True)),
    ],
)
def test_what_is_sent(
    upper: int, scheduler: Scheduler, before: dict[str, Load], sent: tuple[int, bool]
) -> None:
    own = limits(upper, 0, 1, 1)
    assert room.requests_for(service(scheduler), own, 60, before, 12) == sent


def test_a_full_server_is_no_broken_law() -> None:
    own = limits(20, 10, 1, 1, 1)
    full = {"rs1": Load(0, 20), "rs2": Load(0, 3), "rs3": Load()}
    turns = ["rs2", "rs3"] * 6
    assert alone(service(Scheduler.RR), own, turns, full).status is Status.FAIL
    law = room.judge(service(Scheduler.RR), own, turns, full, {})
    assert law.status is Status.PASS
    assert "rs1 20 of 20" in law.fact
    assert law.expected == {"rs1": 0, "rs2": 6, "rs3": 6}
    # one that may have waited and did not takes its turn
    perhaps = full | {"rs1": Load(0, 12)}
    assert room.judge(service(Scheduler.RR), own, ["rs1", *turns], perhaps, {}).status is (
        Status.UNCHECKED
    )
    cycles = ["rs1", "rs2", "rs3"] * 3
    assert room.judge(service(Scheduler.RR), own, cycles, perhaps, {}).status is Status.PASS


def test_servers_with_room_keep_their_law() -> None:
    own = limits(20, 10, 1, 1)
    law = room.judge(service(Scheduler.RR), own, ["rs1"] * 6, {}, {})
    assert law.status is Status.FAIL


def test_more_than_upper_breaks_the_thresholds_law() -> None:
    own = limits(20, 10, 1, 1)
    turns = ["rs1", "rs2"] * 14
    after = {"rs1": Load(0, 21), "rs2": Load(0, 20)}
    law = room.judge(service(Scheduler.RR), own, turns, {}, after)
    assert law.status is Status.FAIL
    assert "rs1 has 21 connections, its upper threshold is 20" in law.fact
    assert "rs2 has" not in law.fact
    lowered = {"rs1": Load(0, 30), "rs2": Load(0, 5)}  # they were there before the threshold
    assert room.judge(service(Scheduler.RR), own, ["rs2"] * 6, lowered, lowered).status is (
        Status.PASS
    )


@pytest.mark.parametrize("scheduler", [Scheduler.LC, Scheduler.WLC, Scheduler.SED, Scheduler.NQ])
def test_held_connections_go_on_to_who_has_room(scheduler: Scheduler) -> None:
    own = limits(10, 5, 1, 1)
    before = {"rs1": Load(0, 4)}
    # 6 for rs1, then all to rs2
    law = room.judge(service(scheduler), own, ["rs2", "rs1"] * 6 + ["rs2"] * 4, before, {})
    assert law.status is Status.PASS, law.fact
    assert law.expected == {"rs1": 6, "rs2": 10}
