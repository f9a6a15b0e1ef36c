"""Which director is active, from what each says of itself."""

from __future__ import annotations

from lvsfab import recipe, sources
from lvsfab.model import Cluster
from lvsfab.session import Record
from lvsfab.verify import directors
from lvsfab.verify.directors import Director
from lvsfab.verify.verdict import Status

VIP, GATEWAY = "203.0.113.100", "10.71.12.1"


def cluster() -> Cluster:
    found = sources.load("3-nat-keepalived")
    compiled = recipe.compile_recipe(recipe.load(recipe.find("nat")), found, {})
    assert compiled.cluster is not None
    return compiled.cluster


ACTIVE = Director("lb2", answers=True, runs=True, has=(VIP, GATEWAY))
STANDBY = Director("lb1", answers=True, runs=True)
FACING = ("router", "lb1", "lb2")


def test_what_a_host_says() -> None:
    said = Record("director", 0, f"runs\nhas {VIP}\nhas {GATEWAY}\n")
    assert directors.parse("lb2", said) == ACTIVE
    assert directors.parse("lb1", Record("director", 0, "runs\n")) == STANDBY
    assert directors.parse("lb1", None) == Director("lb1")


def test_the_active_one_takes_the_directors_place_the_other_is_a_bystander() -> None:
    found = directors.arranged(cluster(), (STANDBY, ACTIVE), FACING)
    assert (found.director, found.backups) == ("lb2", ("lb1",))
    assert found.observers == ("router", "lb1")


def test_a_director_that_is_off_observes_nothing() -> None:
    found = directors.arranged(cluster(), (Director("lb1"), ACTIVE), FACING)
    assert found.observers == ("router",)


def test_one_active_one_standby_is_good() -> None:
    check = directors.check(cluster(), (STANDBY, ACTIVE))
    assert check.status is Status.PASS
    assert check.fact.startswith("lb1 standby, lb2 active")
    assert directors.settled(cluster(), (STANDBY, ACTIVE))


def test_split_brain_is_told() -> None:
    both = (Director("lb1", answers=True, runs=True, has=(VIP,)), ACTIVE)
    check = directors.check(cluster(), both)
    assert check.status is Status.FAIL
    assert check.blamed == ("lb1", "lb2")
    assert "112" in check.advice
    assert not directors.settled(cluster(), both)


def test_a_dead_director_or_daemon_is_told() -> None:
    for broken, word in (
        (Director("lb1"), "lb1 off"),
        (Director("lb1", answers=True), "keepalived does not run"),
    ):
        check = directors.check(cluster(), (broken, ACTIVE))
        assert (check.status, check.blamed) == (Status.FAIL, ("lb1",))
        assert word in check.fact


def test_nobody_has_the_vip() -> None:
    idle = (STANDBY, Director("lb2", answers=True, runs=True))
    check = directors.check(cluster(), idle)
    assert (check.status, check.blamed) == (Status.FAIL, ("lb1", "lb2"))
