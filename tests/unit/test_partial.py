"""One host fails: what is said, what is left, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsfab.engine import Event
from lvsfab.errors import CommandError, UnreachableError
from lvsfab.model import Cluster, ForwardingMethod, RealServer, VirtualService
from lvsfab.outcome import Outcome
from lvsfab.plan import quiesced
from lvsfab.recipe import Compiled
from lvsfab.states.base import Resource
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.sysctl import Sysctl
from tests.unit.test_engine import HOSTS, RECIPE, Machine, Run, compiled, down, up
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


def test_a_host_with_something_left_to_undo_is_not_done(
    machines: dict[str, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others stand on goes last, and does not go while a host fails."""
    monkeypatch.setattr(Sysctl, "foundation", True)
    up(machines)
    machines["s2"].sh("ln -s /proc /run/bad")
    machines["s1"].sh("mkdir /run/bad")
    (line,) = [line for line in RECIPE.splitlines() if "arp_ignore" in line]
    text = RECIPE.replace(f"{line}\n", "").replace("/run/page", "/run/bad/page")
    with Run(machines) as engine:
        outcome = engine.up(compiled(text), "me")
    assert (list(outcome.failed), outcome.not_reached, outcome.done) == (["s2"], ["s1"], ["d"])
    ignored = "cat /proc/sys/net/ipv4/conf/all/arp_ignore"
    assert machines["s1"].sh(ignored) == "1\n"
    machines["s2"].sh("rm /run/bad; mkdir /run/bad")
    up(machines, text)
    assert machines["s1"].sh(ignored) == "0\n"


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


# ---- what a director still does needs the servers behind it ------------------------------------

SERVING = "ip -o addr; cat /run/page"
TWO = Cluster(
    "mine", ForwardingMethod.DR, VirtualService(ip_address("192.0.2.1"), 80),
    (RealServer("s1", ip_address("10.0.0.1"), 80, 3),), "d", backups=("s2",),
)  # fmt: skip
ONE = replace(TWO, backups=())


@contextmanager
def stuck_setting(director: Machine) -> Iterator[None]:
    """The director's setting cannot be written: neither set nor undone."""
    path = "/proc/sys/net/ipv4/ip_forward"
    director.sh(f"mount --bind {path} {path} && mount -o remount,bind,ro {path}")
    yield
    director.sh(f"umount {path}")


@contextmanager
def stuck_word(director: Machine) -> Iterator[None]:
    """What is up cannot be written on the director."""
    director.sh("mkdir -p /run/lvsfab/unit/up.new/x")
    yield
    director.sh("rm -r /run/lvsfab/unit/up.new")


OTHER = RECIPE.replace("192.0.2.1", "192.0.2.2").replace("/run/page", "/run/other").replace(
    "ip_forward, value: 1", "tcp_syncookies, value: 0"
)  # fmt: skip


