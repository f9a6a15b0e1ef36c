"""The schedulers' laws, held against what the kernel's algorithms give and against what not."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.model import IPAddress, RealServer, Scheduler, VirtualService
from lvsfab.verify import chi_squared, oracles
from lvsfab.verify.law import Load
from lvsfab.verify.oracles import judge
from lvsfab.verify.verdict import Status


def service(scheduler: Scheduler, persistence: int | None = None, *flags: str) -> VirtualService:
    return VirtualService(
        ip_address("10.0.0.1"), 80, scheduler=scheduler, flags=flags, persistence=persistence
    )


def servers(*weights: int) -> tuple[RealServer, ...]:
    return tuple(
        RealServer(f"rs{i}", ip_address(f"192.168.0.{i}"), 80, weight)
        for i, weight in enumerate(weights, 1)
    )


def wrr(weights: list[int], number: int) -> list[str]:
    """ip_vs_wrr_schedule, written down from the kernel's description of its passes."""
    step = math.gcd(*(w for w in weights if w))
    top = max(weights) - (step - 1)
    order: list[str] = []
    need, place = top, 0
    while len(order) < number:
        if place == len(weights):
            place, need = 0, need - step
            if need <= 0:
                need = top
        if weights[place] >= need:
            order.append(f"rs{place + 1}")
        place += 1
    return order


WEIGHTS = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


@given(WEIGHTS, st.integers(0, 40), st.integers(1, 4))
def test_wrr_whole_cycles_from_any_start_pass(weights: list[int], start: int, cycles: int) -> None:
    own = servers(*weights)
    number = oracles.requests_for(service(Scheduler.WRR), own, 1) * cycles
    sequence = wrr(weights, start + number)[start:]
    law = judge(service(Scheduler.WRR), own, sequence, {})
    assert law.status is Status.PASS, law.fact
    assert law.expected == {s.name: sequence.count(s.name) for s in own}


@given(WEIGHTS, st.integers(0, 40), st.data())
def test_wrr_with_one_request_gone_astray_fails(
    weights: list[int], start: int, data: st.DataObject
) -> None:
    own = servers(*weights)
    live = [s.name for s in own if s.weight]
    if len(live) < 2:
        return
    number = oracles.requests_for(service(Scheduler.WRR), own, 1) * 2
    sequence = wrr(weights, start + number)[start:]
    place = data.draw(st.integers(0, number - 1))
    sequence[place] = data.draw(st.sampled_from([n for n in live if n != sequence[place]]))
    assert judge(service(Scheduler.WRR), own, sequence, {}).status is Status.FAIL


def test_rr_order_counts_not_only_sums() -> None:
    own = servers(1, 1)
    assert judge(service(Scheduler.RR), own, ["rs2", "rs1"] * 30, {}).status is Status.PASS
    halves = ["rs1"] * 30 + ["rs2"] * 30
    assert judge(service(Scheduler.RR), own, halves, {}).status is Status.FAIL


def test_rr_with_failures_or_other_traffic_is_not_called_proved() -> None:
    own = servers(1, 1)
    failed = judge(service(Scheduler.RR), own, ["rs1", None] * 5, {})
    assert failed.status is Status.UNCHECKED
    assert "5 requests failed" in failed.fact
    shared = judge(service(Scheduler.RR), own, ["rs1", "rs2"] * 5, {}, foreign=3)
    assert shared.status is Status.UNCHECKED
    assert "3 connections of others" in shared.fact


def test_less_than_a_cycle_proves_nothing() -> None:
    law = judge(service(Scheduler.WRR), servers(50, 1), ["rs1"] * 10, {})
    assert law.status is Status.UNCHECKED
    assert "51" in law.advice


@pytest.mark.parametrize(
    "scheduler",
    [Scheduler.SH, Scheduler.MH, Scheduler.DH, Scheduler.FO],
)
def test_one_client_one_server(scheduler: Scheduler) -> None:
    own = servers(1, 1)
    assert judge(service(scheduler), own, ["rs2"] * 9, {}).status is Status.PASS
    law = judge(service(scheduler), own, ["rs2"] * 8 + ["rs1"], {})
    assert law.status is Status.FAIL


def test_fo_takes_the_highest_weight() -> None:
    own = servers(1, 7)
    assert judge(service(Scheduler.FO), own, ["rs2"] * 9, {}).status is Status.PASS
    wrong = judge(service(Scheduler.FO), own, ["rs1"] * 9, {})
    assert wrong.status is Status.FAIL
    assert wrong.expected == {"rs1": 0, "rs2": 9}


