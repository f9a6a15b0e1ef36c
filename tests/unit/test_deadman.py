"""No lock-out: which steps are dangerous, and a host that takes them back by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from lvsfab import apply, deadman, session
from lvsfab.deadman import danger
from lvsfab.engine import Engine, Event
from lvsfab.errors import AnswerError, CutOffError, UnreachableError
from lvsfab.model import ForwardingMethod, Inventory
from lvsfab.outcome import Outcome
from lvsfab.plan import Step
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from lvsfab.states.address import Address
from lvsfab.states.arptables import ArptablesRule
from lvsfab.states.base import Resource, State, Way, changes
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState
from lvsfab.states.keepalived import KeepalivedConfig
from lvsfab.states.link import Link
from lvsfab.states.nft import NftTable
from lvsfab.states.route import Route
from lvsfab.states.service import Service
from lvsfab.states.sysctl import Sysctl
from tests.unit.local import LocalChannel
from tests.unit.test_engine import HOSTS, NAME, Machine, compiled

FAR = Way(
    ip_address("203.0.113.9"), ip_address("10.9.0.2"), "m0", ip_address("10.9.0.1"), 0, port=22
)
NEAR = Way(ip_address("10.9.0.1"), ip_address("10.9.0.2"), "m0", None, 24, port=22)


def step(want: State | None, have: State | None = None) -> Step:
    some = want if want is not None else have
    assert some is not None
    commands = type(some).commands(some.key, have, want)
    return Step(Resource(type(some), some.key, want), have, changes(want, have), commands)


def address(text: str, dev: str = "m0") -> Address:
    return Address(address=text, dev=dev)


def ipvs(address: str, port: int, protocol: str = "tcp") -> VirtualServiceState:
    return VirtualServiceState(protocol=protocol, address=address, port=port, persistence=9)  # type: ignore[arg-type]


def server(service: str) -> RealServerState:
    return RealServerState(service=service, address="10.5.0.1", method=ForwardingMethod.NAT)


def keepalived(vip: str, service: str = "192.0.2.1 80", words: str = "") -> KeepalivedConfig:
    return KeepalivedConfig(
        content=f"""\
