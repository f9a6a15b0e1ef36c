from __future__ import annotations

import msgspec
import pytest

from lvsfab.errors import InputError
from lvsfab.model import ForwardingMethod
from lvsfab.states.base import changes
from lvsfab.states.ipvs import parse_rules, thresholds
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState
from tests.unit.states.state_helpers import captured, journalled, said

SAVED = captured("ipvsadm-save")
NAT, DR, TUN = ForwardingMethod.NAT, ForwardingMethod.DR, ForwardingMethod.TUN
SERVICE = "tcp:10.1.1.10:80"


def service(key: str) -> VirtualServiceState:
    found = VirtualServiceState.parse(key, SAVED)
    assert found is not None
    assert found.key == key
    return found


def server(key: str, more: str = "") -> RealServerState:
    found = RealServerState.parse(key, SAVED + more)
    assert found is not None
    assert found.key == key
    return found


def test_every_saved_line_is_read() -> None:
    assert len(parse_rules(SAVED)) == len(SAVED.splitlines())


def test_saved_service_comes_back_by_its_own_commands() -> None:
    """The rules that ipvsadm saved are what our commands would make."""
    rules = {rule.service: rule for rule in parse_rules(SAVED) if rule.verb == "-A"}
    assert len(rules) == 10
    for key in rules:
        (line,) = said(None, journalled(service(key)), VirtualServiceState, key)
        made = parse_rules(line.removeprefix("ipvsadm ").replace("'", ""))
        assert [rule.service for rule in made] == [key]
        again = VirtualServiceState.parse(key, line.removeprefix("ipvsadm ").replace("'", ""))
        assert again == msgspec.structs.replace(service(key), servers=())


def test_saved_servers_come_back_by_their_own_commands() -> None:
    keys = [f"{r.service}->{r.server}" for r in parse_rules(SAVED) if r.verb == "-a"]
    assert len(keys) == 7
    for key in keys:
        (line,) = said(None, journalled(server(key)), RealServerState, key)
        assert RealServerState.parse(key, line.removeprefix("ipvsadm ").replace("'", "")) == server(
            key
        )


def test_whole_fields_never_substrings() -> None:
    assert service("tcp:10.1.1.10:80").scheduler == "rr"
    assert service("tcp:10.1.1.100:80").scheduler == "wrr"
    assert VirtualServiceState.parse("tcp:0.1.1.100:80", SAVED) is None
    assert VirtualServiceState.parse("udp:10.1.1.100:80", SAVED) is None
    assert server(f"{SERVICE}->10.1.1.11:80").weight == 100
    assert RealServerState.parse(f"{SERVICE}->10.1.1.1:80", SAVED) is None


def test_service_states_every_field_on_an_edit() -> None:
    have = service("tcp:10.1.1.100:80")
    want = VirtualServiceState(address="10.1.1.100", port=80, scheduler="rr")
    found = {c.field: (c.have, c.want) for c in changes(want, have)}
    assert found["scheduler"] == ("wrr", "rr")
    assert found["persistence"] == ("300", "0")
    assert said(have, want, VirtualServiceState, want.key) == ["ipvsadm -E -t 10.1.1.100:80 -s rr"]
    assert said(have, journalled(have), VirtualServiceState, have.key) == []
    assert said(want, journalled(have), VirtualServiceState, have.key) == [
        "ipvsadm -E -t 10.1.1.100:80 -s wrr -p 300 -M 255.255.255.0"
    ]
    assert said(have, None, VirtualServiceState, have.key) == ["ipvsadm -D -t 10.1.1.100:80"]


def test_service_ways_to_write_the_same() -> None:
    for mask in ("24", "/24", "255.255.255.0"):
        want = VirtualServiceState(
            address="10.1.1.100", port=80, scheduler="wrr", persistence=300, netmask=mask
        )
        assert changes(want, service(want.key)) == ()
    flags = VirtualServiceState(
        address="fd00:1::100", port=80, scheduler="sh", flags=("sh-port", "sh-fallback")
    )
    assert changes(flags, service("tcp:[fd00:1::100]:80")) == ()


def test_service_by_mark_in_both_families() -> None:
    assert said(None, service("fwm:5"), VirtualServiceState, "fwm:5") == [
        "ipvsadm -A -f 5 -s mh -b flag-2"
    ]
    six = service("fwm6:5")
    assert (six.ipv6, six.persistence, six.netmask) == (True, 60, "64")
    assert said(six, None, VirtualServiceState, "fwm6:5") == ["ipvsadm -D -f 5 -6"]