def test_persistence_comes_before_the_scheduler() -> None:
    own = servers(1, 1)
    assert judge(service(Scheduler.RR, 300), own, ["rs1"] * 9, {}).status is Status.PASS
    assert judge(service(Scheduler.RR, 300), own, ["rs1", "rs2"] * 9, {}).status is Status.FAIL


def test_weight_0_answering_is_a_failure_with_its_reason() -> None:
    law = judge(service(Scheduler.RR, 300), servers(1, 0), ["rs2"] * 9, {})
    assert law.status is Status.FAIL
    assert "expire_quiescent_template" in law.advice


def test_hashing_by_port_spreads_one_client() -> None:
    spread = service(Scheduler.SH, None, "sh-port")
    assert oracles.one_server(spread) == ""
    assert judge(spread, servers(1, 1), ["rs1", "rs2", "rs2"] * 9, {}).status is Status.PASS
    assert judge(spread, servers(1, 1), ["rs2"] * 27, {}).status is Status.FAIL


@pytest.mark.parametrize(
    ("scheduler", "weights", "number", "given_out"),
    [
        (Scheduler.LC, (1, 9), 40, {"rs1": 20, "rs2": 20}),
        (Scheduler.WLC, (1, 3), 60, {"rs1": 15, "rs2": 45}),
        (Scheduler.SED, (1, 3), 4, {"rs1": 1, "rs2": 3}),
        (Scheduler.SED, (1, 9), 5, {"rs1": 0, "rs2": 5}),
        (Scheduler.NQ, (1, 9), 5, {"rs1": 1, "rs2": 4}),
        (Scheduler.OVF, (5, 20), 23, {"rs1": 2, "rs2": 21}),
    ],
)
def test_held_connections(
    scheduler: Scheduler, weights: tuple[int, int], number: int, given_out: dict[str, int]
) -> None:
    own = servers(*weights)
    answers = [name for name, count in given_out.items() for _ in range(count)]
    assert len(answers) == number
    right = judge(service(scheduler), own, answers, {})
    assert right.status is Status.PASS, right.fact
    assert right.expected == given_out
    two_off = dict(given_out)
    two_off["rs1"] += 2
    two_off["rs2"] -= 2
    answers = [name for name, count in two_off.items() for _ in range(count)]
    wrong = judge(service(scheduler), own, answers, {})
    assert wrong.status is Status.FAIL
    assert wrong.expected != two_off


def test_connections_that_were_there_before_count() -> None:
    own = servers(1, 1)
    before = {"rs1": Load(active=10)}
    answers = ["rs2"] * 15 + ["rs1"] * 5
    assert judge(service(Scheduler.LC), own, answers, before).status is Status.PASS
    assert judge(service(Scheduler.LC), own, answers, {}).status is Status.FAIL


def test_requests_are_rounded_to_whole_cycles_and_bounded_where_held() -> None:
    assert oracles.requests_for(service(Scheduler.RR), servers(1, 1, 1, 0), 61) == 63
    assert oracles.requests_for(service(Scheduler.WRR), servers(2, 4), 60) == 60
    assert oracles.requests_for(service(Scheduler.WLC), servers(1, 1), 5000) == oracles.MAX_HELD
    assert oracles.requests_for(service(Scheduler.OVF), servers(2, 3), 60) == 7
    taken = {"rs1": Load(active=2), "rs2": Load(active=1)}
    assert oracles.requests_for(service(Scheduler.OVF), servers(2, 3), 60, taken) == 4
    assert oracles.requests_for(service(Scheduler.SH), servers(1, 1), 61) == 61


def test_no_answer_at_all_is_no_rotation() -> None:
    law = judge(service(Scheduler.RR), servers(1, 1), [None] * 9, {})
    assert law.status is Status.UNCHECKED


def clients(number: int) -> list[IPAddress]:
    return [ip_address(f"172.25.254.{i}") for i in range(1, number + 1)]


