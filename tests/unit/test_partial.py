"""One host fails: what is said, what is left, and how it goes on."""

from __future__ import annotations

import pytest

from lvsfab.errors import CommandError
from lvsfab.outcome import Outcome
from lvsfab.plan import quiesced
from lvsfab.states.base import Resource
from lvsfab.states.ipvs_server import RealServerState
from tests.unit.test_engine import RECIPE, Machine, Run, compiled, down, up
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture


def failing(machines: dict[str, Machine], *, rollback: bool = False) -> Outcome:
    """An up in which s2 cannot make its file."""
    machines["s2"].sh("ln -s /proc /run/bad")
    text = RECIPE.replace("/run/page", "/run/bad/page")
    for name in ("s1", "d"):
        machines[name].sh("mkdir /run/bad")
    with Run(machines) as engine:
        return engine.up(compiled(text), "me", rollback=rollback)


def test_done_failed_and_not_reached_are_told_apart(machines: dict[str, Machine]) -> None:
    outcome = failing(machines)
    assert outcome.done == ["s1"]
    assert list(outcome.failed) == ["s2"]
    assert outcome.not_reached == ["d"]
    assert isinstance(outcome.failed["s2"], CommandError)


def test_a_host_with_nothing_to_do_is_done_though_another_failed(
    machines: dict[str, Machine],
) -> None:
    machines["d"].sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert set(failing(machines).done) == {"d", "s1"}


def test_rollback_returns_every_host(machines: dict[str, Machine]) -> None:
    machines["s2"].sh("ln -s /proc /run/bad")
    for name in ("s1", "d"):
        machines[name].sh("mkdir /run/bad")
    before = {name: machine.picture() for name, machine in machines.items()}
    text = RECIPE.replace("/run/page", "/run/bad/page")
    with Run(machines) as engine:
        outcome = engine.up(compiled(text), "me", rollback=True)
    assert list(outcome.failed) == ["s2"]
    assert set(outcome.returned) == {"d", "s1", "s2"}
    assert outcome.done == []
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_rollback_goes_back_to_the_recipe_that_was_up(machines: dict[str, Machine]) -> None:
    up(machines)
    before = {name: machine.sh("ip -o addr; cat /run/page") for name, machine in machines.items()}
    journals = {n: m.sh("grep . /run/lvsfab/unit/journal") for n, m in machines.items()}
    assert "s2" in failing(machines, rollback=True).failed
    after = {name: machine.sh("ip -o addr; cat /run/page") for name, machine in machines.items()}
    assert after == before
    assert {n: m.sh("grep . /run/lvsfab/unit/journal") for n, m in machines.items()} == journals
    assert up(machines) == 0
    assert down(machines) == 7


def test_up_goes_on_where_another_up_failed(machines: dict[str, Machine]) -> None:
    failing(machines)
    machines["s2"].sh("rm /run/bad; mkdir /run/bad")
    text = RECIPE.replace("/run/page", "/run/bad/page")
    run = Run(machines)
    with run as engine:
        outcome = engine.up(compiled(text), "me")
    assert not outcome.failed
    assert {e.host for e in run.events if e.what == "step"} == {"s2", "d"}


@pytest.mark.parametrize(("weight", "steps"), [(5, 1), (0, 0)])
def test_a_server_that_failed_is_drained(weight: int, steps: int) -> None:
    service = "tcp:192.0.2.1:80"
    ready, unready = (
        RealServerState(service=service, address=f"10.0.0.{i}", method="dr", weight=weight)  # type: ignore[arg-type]
        for i in (1, 2)
    )
    wanted = [Resource(RealServerState, s.key, s) for s in (ready, unready)]
    haves = {f"real_server:{s.key}": s for s in (ready, unready)}
    found = quiesced(wanted, haves, {"10.0.0.2"})
    assert len(found) == steps
    for step in found:
        assert step.resource.key == unready.key
        assert str(step.commands[0]).startswith("ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 0")
