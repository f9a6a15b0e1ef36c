"""What somebody else put on a host: never touched; where it is in the way, up refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from lvsfab.errors import ConflictError
from lvsfab.journal import Entry
from lvsfab.model import ForwardingMethod
from lvsfab.plan import plan_host, stray_addresses
from lvsfab.states.address import Address
from lvsfab.states.base import Others, Resource, State
from lvsfab.states.file import File
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState
from lvsfab.states.link import Link
from lvsfab.states.nft import NftTable
from lvsfab.states.testpage import Testpage
from tests.unit.test_engine import Machine, Run, compiled, down, up
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture

SERVICE = VirtualServiceState(address="192.0.2.1", port=80, scheduler="rr")
TABLE = NftTable(family="arp", name="mine", content="chain c { }")
LINK = Link(name="t1", type="ipip", local="192.0.2.7", remote="any")
PAGE = Testpage(port=80, name="rs1")
FILE = File(path="/etc/some.conf", content="ours\n")


def conflicts(
    want: State, have: State | None, *, ours: bool = False, others: Others | None = None
) -> tuple[str, ...]:
    resource = Resource(type(want), want.key, want)
    known = [Entry(type(want), want.key, None)] if ours else []
    return plan_host("h", [resource], {resource.id: have}, known, others).conflicts


@pytest.mark.parametrize(
    ("want", "have"),
    [
        (SERVICE, VirtualServiceState(address="192.0.2.1", port=80, scheduler="wlc")),
        (TABLE, NftTable(family="arp", name="mine", content="x", listing="x")),
        (LINK, Link(name="t1", type="gre")),
        (FILE, File(path="/etc/some.conf", content="theirs\n", mode="0644")),
        (
            Address(address="192.0.2.1/32", dev="eth0"),
            Address(address="192.0.2.1/24", dev="eth0"),
        ),
    ],
    ids=lambda state: state.kind,
)
def test_something_else_in_the_place(want: State, have: State) -> None:
    assert len(conflicts(want, have)) == 1
    assert conflicts(want, None) == ()
    assert conflicts(want, have, ours=True) == ()  # drift of what is ours is repaired


def test_the_same_thing_in_the_place_is_no_conflict() -> None:
    assert conflicts(SERVICE, SERVICE) == ()
    assert conflicts(FILE, File(path="/etc/some.conf", content="ours\n", mode="0600")) == ()


def test_the_same_service_with_somebodys_servers_is_a_conflict() -> None:
    assert len(conflicts(SERVICE, replace(SERVICE, servers=("10.0.0.9:80",)))) == 1


def test_a_server_that_somebody_added_to_a_service_of_ours() -> None:
    own = RealServerState(service=SERVICE.key, address="10.0.0.1", method=ForwardingMethod.NAT)
    wanted = [
        Resource(VirtualServiceState, SERVICE.key, SERVICE),
        Resource(type(own), own.key, own),
    ]
    there = replace(SERVICE, servers=("10.0.0.1:80", "10.0.0.9:80"))
    haves = {wanted[0].id: there, wanted[1].id: own}
    journal = [Entry(resource.type, resource.key, None) for resource in wanted]
    plan = plan_host("d", wanted, haves, journal)
    assert plan.conflicts == (
        (
            "real_server:tcp:192.0.2.1:80->10.0.0.9:80: somebody added it to a service of ours; "
            "--adopt takes it out for good"
        ),
    )
    assert [str(c) for step in plan.steps for c in step.commands] == [
        "ipvsadm -d -t 192.0.2.1:80 -r 10.0.0.9:80"
    ]
    mine = Entry(RealServerState, f"{SERVICE.key}->10.0.0.9:80", None)  # of an earlier run
    before = plan_host("d", wanted, {**haves, mine.id: own}, [*journal, mine])
    assert before.conflicts == ()


def test_a_port_that_something_else_listens_on() -> None:
    busy = Others(listening=frozenset({("tcp", 80)}))
    assert conflicts(PAGE, None, others=busy) == (
        "testpage:80: something else listens on port 80/tcp",
    )
    assert conflicts(PAGE, None, others=Others(listening=frozenset({("udp", 80)}))) == ()
    assert conflicts(PAGE, PAGE, others=busy) == ()  # it is this page that listens


def test_a_vip_that_is_elsewhere_already() -> None:
    others = Others(addresses=(("192.0.2.1", "eth3"), ("10.0.0.1", "eth0")))
    assert stray_addresses({"192.0.2.1"}, [], [], others) == (
        "192.0.2.1 is on eth3, where the recipe does not put it",
    )
    here = Address(address="192.0.2.1/32", dev="eth3")
    assert stray_addresses({"192.0.2.1"}, [Resource(Address, here.key, here)], [], others) == ()


@pytest.fixture
def before(machines: dict[str, Machine]) -> Iterator[dict[str, str]]:
    """Every test's end: down leaves what was there before, foreign things included."""
    found: dict[str, str] = {}
    yield found
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == found


def refused(machines: dict[str, Machine], told: str, text: str | None = None) -> None:
    recipe = compiled(text) if text is not None else compiled()
    with Run(machines) as engine, pytest.raises(ConflictError, match=told) as raised:
        engine.up(recipe, "me")
    assert raised.value.exit_code == 1
    with Run(machines) as engine:
        assert any(plan.conflicts for plan in engine.plan(recipe).values())


@pytest.mark.parametrize("host", ["d", "s2"])
def test_up_refuses_a_vip_that_somebody_holds(
    machines: dict[str, Machine], before: dict[str, str], host: str
) -> None:
    """On a host that wants no VIP, and on another device of one that does."""
    machines[host].sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
    machines[host].sh("ip link add v0 type veth peer name v1")
    machines[host].sh("ip addr add 192.0.2.1/32 dev v0")
    before |= {name: machine.picture() for name, machine in machines.items()}
    if "192.0.2.1" not in before[host]:
        pytest.fail("this machine can make no device to put the address on")
    refused(machines, f"{host}: 192.0.2.1 is on v0")
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_up_refuses_a_file_of_other_content_unless_it_is_adopted(
    machines: dict[str, Machine], before: dict[str, str]
) -> None:
    machines["s1"].sh("umask 022; echo theirs >/run/page")
    before |= {name: machine.picture() for name, machine in machines.items()}
    refused(machines, "s1: file:/run/page: there is a file of other content")
    with Run(machines) as engine:
        assert not engine.up(compiled(), "me", adopt=True).failed
    assert machines["s1"].sh("cat /run/page") == "hello\n"
    assert up(machines) == 0
    down(machines)
    assert machines["s1"].sh("cat /run/page; stat -c %a /run/page") == "theirs\n644\n"


def test_what_is_foreign_and_not_in_the_way_is_left_alone(
    machines: dict[str, Machine], before: dict[str, str]
) -> None:
    machines["s1"].sh("ip addr add 192.0.2.77/32 dev lo; ip route add 203.0.113.0/24 dev lo")
    before |= {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    assert "192.0.2.77/32" in machines["s1"].picture()
    assert "203.0.113.0/24" in machines["s1"].picture()
