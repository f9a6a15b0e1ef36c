"""A machine that nobody told of and that has the VIP already: seen before a director takes it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsfab import document, inventory, wire
from lvsfab.engine import Engine, Event
from lvsfab.errors import ConflictError
from lvsfab.model import Cluster, Inventory
from lvsfab.recipe import Compiled, compile_recipe, find, load
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from lvsfab.wire import Answer, Question
from tests.unit.local import LocalChannel
from tests.unit.test_engine import NAME, Machine, Run, compiled
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture

MAC = "02:00:00:00:00:07"
VIP, VIP6, FREE, FREE6 = "10.1.1.100", "fd00:1::100", "10.1.1.101", "fd00:1::101"


def of(recipe: str, lab: str = "lab", **sets: str) -> tuple[Cluster, Inventory]:
    found = inventory.load(inventory.find(lab))
    cluster = compile_recipe(load(find(recipe)), found, sets).cluster
    assert cluster is not None
    return cluster, found


# what is asked -------------------------------------------------------------------------------


def test_a_director_asks_for_the_vip_on_its_leg_in_the_vips_network() -> None:
    assert wire.questions(*of("nat")) == {"director": (Question("10.1.1.100", "eth0"),)}
    assert wire.questions(*of("dr")) == {"director": (Question("192.168.10.100", "eth1"),)}
    on_tunnel = of("tun", vip_on="tunl0")  # the VIP on a tunnel's device is answered for on the leg
    assert wire.questions(*on_tunnel) == {"director": (Question("192.168.10.100", "eth1"),)}


def test_every_director_asks_for_all_that_moves() -> None:
    both = (Question("203.0.113.100", "bond1"), Question("10.71.12.1", "bond0"))
    assert wire.questions(*of("nat", "3-nat-keepalived")) == {"lb1": both, "lb2": both}


def test_a_directors_own_address_is_not_asked_for() -> None:
    assert wire.questions(*of("nat", "2-nat-two-legs")) == {"director": ()}
    assert wire.questions(None, Inventory("x", {})) == {}


# what an answer means ------------------------------------------------------------------------


def test_answers_are_read_whatever_stands_between_them() -> None:
    text = (
        f"answer {VIP} eth0 02:AB:00:00:00:07\nanswer {VIP} eth0\nanswer {VIP} eth0 \x1b[1mred\n"
        f"nonsense\nanswer {VIP6} eth0 {MAC}\nunasked {FREE} eth1 there is no ping\n"
    )
    found, notes = wire.answers(text)
    assert found == (Answer(VIP, "eth0", "02:ab:00:00:00:07"), Answer(VIP6, "eth0", MAC))
    assert notes == (f"nobody was asked on eth1 whether he has {FREE}: there is no ping",)


def test_another_host_of_the_inventory_is_no_stranger() -> None:
    answers = [Answer(VIP, "eth0", MAC)]
    assert wire.strangers(answers, {MAC, "02:00:00:00:00:01"}) == ()
    (told,) = wire.strangers(answers, {"02:00:00:00:00:01"})
    assert VIP in told
    assert "eth0" in told
    assert MAC in told
    assert "not read" not in told
    (told,) = wire.strangers(answers, (), ["lb1"])
    assert "not read: lb1" in told


# on real kernels -----------------------------------------------------------------------------


@pytest.fixture
def wired(machines: dict[str, Machine]) -> Iterator[dict[str, Machine]]:
    """`d` with w0 on a network where a machine that is none of ours has VIP and VIP6."""
    machines["d"].sh(
        "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; "  # who probes cannot ask yet
        "ip link add w0 type veth peer name w1; "
        "unshare -n sleep 300 </dev/null >/dev/null 2>&1 & p=$!; echo $p >/run/stranger; "
        'until [ "$(readlink /proc/$p/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done; '
        f"ip link set w1 address {MAC} netns $p; "
        "ip addr add 10.1.1.250/24 dev w0; ip addr add fd00:1::fa/64 dev w0 nodad; "
        "ip link set w0 up; "
        "nsenter -t $p -n sh -c 'echo 0 >/proc/sys/net/ipv6/conf/w1/accept_dad; "
        "ip link set w1 up; "
        f"ip addr add {VIP}/32 dev w1; ip addr add {VIP6}/128 dev w1 nodad'"
    )
    if MAC not in machines["d"].sh("nsenter -t $(cat /run/stranger) -n ip link"):
        pytest.fail("this machine can make no network with a stranger on it")
    yield machines
    machines["d"].sh("kill $(cat /run/stranger)")


def asked(
    machine: Machine, *questions: Question, words: str = ""
) -> tuple[tuple[Answer, ...], list[str]]:
    """What one host is answered, and what a person is told; `words` stand in its shell."""
    events: list[Event] = []

    def connect(host: str) -> Shell:
        return Shell(host, LocalChannel([*machine.enter, "sh", "-s"]), prelude() + words)

    with Engine(NAME, connect, events.append) as engine:
        reads, errors = engine.read({"d": ()}, asked={"d": questions})
        assert not errors
        assert engine.execs == {"d": 1}
    return reads["d"].answers, [e.text for e in events if e.what == "note"]


def neighbours(machine: Machine) -> str:
    return machine.sh("ip neigh show dev w0 | grep -v fe80")


def test_who_answers_is_heard_and_no_trace_is_left(wired: dict[str, Machine]) -> None:
    d = wired["d"]
    before = d.picture()
    answers, notes = asked(d, Question(VIP, "w0"), Question(VIP6, "w0"))
    assert answers == (Answer(VIP, "w0", MAC), Answer(VIP6, "w0", MAC))
    assert notes == []
    assert neighbours(d) == ""
    assert d.picture() == before


def test_nobody_answers_for_a_free_address_and_that_is_not_waited_for_long(
    wired: dict[str, Machine],
) -> None:
    began = time.monotonic()
    assert asked(wired["d"], Question(FREE, "w0"), Question(FREE6, "w0")) == ((), [])
    assert time.monotonic() - began < 2  # 0.4 s on an idle machine; the kernel itself gives up at 3
    assert neighbours(wired["d"]) == ""


def test_what_cannot_be_asked_about_is_not(wired: dict[str, Machine]) -> None:
    """An address that the host has; a device that it has not; an entry that somebody fixed."""
    d = wired["d"]
    d.sh(f"ip addr add {VIP}/32 dev lo")
    assert asked(d, Question(VIP, "w0"), Question(VIP6, "w7")) == ((), [])
    d.sh(f"ip addr del {VIP}/32 dev lo; ip neigh add {VIP} lladdr 02:00:00:00:00:09 dev w0")
    answers, notes = asked(d, Question(VIP, "w0"))
    assert answers == ()
    assert notes == [f"nobody was asked on w0 whether he has {VIP}: its neighbour entry is fixed"]
    assert "02:00:00:00:00:09 PERMANENT" in neighbours(d)


def test_an_old_neighbour_entry_is_not_believed(wired: dict[str, Machine]) -> None:
    """Somebody had the address, and has it no more; who answers now stays in the table."""
    d = wired["d"]
    d.sh(f"ip neigh add {FREE} lladdr {MAC} dev w0 nud stale")
    d.sh(f"ip neigh add {VIP} lladdr 02:00:00:00:00:09 dev w0 nud reachable")
    answers, _ = asked(d, Question(FREE, "w0"), Question(VIP, "w0"))
    assert answers == (Answer(VIP, "w0", MAC),)
    assert neighbours(d).startswith(f"{VIP} lladdr {MAC} ")


OLD = 'ip() { case "$*" in *" use") return 1 ;; esac; command ip "$@"; }\n'


def test_an_older_iproute2_pings_and_one_without_ping_says_so(wired: dict[str, Machine]) -> None:
    d = wired["d"]
    # stands for ping (-c 1 -W 1 -I w0 VIP): whatever is sent makes the kernel ask
    ping = "ping() { command ip neigh add $7 dev $6 use; echo >/run/pinged; }\n"
    answers, notes = asked(d, Question(VIP, "w0"), words=OLD + ping)
    assert answers == (Answer(VIP, "w0", MAC),)
    assert notes == []
    assert d.sh("ls /run/pinged")
    none = "has() { [ $1 != ping ] && command -v $1 >/dev/null; }\n"
    answers, (note,) = asked(d, Question(VIP, "w0"), words=OLD + none)
    assert answers == ()
    assert "older than 5.16" in note


def with_cluster() -> Compiled:
    """The unit tests' recipe, with a director that is to have the VIP on w0."""
    cluster, _ = of("nat")
    text = f"""\
name: {NAME}
networks:
  front: {{subnets: [10.1.1.0/24]}}
hosts:
  d: {{roles: [director], interfaces: {{w0: {{network: front, addresses: [10.1.1.250/24]}}}}}}
  s1: {{roles: [real_server]}}
  s2: {{roles: [real_server]}}
"""
    found = inventory.read(document.parse(text.encode(), Path("unit.yml")))
    return replace(compiled(), inventory=found, cluster=replace(cluster, director="d"))