def test_server_states_every_field_on_an_edit() -> None:
    key = f"{SERVICE}->10.1.1.1:8080"
    have = server(key, captured("ipvsadm-thresholds"))
    assert (have.upper, have.lower, have.weight) == (10, 5, 1)
    want = RealServerState(service=SERVICE, address="10.1.1.1", port=8080, method=NAT, weight=0)
    assert [c.field for c in changes(want, have)] == ["weight", "upper", "lower"]
    assert said(have, want, RealServerState, key) == [
        "ipvsadm -e -t 10.1.1.10:80 -r 10.1.1.1:8080 -m -w 0 -x 0 -y 0"
    ]
    assert said(want, journalled(have), RealServerState, key) == [
        "ipvsadm -e -t 10.1.1.10:80 -r 10.1.1.1:8080 -m -w 1 -x 10 -y 5"
    ]
    assert said(have, None, RealServerState, key) == ["ipvsadm -d -t 10.1.1.10:80 -r 10.1.1.1:8080"]


def test_a_server_of_another_method_is_away_while_its_connections_end() -> None:
    have = RealServerState(service=SERVICE, address="10.1.1.9", method=TUN)
    want = RealServerState(service=SERVICE, address="10.1.1.9", method=DR)
    at = "-t 10.1.1.10:80 -r 10.1.1.9:80"
    assert said(have, want, RealServerState, have.key) == [
        f"ipvsadm -d {at}",
        "nap 0.5",
        f"ipvsadm -a {at} -g -w 1 -x 0 -y 0",
    ]


def test_server_weight_zero_is_a_value() -> None:
    want = RealServerState(service=SERVICE, address="10.1.1.9", method=DR, weight=0)
    assert {c.field: c.want for c in changes(want, None)} == {"method": "dr", "weight": "0"}
    have = server("tcp:10.1.1.100:80->10.1.1.67:80")
    assert have.weight == 0
    assert (have.tun_type, have.tun_port, have.tun_checksum) == ("gue", 6080, "no")


def test_server_tunnels() -> None:
    gue = RealServerState(
        service=SERVICE, address="10.1.1.9", method=TUN, tun_type="gue", tun_port=6080
    )
    (line,) = said(None, gue, RealServerState, gue.key)
    assert line.endswith("-i -w 1 -x 0 -y 0 --tun-type gue --tun-port 6080 --tun-nocsum")
    assert server("tcp:10.1.1.100:80->10.1.1.68:80").tun_checksum == "yes"


def test_thresholds_of_whole_servers() -> None:
    found = thresholds(captured("ipvsadm-thresholds"))
    assert found == {"10.1.1.1:8080": (10, 5), "10.1.1.11:80": (0, 0)}


def test_absent() -> None:
    assert VirtualServiceState.parse(SERVICE, "") is None
    assert RealServerState.parse(f"{SERVICE}->10.1.1.1:80", "") is None


def test_ports_are_translated_by_nat_alone() -> None:
    RealServerState(service=SERVICE, address="10.1.1.1", port=8080, method=NAT)
    RealServerState(service="fwm:5", address="10.1.1.1", port=8080, method=DR)
    for method in (DR, TUN):
        with pytest.raises(InputError, match="only NAT can"):
            RealServerState(service=SERVICE, address="10.1.1.1", port=8080, method=method)


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "10.1.1.1", "port": 0},
        {"address": "10.1.1.1", "port": 70000},
        {"address": "x; id", "port": 80},
        {"address": "10.1.1.1", "port": 80, "scheduler": "r r"},
        {"address": "10.1.1.1", "port": 80, "netmask": "255.255.255.0"},
        {"address": "10.1.1.1", "port": 80, "netmask": "wide", "persistence": 5},
        {"address": "10.1.1.1", "port": 80, "ops": True},
        {"protocol": "fwmark"},
        {"protocol": "fwmark", "mark": 5, "port": 80},
    ],
)
def test_service_input(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        VirtualServiceState(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["tcp:10.1.1.1", "http:10.1.1.1:80", "fwm:0", "fwm:05", "tcp:x:80"])
def test_server_of_no_service(key: str) -> None:
    with pytest.raises(InputError):
        RealServerState(service=key, address="10.1.1.1", method=NAT)