global_defs {{ router_id 10.9.0.2 }}
vrrp_instance outside {{
    unicast_src_ip 10.9.0.2
    unicast_peer {{ 10.9.0.1 }}
    virtual_ipaddress {{
        # 10.9.0.2/32
        {vip} dev m0
    }}
}}
virtual_server {service} {{
    delay_loop 6
    {words}
    real_server 10.5.0.1 22 {{
        weight 1
    }}
}}
virtual_server 192.0.2.1 53 {{
    protocol UDP
}}
"""
    )


ARP = "chain c {{ type filter hook input priority 0; policy accept; arp daddr ip {} drop }}"


@pytest.mark.parametrize(
    ("what", "far", "near"),
    [
        (step(address("192.0.2.1/32")), False, False),  # a VIP beside what is there
        (step(None, address("10.9.0.2/24")), True, True),
        (step(None, address("192.0.2.1/32", "lo")), False, False),
        (step(address("10.9.0.2/32", "lo")), True, True),
        (step(address("203.0.113.9/32", "lo")), True, False),
        (step(address("10.9.0.7/25", "v0")), True, True),  # a closer network leads away
        (step(address("172.16.0.1/16", "v0")), False, False),
        (step(Route(to="default", via="10.9.0.250")), True, False),
        (step(Route(to="198.51.100.0/24", via="10.9.0.250")), False, False),
        (step(Route(to="203.0.113.0/24", via="10.9.0.250")), True, False),
        (step(Route(to="10.9.0.0/28", dev="v0")), True, True),
        (step(Route(to="::/0", via="fd00::1")), False, False),
        (step(Link(name="m0", up=False), Link(name="m0", up=True)), True, True),
        (step(Link(name="m0", mtu=600), Link(name="m0", mtu=1500)), True, True),
        (step(Link(name="m0", up=True), Link(name="m0", up=False)), False, False),
        (step(Link(name="tunl0", up=True), Link(name="tunl0", up=False)), False, False),
        (step(NftTable(family="inet", name="t", content="chain c { drop; }")), True, True),
        (step(NftTable(family="ip6", name="t", content="chain c { drop; }")), False, False),
        (step(NftTable(family="arp", name="t", content=ARP.format("192.0.2.1"))), False, False),
        (step(NftTable(family="arp", name="t", content=ARP.format("10.9.0.2"))), True, True),
        (step(ArptablesRule(chain="INPUT", destination="192.0.2.1", target="DROP")), False, False),
        (step(ArptablesRule(chain="INPUT", destination="10.9.0.2", target="DROP")), True, True),
        (step(ArptablesRule(chain="INPUT", device="v0", target="DROP")), False, False),
        (step(Sysctl(name="net.ipv4.conf.all.rp_filter", value="1")), True, True),
        (step(Sysctl(name="net.ipv4.conf.m0.rp_filter", value="2")), False, False),
        (step(Sysctl(name="net.ipv4.conf.all.arp_ignore", value="1")), False, False),
        (step(Sysctl(name="net.ipv4.conf.all.arp_ignore", value="8")), True, True),
        (step(Sysctl(name="net.ipv4.ip_forward", value="1")), False, False),
        (step(Service(name="ssh", running=False), Service(name="ssh", running=True)), True, True),
        (step(Service(name="keepalived", running=True)), False, False),
        (step(ipvs("10.9.0.2", 22)), True, True),
        (step(None, ipvs("10.9.0.2", 22)), True, True),
        (step(ipvs("10.9.0.2", 0)), True, True),
        (step(ipvs("10.9.0.2", 80)), False, False),
        (step(ipvs("10.9.0.2", 0, "udp")), False, False),
        (step(ipvs("192.0.2.1", 22)), False, False),
        (step(VirtualServiceState(protocol="fwmark", mark=5)), False, False),
        (step(server("tcp:10.9.0.2:22")), True, True),
        (step(None, server("tcp:10.9.0.2:0")), True, True),
        (step(server("tcp:10.9.0.2:80")), False, False),
        (step(server("fwm:22")), False, False),
        (step(keepalived("192.0.2.1/32")), False, False),
        (step(keepalived("10.9.0.2/32")), True, True),
        (step(None, keepalived("10.9.0.2")), True, True),
        (step(keepalived("192.0.2.1/32"), keepalived("10.9.0.2/32")), True, True),
        (step(keepalived("203.0.113.9/32")), True, False),
        (step(keepalived("10.9.0.1/32")), True, True),
        (step(keepalived("192.0.2.1/32", "10.9.0.2 22")), True, True),
        (step(keepalived("192.0.2.1/32", "10.9.0.2 0", "protocol TCP")), True, True),
        (step(keepalived("192.0.2.1/32", "10.9.0.2 0", "protocol UDP")), False, False),
        (step(keepalived("192.0.2.1/32", "fwmark 22")), False, False),
    ],
    ids=lambda value: f"{value.id}" if isinstance(value, Step) else str(value),
)
def test_what_could_cut_the_controller_off(what: Step, far: bool, near: bool) -> None:
    assert bool(danger(what, FAR)) is far
    assert bool(danger(what, NEAR)) is near


@pytest.mark.parametrize(
    ("what", "cuts"),
    [
        (step(Link(name="eth0", up=False), Link(name="eth0", up=True)), True),
        (step(Link(name="eth0", mtu=600), Link(name="eth0", mtu=1500)), True),
        (step(None, Link(name="bond0", type="bond")), True),
        (step(Link(name="eth0", up=True), Link(name="eth0", up=False)), False),
        (step(None, address("192.0.2.9/24", "eth0")), True),  # a VXLAN would be sent from it
        (step(address("192.0.2.9/24", "eth0")), False),
        (step(Link(name="eth1", up=False), Link(name="eth1", up=True)), False),
    ],
    ids=lambda value: f"{value.id}" if isinstance(value, Step) else str(value),
)
def test_what_is_below_the_device_on_the_way_is_on_it_too(what: Step, cuts: bool) -> None:
    way = Way(NEAR.peer, NEAR.local, "br0", None, 24, ("bond0", "eth0"))
    assert bool(danger(what, way)) is cuts
    assert not danger(what, NEAR)


def test_a_host_that_does_not_know_how_it_is_reached_guards_nothing() -> None:
    assert deadman.parse("") is None
    assert deadman.parse("ssh nonsense\nget \n") is None
    assert [why for why, _ in deadman.parts([step(None, address("10.9.0.2/24"))], None)] == [""]


def test_the_way_is_read_from_what_ip_says() -> None:
    said = (
        "ssh 203.0.113.9 10.9.0.2 22\n"
        "get 203.0.113.9 via 10.9.0.1 dev m0 src 10.9.0.2 uid 0 \\    cache\n"
        "below m1 eth0\nmatch\ndefault via 10.9.0.1 dev m0 \n203.0.112.0/20 via 10.9.0.1 dev m0 \n"
    )
    found = deadman.parse(said)
    assert found == Way(FAR.peer, FAR.local, "m0", FAR.via, 20, ("m1", "eth0"), 22)


ADDRESS = """\
name: mine
title: for these tests
steps:
  - on: director
    do:
      - sysctl: {name: net.ipv4.ip_forward, value: 1}
      - address: {address: %s, dev: m0, absent: %s}
      - sysctl: {name: net.ipv4.conf.all.arp_ignore, value: 1}