@pytest.mark.parametrize("stuck", [stuck_setting, stuck_word])
def test_servers_keep_all_while_their_director_cannot_be_undone(
    machines: dict[str, Machine], stuck: Callable[[Machine], AbstractContextManager[None]]
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    serving = {name: machines[name].sh(SERVING) for name in ("s1", "s2")}
    with stuck(machines["d"]):
        with Run(machines) as engine:
            outcome = engine.up(replace(compiled(OTHER), cluster=ONE), "me", mark="other")
        assert list(outcome.failed) == ["d"]
        assert set(outcome.not_reached) == {"s1", "s2"}
        assert outcome.done == []
        assert {name: machines[name].sh(SERVING) for name in serving} == serving
    up(machines, OTHER)
    assert machines["s1"].sh("ls /run/page /run/other").split() == ["/run/other"]
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_down_leaves_the_servers_of_a_director_that_cannot_be_undone(
    machines: dict[str, Machine],
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    serving = {name: machines[name].sh(SERVING) for name in ("s1", "s2")}
    with stuck_setting(machines["d"]):
        with Run(machines) as engine:
            outcome = engine.down(tuple(HOSTS), "me", ["d"])
        assert list(outcome.failed) == ["d"]
        assert set(outcome.not_reached) == {"s1", "s2"}
        assert {name: machines[name].sh(SERVING) for name in serving} == serving
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_down_cleans_the_hosts_beside_one_that_cannot_be_read(
    machines: dict[str, Machine],
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    machines["s2"].sh("mount -o remount,ro /run")
    with Run(machines) as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
    assert isinstance(outcome.failed["s2"], CommandError)
    assert set(outcome.done) == {"d", "s1"}
    machines["s2"].sh("mount -o remount,rw /run")
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_down_leaves_all_behind_a_director_that_answers_and_cannot_be_read(
    machines: dict[str, Machine],
) -> None:
    up(machines)
    serving = {name: machines[name].sh(SERVING) for name in ("s1", "s2")}
    machines["d"].sh("mount -o remount,ro /run")
    with Run(machines) as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
    assert list(outcome.failed) == ["d"]
    assert set(outcome.not_reached) == {"s1", "s2"}
    assert {name: machines[name].sh(SERVING) for name in serving} == serving
    machines["d"].sh("mount -o remount,rw /run")
    down(machines)


def test_a_journal_of_another_version_is_left_alone_and_said(machines: dict[str, Machine]) -> None:
    up(machines)
    journal = "/run/lvsfab/unit/journal"
    machines["s1"].sh(f'sed -i \'s/"also":null/&,"newer":1/\' {journal}')
    there = machines["s1"].sh(f"cat {journal}; {SERVING}")
    with Run(machines) as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
    assert "another version's" in str(outcome.failed["s1"])
    assert set(outcome.done) == {"d", "s2"}
    assert machines["s1"].sh(f"cat {journal}; {SERVING}") == there
    machines["s1"].sh(f"sed -i 's/,\"newer\":1//' {journal}")
    down(machines)
    assert machines["s1"].sh("ls /run/lvsfab /run/page") == ""


def test_down_cleans_what_answers_behind_a_director_that_does_not(
    machines: dict[str, Machine],
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    with Run(machines, dead="d") as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
    assert isinstance(outcome.failed["d"], UnreachableError)
    assert set(outcome.done) == {"s1", "s2"}
    assert {name: machines[name].picture() for name in ("s1", "s2")} == {
        name: before[name] for name in ("s1", "s2")
    }
    assert machines["d"].sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_a_rollback_leaves_the_servers_of_a_director_that_was_lost_in_the_run(
    machines: dict[str, Machine],
) -> None:
    with Run(machines, dies="d") as engine:
        outcome = engine.up(replace(compiled(), cluster=ONE), "me", rollback=True)
    assert list(outcome.failed) == ["d"]
    assert set(outcome.not_reached) == {"s1", "s2"}
    assert outcome.returned == outcome.done == []
    assert machines["s1"].sh("cat /run/page") == "hello\n"
    down(machines)
    assert machines["s1"].sh("ls /run/page") == ""


def test_a_director_that_is_none_any_more_no_longer_says_what_is_up(
    machines: dict[str, Machine],
) -> None:
    for cluster, word in (
        (ONE, "one\n"),
        (replace(ONE, director="s2"), ""),
        (ONE, "one\n"),
        (None, ""),
    ):
        with Run(machines) as engine:
            made = replace(compiled(), cluster=cluster)
            assert not engine.up(made, "me", mark="one" if cluster else "").failed
        assert machines["d"].sh("cat /run/lvsfab/unit/up") == word
    down(machines)


# ---- a director sends nothing to a server that is not ready ------------------------------------

# Two directors over one real server, by an ipvsadm that keeps its rules in a file.
TABLE = RECIPE.replace("on: real_server", "on: s1").split("  - on: director")[0] + "".join(f"""\
  - on: {host}
    do:
      - real_server: {{service: "tcp:192.0.2.1:80", address: 10.0.0.1, method: dr, weight: 3}}
""" for host in ("d", "s2"))  # fmt: skip
IPVSADM = """
ipvs_rules() { cat /run/table 2>/dev/null; }
ipvsadm() {
  case $1 in
  -a) shift; echo "-a $*" >>/run/table ;;
  -e) shift; echo "-a $*" >/run/table ;;
  -d) rm /run/table ;;
  esac
}
"""


def two_directors(text: str = TABLE) -> Compiled:
    return replace(compiled(text), cluster=TWO)


def sent(machines: dict[str, Machine]) -> list[str]:
    """The weight of the real server with each director."""
    tables = [machines[name].sh("cat /run/table").split() for name in ("d", "s2")]
    return [words[words.index("-w") + 1] for words in tables]


def test_every_director_drains_a_server_that_failed(machines: dict[str, Machine]) -> None:
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.up(two_directors(), "me").failed
    assert sent(machines) == ["3", "3"]
    with Run(machines, words=IPVSADM) as engine:
        outcome = engine.up(two_directors(TABLE.replace("/run/page", "/proc/page")), "me")
    assert list(outcome.failed) == ["s1"]
    assert sent(machines) == ["0", "0"]
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.up(two_directors(), "me").failed
    assert sent(machines) == ["3", "3"]


def test_no_director_sends_to_a_server_that_was_left_out(machines: dict[str, Machine]) -> None:
    for again in ("at first", "and once it was up"):
        with Run(machines, dead="s1", words=IPVSADM) as engine:
            outcome = engine.up(two_directors(), "me", skip_unreachable=True)
            assert (outcome.failed, outcome.not_reached) == ({}, ["s1"])
            assert [error.exit_code for error in outcome.errors] == [4]
            assert sent(machines) == ["0", "0"], again
        with Run(machines, words=IPVSADM) as engine:
            outcome = engine.up(two_directors(), "me", skip_unreachable=True)
            assert outcome.errors == []
            assert sent(machines) == ["3", "3"], again


def test_a_rollback_sends_nothing_to_a_server_that_was_lost_in_the_run(
    machines: dict[str, Machine],
) -> None:
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.up(two_directors(), "me", mark="old").failed
    other = TABLE.replace("192.0.2.1", "192.0.2.9").replace("/run/page", "/run/other")
    for text in (TABLE.replace("/run/page", "/run/other"), other):  # its service stays, or goes
        with Run(machines, words=IPVSADM, dies="s1") as engine:
            outcome = engine.up(two_directors(text), "me", mark="new", rollback=True)
        assert list(outcome.failed) == ["s1"]
        assert set(outcome.returned) == {"d", "s2"}
        assert sent(machines) == ["0", "0"]
        assert machines["d"].sh("cat /run/lvsfab/unit/up") == "old\n"
        with Run(machines, words=IPVSADM) as engine:
            assert not engine.up(two_directors(), "me", mark="old").failed
        assert sent(machines) == ["3", "3"]
        assert "192.0.2.1/32" in machines["s1"].sh("ip -o addr")


def test_in_a_rollback_directors_are_the_first_to_lose_and_the_last_to_regain(
    machines: dict[str, Machine],
) -> None:
    machines["s2"].sh("ln -s /proc /run/bad")
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.up(two_directors(), "me").failed
    run = Run(machines, words=IPVSADM)
    text = TABLE.replace("192.0.2.1", "192.0.2.9")
    text += "      - file: {path: /run/bad/page, content: x}\n"
    with run as engine:
        outcome = engine.up(two_directors(text), "me", rollback=True)
    assert list(outcome.failed) == ["s2"]
    assert sent(machines) == ["3", "3"]
    (began,) = [i for i, event in enumerate(run.events) if event.text == "rollback"]
    hosts = [e.host for e in run.events[began:] if e.what == "undone" and e.host in ("d", "s1")]
    assert hosts == ["d", "s1", "s1", "d"]


def test_a_director_that_cannot_be_drained_has_failed(machines: dict[str, Machine]) -> None:
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.up(two_directors(), "me").failed
    run = Run(machines, words=IPVSADM, dies="s1")
    with run as engine:
        further = engine._emit

        def told(event: Event) -> None:
            further(event)
            if event.what == "failed" and event.host == "s1":
                for name in ("d", "s2"):
                    engine.shells[name].close()

        engine._emit = told
        outcome = engine.up(two_directors(TABLE.replace("/run/page", "/run/other")), "me")
    assert set(outcome.failed) == {"s1", "d", "s2"}
    assert outcome.done == []


def test_what_a_drain_changed_comes_back_with_down(machines: dict[str, Machine]) -> None:
    """A real server that was there before, and as wanted: no step of the run, but of the drain."""
    line = "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3"
    for name in ("d", "s2"):
        machines[name].sh(f"echo '{line} -x 0 -y 0' >/run/table")
    before = sent(machines)
    with Run(machines, words=IPVSADM) as engine:
        text = TABLE.replace("/run/page", "/proc/page")
        assert list(engine.up(two_directors(text), "me", adopt=True).failed) == ["s1"]
    assert sent(machines) == ["0", "0"]
    with Run(machines, words=IPVSADM) as engine:
        assert not engine.down(tuple(HOSTS), "me", ["d"]).failed
    assert sent(machines) == before


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