def test_up_refuses_a_vip_that_a_stranger_answers_for(wired: dict[str, Machine]) -> None:
    recipe = with_cluster()
    before = {name: machine.picture() for name, machine in wired.items()}
    with Run(wired) as engine:
        (told,) = engine.plan(recipe)["d"].conflicts
        assert told == (
            f"{VIP}: a machine that is no host of the inventory answers for it on w0, MAC {MAC}; "
            "take the address from it, or choose another"
        )
        assert engine.execs == {"d": 1, "s1": 1, "s2": 1}
    with Run(wired) as engine, pytest.raises(ConflictError, match=f"d: {VIP}: a machine"):
        engine.up(recipe, "me")
    assert {name: machine.picture() for name, machine in wired.items()} == before
    with Run(wired) as engine:
        assert not engine.up(recipe, "me", adopt=True).failed
    with Run(wired) as engine:
        assert not engine.down(("d", "s1", "s2"), "me", ["d"]).failed


def test_up_takes_a_vip_that_another_host_of_ours_answers_for(wired: dict[str, Machine]) -> None:
    """As the other director does under keepalived, or a server that is not yet silent."""
    wired["s1"].sh(f"ip link add o0 type veth peer name o1; ip link set o0 address {MAC}")
    with Run(wired) as engine:
        plans = engine.plan(with_cluster())
    assert not [c for p in plans.values() for c in p.conflicts]