"""
HARMLESS = ADDRESS % ("192.0.2.1/32", "false")
CUTTING = ADDRESS % ("10.9.0.2/24", "true")


@dataclass
class Reached:
    """A machine that is reached at 10.9.0.2 on m0 (`dev`), from 10.9.0.1, and by no other way."""

    machine: Machine
    events: list[Event] = field(default_factory=list)
    handshakes: int = 0
    words: str = ""
    dev: str = "m0"

    def connect(self, host: str) -> Shell:
        way = self.machine.sh("ip route get 10.9.0.1 from 10.9.0.2")
        if f"dev {self.dev}" not in way or "NO-CARRIER" in self.machine.sh("ip link show dev br0"):
            raise UnreachableError(host, "no answer")
        self.handshakes += 1
        words = ["env", "SSH_CONNECTION=10.9.0.1 40000 10.9.0.2 22", "sh", "-s"]
        return Shell(host, LocalChannel([*self.machine.enter, *words]), prelude() + self.words)

    def up(self, text: str) -> Outcome:
        whole = compiled(text)
        inventory = Inventory(NAME, {"d": HOSTS["d"]})
        with Engine(NAME, self.connect, self.events.append) as engine:
            return engine.up(
                type(whole)(whole.recipe, inventory, whole.parameters, whole.phases, whole.cluster),
                "me",
            )

    def down(self) -> None:
        with Engine(NAME, self.connect, self.events.append) as engine:
            assert not engine.down(("d",), "me").failed


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    monkeypatch.setattr(deadman, "LIMIT", 4)
    monkeypatch.setattr(apply, "GRACE", 10.0)
    machine = Machine("d")
    machine.sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
    machine.sh("ip link add m0 type veth peer name m1; ip link set m1 up; ip link set m0 up")
    machine.sh("ip addr add 10.9.0.2/24 dev m0; ip addr add 10.9.0.3/24 dev m0")
    machine.sh("ip route add 198.51.100.0/24 via 10.9.0.1")
    yield Reached(machine)
    machine.close()


def test_an_ordinary_run_pays_nothing(reached: Reached) -> None:
    assert not reached.up(HARMLESS).failed
    assert reached.handshakes == 1


def test_a_host_whose_way_is_cut_takes_it_back(reached: Reached) -> None:
    before = reached.machine.picture()
    began = time.monotonic()
    outcome = reached.up(CUTTING)
    error = outcome.failed["d"]
    assert isinstance(error, CutOffError)
    assert "cut this controller off" in str(error)
    assert "the host undid it by itself and is as it was" in str(error)
    assert time.monotonic() - began < 4 + 10
    assert "10.9.0.3/24" in reached.machine.sh("ip addr")  # it went with its subnet's first
    assert "198.51.100.0/24 via 10.9.0.1" in reached.machine.sh("ip route")
    assert [e.step.id for e in reached.events if e.step] == [
        "sysctl:net.ipv4.ip_forward", "address:10.9.0.2@m0",
    ]  # fmt: skip
    reached.down()
    assert sorted(reached.machine.picture().split("\n")) == sorted(before.split("\n"))


BESIDE = """
cd /proc/sys/net/ipv6/conf/m0; echo 0 >accept_dad; echo 0 >disable_ipv6
ip addr add 10.9.0.4/24 brd + label m0:x dev m0
ip addr add 10.8.0.1 peer 10.8.0.2/32 dev m0
ip addr add fd00::5/64 dev m0
ip addr add fd00::6/128 dev m0 nodad preferred_lft 0
ip route add 10.7.0.1 dev m0
ip route add 10.6.0.0/16 via 10.7.0.1 dev m0 src 10.9.0.4
ip route add default via 10.9.0.1 table 100
ip -6 route add fd07::/32 via fd00::1 table 100
ip -6 route add unreachable fd08::/32
"""
SEEN = (
    "ip -o addr show dev m0; ip -o -4 route show table all; ip -o -6 route show table all; "
    "ip route get 10.6.0.1"
)


@pytest.mark.parametrize(
    "what",
    ["address: {address: 10.9.0.2/24, dev: m0, absent: true}", "link: {name: m0, up: false}"],
    ids=["address", "link"],
)
def test_what_the_kernel_took_along_comes_back_as_it_was(reached: Reached, what: str) -> None:
    reached.machine.sh(BESIDE)
    before = reached.machine.sh(SEEN)
    text = f"name: mine\ntitle: t\nsteps:\n  - on: director\n    do:\n      - {what}\n"
    assert isinstance(reached.up(text).failed["d"], CutOffError)
    assert sorted(reached.machine.sh(SEEN).split("\n")) == sorted(before.split("\n"))


DAEMON = """
mount -t tmpfs t /etc && mkdir -p /etc/init.d /etc/keepalived
mount -t tmpfs t /usr/local/sbin && cp /bin/true /usr/local/sbin/keepalived
cat >/etc/init.d/keepalived <<'E'
#!/bin/sh
case $1 in # (status)
start) : >/run/on; { sleep 2; ip addr del 10.9.0.2/24 dev m0; } >/dev/null 2>&1 & ;;
stop) rm -f /run/on ;;
status) [ -e /run/on ] ;;
esac
E
chmod +x /etc/init.d/keepalived
"""
VRRP = """\
name: mine
title: for these tests
steps:
  - on: director
    do:
      - keepalived: {content: "vrrp_instance a {\\n virtual_ipaddress {\\n 10.9.0.2/32\\n }\\n}\\n"}
      - sysctl: {name: net.ipv4.conf.all.arp_ignore, value: 1}
      - service: {name: keepalived, running: true}
