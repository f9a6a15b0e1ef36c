"""lblc and lblcr against the kernel's algorithms, and against what they are not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.model import Scheduler
from lvsfab.verify.law import Law, Load
from lvsfab.verify.oracles import judge, needs_held
from lvsfab.verify.verdict import Status
from tests.unit.verify.test_oracles import servers, service


def kernel(scheduler: Scheduler, weights: list[int], number: int, kept: list[int]) -> list[str]:
    """ip_vs_lblc_schedule, ip_vs_lblcr_schedule: the first of the least loaded is taken."""
    active = [0] * len(weights)
    order = []

    def least(among: list[int]) -> int:
        return min(among, key=lambda i: (active[i] / weights[i], among.index(i)))

    for _ in range(number):
        chosen = least(kept) if kept else -1
        idle = any(a * 2 < w for a, w in zip(active, weights, strict=True))
        if not kept or (active[chosen] > weights[chosen] and idle):
            chosen = least(list(range(len(weights))))
            old = kept if scheduler is Scheduler.LBLCR else []
            kept = [*old, chosen] if chosen not in old else old
        active[chosen] += 1
        order.append(f"rs{chosen + 1}")
    return order


def law(scheduler: Scheduler, weights: list[int], answers: list[str]) -> Law:
    return judge(service(scheduler), servers(*weights), answers, {})


WEIGHTS = st.lists(st.integers(1, 9), min_size=2, max_size=4)
BOTH = st.sampled_from([Scheduler.LBLC, Scheduler.LBLCR])


@given(BOTH, WEIGHTS, st.integers(1, 60), st.data())
def test_what_the_kernel_gives_passes(
    scheduler: Scheduler, weights: list[int], number: int, data: st.DataObject
) -> None:
    most = 1 if scheduler is Scheduler.LBLC else len(weights)
    places = st.integers(0, len(weights) - 1)
    kept = data.draw(st.lists(places, max_size=most, unique=True))
    answers = kernel(scheduler, weights, number, kept)
    found = law(scheduler, weights, answers)
    assert found.status is Status.PASS, found.fact
    assert found.expected == {s.name: answers.count(s.name) for s in servers(*weights)}


@pytest.mark.parametrize("scheduler", [Scheduler.LBLC, Scheduler.LBLCR])
def test_one_server_for_all_is_dh_and_not_these(scheduler: Scheduler) -> None:
    assert law(scheduler, [1, 1], ["rs2"] * 2).status is Status.PASS
    found = law(scheduler, [1, 1], ["rs2"] * 9)
    assert found.status is Status.FAIL
    assert "connection 3 to rs2" in found.fact
    assert law(scheduler, [50, 50], ["rs2"] * 51).status is Status.PASS
    assert law(scheduler, [50, 50], ["rs2"] * 52).status is Status.FAIL


def test_each_is_not_the_other_and_neither_is_wlc() -> None:
    weights = [3, 2, 1]
    lblc = kernel(Scheduler.LBLC, weights, 60, [0])
    lblcr = kernel(Scheduler.LBLCR, weights, 60, [0])
    assert Counter(lblc) == {"rs1": 4, "rs2": 3, "rs3": 53}
    assert Counter(lblcr) == {"rs1": 30, "rs2": 20, "rs3": 10}
    assert law(Scheduler.LBLC, weights, lblcr).status is Status.FAIL
    assert law(Scheduler.LBLCR, weights, lblc).status is Status.FAIL
    wlc = (["rs1", "rs2", "rs3", "rs1", "rs2", "rs1"] * 10)[:60]
    assert law(Scheduler.LBLC, weights, wlc).status is Status.FAIL


def test_a_move_before_the_weight_is_passed_is_wrong() -> None:
    assert law(Scheduler.LBLC, [3, 2], ["rs1"] * 4 + ["rs2"] * 3).status is Status.PASS
    assert law(Scheduler.LBLC, [3, 2], ["rs1"] * 3 + ["rs2"] * 3).status is Status.FAIL


def test_connections_of_before_count() -> None:
    own = servers(3, 2)
    before = {"rs1": Load(active=4), "rs2": Load(inactive=7)}
    held = service(Scheduler.LBLC)
    assert judge(held, own, ["rs2"] * 3, before).status is Status.PASS
    assert judge(held, own, ["rs1"] * 3, before).status is Status.FAIL


@pytest.mark.parametrize("scheduler", [Scheduler.LBLC, Scheduler.LBLCR])
def test_what_others_do_proves_nothing(scheduler: Scheduler) -> None:
    own = servers(1, 1)
    shared = judge(service(scheduler), own, ["rs2", "rs1"] * 5, {}, foreign=2)
    assert shared.status is Status.UNCHECKED
    assert "2 connections of others" in shared.fact
    assert judge(service(scheduler), own, ["rs2", None], {}).status is Status.UNCHECKED


def test_their_law_needs_held_connections_unless_clients_persist() -> None:
    for scheduler in (Scheduler.LBLC, Scheduler.LBLCR):
        assert needs_held(service(scheduler))
        assert not needs_held(replace(service(scheduler), persistence=300))
    many = judge(service(Scheduler.LBLCR), servers(*[1] * 9), ["rs1"], {})
    assert many.status is Status.UNCHECKED