def test_a_hashed_client_keeps_its_server_and_many_spread_by_weight() -> None:
    own = servers(2, 1)
    senders = clients(30) * 2
    kept = ["rs1" if i % 3 else "rs2" for i in range(30)] * 2
    law = judge(service(Scheduler.SH), own, kept, {}, senders=senders)
    assert law.status is Status.PASS, law.fact
    assert law.expected == {"rs1": 40, "rs2": 20}
    moved = [*kept[:-1], "rs1" if kept[-1] == "rs2" else "rs2"]
    law = judge(service(Scheduler.SH), own, moved, {}, senders=senders)
    assert law.status is Status.FAIL
    assert "1 of 30 clients met several (172.25.254.30: rs1 and rs2)" in law.fact
    law = judge(service(Scheduler.MH), own, ["rs2"] * 60, {}, senders=senders)
    assert law.status is Status.FAIL
    assert "not spread by weight: rs1 0, rs2 30" in law.fact
    law = judge(service(Scheduler.MH), own, ["rs2"] * 8, {}, senders=clients(4) * 2)
    assert law.status is Status.PASS
    assert "too few to judge" in law.fact


@pytest.mark.parametrize("scheduler", [Scheduler.SH, Scheduler.MH])
def test_clients_of_a_drained_server_are_refused_unless_there_is_a_fallback(
    scheduler: Scheduler,
) -> None:
    own, senders = servers(0, 2, 2), clients(30) * 2
    refused = [None, "rs2", "rs3"] * 20
    law = judge(service(scheduler), own, refused, {}, senders=senders)
    assert law.status is Status.FAIL
    assert f"10 more met none: {scheduler} keeps them for rs1 (weight 0)" in law.fact
    assert f"scheduler_flags={scheduler}-fallback" in law.advice
    assert law.expected == {"rs1": 0, "rs2": 20, "rs3": 20}
    # where the fallback leads is the hash's business: rs2 may get all of them
    fallback = service(scheduler, None, f"{scheduler}-fallback")
    law = judge(fallback, own, ["rs2", "rs2", "rs3"] * 20, {}, senders=senders)
    assert law.status is Status.PASS, law.fact
    # without a drained server the flag changes nothing
    law = judge(fallback, servers(1, 1), ["rs1"] * 60, {}, senders=senders)
    assert law.status is Status.FAIL


def test_a_drained_server_has_a_row_where_clients_keep_theirs() -> None:
    law = judge(service(Scheduler.RR, 300), servers(1, 0), ["rs1"] * 8, {}, senders=clients(4) * 2)
    assert law.expected == {"rs1": 8, "rs2": 0}


def test_persistence_counts_clients_by_its_netmask() -> None:
    own = servers(1, 1)
    turns = ["rs1", "rs2"] * 4
    alone = replace(service(Scheduler.RR, 300), netmask=None)
    assert judge(alone, own, turns, {}, senders=clients(2) * 4).status is Status.PASS
    together = replace(alone, netmask="255.255.255.0")
    assert judge(together, own, turns, {}, senders=clients(2) * 4).status is Status.FAIL
    assert judge(together, own, ["rs2"] * 8, {}, senders=clients(2) * 4).status is Status.PASS


def test_many_clients_of_dh_meet_one_server_all_together() -> None:
    senders = clients(4) * 2
    one = judge(service(Scheduler.DH), servers(1, 1), ["rs1"] * 8, {}, senders=senders)
    assert one.status is Status.PASS
    two = judge(service(Scheduler.DH), servers(1, 1), ["rs1", "rs2"] * 4, {}, senders=senders)
    assert two.status is Status.FAIL


def test_the_chi_squared_limit_is_the_tables() -> None:
    # 0.9999 quantiles: 15.14 for 1 degree of freedom, 18.42 for 2, 35.56 for 10
    for freedom, quantile in ((1, 15.14), (2, 18.42), (10, 35.56)):
        assert chi_squared.limit(freedom) == pytest.approx(quantile, rel=0.08)


def test_many_clients_tell_weights_apart() -> None:
    """30 clients could not: 15, 10 and 5 pass for 1:1:1."""
    senders = clients(180)
    hashed = service(Scheduler.SH)
    answers = [f"rs{1 + (i % 6 > 2) + (i % 6 > 4)}" for i in range(180)]  # 3:2:1
    assert judge(hashed, servers(3, 2, 1), answers, {}, senders=senders).status is Status.PASS
    for weights in ((1, 1, 1), (3, 1, 1), (1, 2, 3), (2, 3, 1), (6, 2, 1)):
        law = judge(hashed, servers(*weights), answers, {}, senders=senders)
        assert law.status is Status.FAIL, weights
        assert "not spread by weight: rs1 90, rs2 60, rs3 30" in law.fact
    few = judge(hashed, servers(1, 1, 1), answers[:30], {}, senders=senders[:30])
    assert few.status is Status.PASS