"""


def test_a_daemon_whose_package_came_with_it_is_stopped() -> None:
    """The switch takes steps back alone; `down` takes the package away, and the service with it."""
    start = step(Service(name="keepalived", running=True, enabled=True))
    assert [str(c) for c in deadman.reverse(start)] == ["service keepalived stop"]
    assert Service.commands("keepalived", start.resource.state, None) == ()  # type: ignore[arg-type]


def test_what_a_daemon_does_later_is_waited_for(reached: Reached) -> None:
    """keepalived's configuration cuts nothing off by itself; its start does, after a while."""
    reached.machine.sh(DAEMON)
    before = reached.machine.picture()
    error = reached.up(VRRP).failed["d"]
    assert isinstance(error, CutOffError)
    assert "keepalived moves 10.9.0.2, which is on the way to this controller" in str(error)
    assert "the host undid it by itself and is as it was" in str(error)
    assert reached.machine.sh("ls /run/on /etc/keepalived") == "/etc/keepalived:\n"
    reached.down()
    assert sorted(reached.machine.picture().split("\n")) == sorted(before.split("\n"))


def test_a_port_of_the_bridge_on_the_way_is_taken_back_too(reached: Reached) -> None:
    sh = reached.machine.sh
    sh("mount -t sysfs s /sys; ip link add br0 type bridge; ip link set br0 up; ip addr flush m0")
    sh("ip link set m0 master br0; ip addr add 10.9.0.2/24 dev br0")
    if "lower_m0" not in sh("ls /sys/class/net/br0"):
        pytest.skip("no bridge, or no /sys of its own, in a namespace of this machine")
    reached.dev = "br0"
    text = "name: mine\ntitle: t\nsteps:\n  - on: director\n    do: [link: {name: m0, up: false}]\n"
    error = reached.up(text).failed["d"]
    assert "m0 is below br0, the device that leads to this controller" in str(error)
    assert "the host undid it by itself and is as it was" in str(error)


def test_a_dangerous_step_that_cuts_nothing_stays(reached: Reached) -> None:
    text = CUTTING.replace("10.9.0.2/24", "10.9.0.3/24")
    assert not reached.up(text).failed
    assert reached.handshakes == 2  # a new connection said so
    assert "10.9.0.3" not in reached.machine.sh("ip addr")
    time.sleep(6)
    assert "10.9.0.3" not in reached.machine.sh("ip addr")
    assert "deadman" not in reached.machine.sh("ls /run/lvsfab")
    reached.down()
    assert "10.9.0.3" in reached.machine.sh("ip addr")


TALKS = """
ip() {
  command ip "$@"; i_status=$?
  case "$1 $2" in "addr del" | "address del") head -c 300000 /dev/zero | tr '\\0' '\\n' ;; esac
  return $i_status
}
"""


def test_a_dangerous_step_whose_answer_cannot_be_read(
    reached: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cut nothing: the switch is disarmed, and the error says which step it was."""
    monkeypatch.setattr(session, "MAX_RECORD", 100_000)
    reached.words = TALKS
    outcome = reached.up(CUTTING.replace("10.9.0.2/24", "10.9.0.3/24"))
    error = outcome.failed["d"]
    assert isinstance(error, AnswerError)
    assert str(error).startswith("d: address:10.9.0.3@m0: more than 100000 bytes in one answer")
    assert "a new one works, so the change stands" in str(error)
    assert "deadman" not in reached.machine.sh("ls /run/lvsfab")
    time.sleep(6)
    assert "10.9.0.3" not in reached.machine.sh("ip addr")
    reached.words = ""
    reached.down()
    assert "10.9.0.3" in reached.machine.sh("ip addr")


def test_a_controller_that_dies_before_it_confirms_is_undone_too(reached: Reached) -> None:
    """The next run waits for the switch, and then finds what was there before."""

    def dies(host: str) -> Shell:
        if reached.handshakes:
            raise KeyboardInterrupt
        return reached.connect(host)

    inventory = Inventory(NAME, {"d": HOSTS["d"]})
    whole = compiled(CUTTING.replace("10.9.0.2/24", "10.9.0.3/24"))
    alone = type(whole)(whole.recipe, inventory, whole.parameters, whole.phases, whole.cluster)
    with pytest.raises(KeyboardInterrupt), Engine(NAME, dies, reached.events.append) as engine:
        engine.up(alone, "me")
    assert "10.9.0.3" not in reached.machine.sh("ip addr")
    reached.down()
    assert "10.9.0.3" in reached.machine.sh("ip addr")
    assert reached.machine.sh("ls -d /run/lvsfab") == ""
