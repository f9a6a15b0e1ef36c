"""link, address, route, fou."""

from __future__ import annotations

import json

import pytest

from lvsfab.errors import InputError
from lvsfab.states.address import Address
from lvsfab.states.base import UnsupportedError, changes
from lvsfab.states.fou import Fou
from lvsfab.states.link import Link
from lvsfab.states.route import Route
from tests.unit.states.state_helpers import captured, journalled, said


def test_link_of_a_module_is_never_added_or_deleted() -> None:
    want = Link(name="tunl0", up=True, mtu=1480)
    assert said(None, want, Link, "tunl0") == [
        "ip link set dev tunl0 mtu 1480",
        "ip link set dev tunl0 up",
    ]
    have = Link.parse("tunl0", captured("link-tunl0"))
    assert have is not None
    assert (have.type, have.up, have.mtu, have.remote) == ("ipip", True, 1480, "any")
    assert changes(want, have) == ()
    assert said(have, None, Link, "tunl0") == ["ip link set dev tunl0 down"]


def test_link_of_our_own() -> None:
    want = Link(name="t9", type="ipip", local="10.1.1.250", remote="10.1.1.1", up=True)
    assert said(None, want, Link, "t9") == [
        "ip link add name t9 type ipip local 10.1.1.250 remote 10.1.1.1",
        "ip link set dev t9 up",
    ]
    have = Link.parse("t9", captured("link-t9"))
    assert have is not None
    assert [c.field for c in changes(want, have)] == ["up"]
    assert said(have, None, Link, "t9") == ["ip link del dev t9"]


def test_link_drift_states_every_detail() -> None:
    have = Link.parse("t9", captured("link-t9"))
    want = Link(name="t9", type="ipip", remote="10.1.1.2")
    assert said(have, want, Link, "t9") == [
        "ip link set dev t9 type ipip local 10.1.1.250 remote 10.1.1.2"
    ]
    assert said(have, Link(name="t9", type="gre", local="10.1.1.250"), Link, "t9") == [
        "ip link del dev t9",
        "ip link add name t9 type gre local 10.1.1.250 remote any",
    ]


def test_link_undo_puts_back_what_was() -> None:
    before = Link.parse("t9", captured("link-t9"))
    assert before is not None
    now = Link(name="t9", type="ipip", up=True, mtu=1400, local="10.1.1.250", remote="10.1.1.9",
               mode=before.mode, encap="none")  # fmt: skip
    assert said(now, journalled(before), Link, "t9") == [
        "ip link set dev t9 type ipip local 10.1.1.250 remote 10.1.1.1",
        "ip link set dev t9 mtu 1480",
        "ip link set dev t9 down",
    ]


def test_link_reader_without_json() -> None:
    assert Link.parse("eth9", "") is None
    with pytest.raises(UnsupportedError, match="unrecognized option"):
        Link.parse("eth0", "unsupported ip: unrecognized option: j\n")


def test_link_input() -> None:
    for fields in ({"name": "a b"}, {"name": "tunl0", "type": "gre"}, {"name": "x", "mtu": 3},
                   {"name": "-x"}, {"name": "x", "local": "$(id)"}):  # fmt: skip
        with pytest.raises(InputError):
            Link(**fields)


def addresses(*infos: dict[str, object], dev: str = "eth0") -> str:
    return json.dumps([{"ifname": dev, "addr_info": list(infos)}])


FOREVER = {"valid_life_time": 4294967295, "preferred_life_time": 4294967295}
VIP = {"family": "inet", "local": "10.1.1.100", "prefixlen": 32, "scope": "global",
       "label": "eth0", **FOREVER}  # fmt: skip


def test_address_absent_correct_drifted() -> None:
    want = Address(address="10.1.1.100/32", dev="eth0", announce=True)
    key = want.key
    assert key == "10.1.1.100@eth0"
    assert Address.parse(key, "") is None
    assert said(None, want, Address, key) == [
        "ip address add 10.1.1.100/32 dev eth0",
        "announce_address eth0 10.1.1.100",
    ]
    have = Address.parse(key, addresses(VIP))
    assert changes(want, have) == ()
    assert said(have, None, Address, key) == ["ip address del 10.1.1.100/32 dev eth0"]
    wide = Address.parse(key, addresses({**VIP, "prefixlen": 24}))
    assert [c.field for c in changes(want, wide)] == ["address"]
    assert said(wide, want, Address, key)[0] == "ip address del 10.1.1.100/24 dev eth0"


def test_address_is_whole_never_a_substring() -> None:
    for other in ("110.1.1.100", "10.1.1.10"):
        assert Address.parse("10.1.1.100@eth0", addresses({**VIP, "local": other})) is None


def test_address_undo_restores_every_attribute() -> None:
    info = {"family": "inet", "local": "10.1.1.7", "prefixlen": 24, "broadcast": "10.1.1.255",
            "scope": "site", "label": "eth0:x", "noprefixroute": True, "metric": 50,
            "valid_life_time": 900, "preferred_life_time": 300}  # fmt: skip
    before = Address.parse("10.1.1.7@eth0", addresses(info))
    assert before is not None
    now = Address.parse("10.1.1.7@eth0", addresses({**VIP, "local": "10.1.1.7"}))
    former = (
        "ip address add 10.1.1.7/24 brd 10.1.1.255 metric 50 scope site label eth0:x "
        "noprefixroute dev eth0 valid_lft 900 preferred_lft 300"
    )
    assert said(now, journalled(before), Address, "10.1.1.7@eth0") == [
        "ip address del 10.1.1.7/32 dev eth0",
        former,
    ]
    later = Address.parse("10.1.1.7@eth0", addresses({**info, "valid_life_time": 899}))
    assert changes(before, later) == ()


def test_address_with_a_peer() -> None:
    info = {"family": "inet", "local": "10.0.0.1", "address": "10.0.0.2", "prefixlen": 32,
            "scope": "global", "label": "ppp0", **FOREVER}  # fmt: skip
    before = Address.parse("10.0.0.1@ppp0", addresses(info, dev="ppp0"))
    assert said(None, before, Address, "10.0.0.1@ppp0") == [
        "ip address add 10.0.0.1 peer 10.0.0.2/32 scope global dev ppp0"
    ]
    assert said(before, None, Address, "10.0.0.1@ppp0") == [
        "ip address del 10.0.0.1 peer 10.0.0.2/32 dev ppp0"
    ]


def test_address_of_ipv6_vip_is_not_probed_for_duplicates() -> None:
    want = Address(address="fd00::100/128", dev="lo", deprecated=True)
    assert said(None, want, Address, want.key) == [
        "ip address add fd00::100/128 dev lo nodad preferred_lft 0"
    ]
    own = Address(address="fd00::1/64", dev="eth0")
    assert said(None, own, Address, own.key) == ["ip address add fd00::1/64 dev eth0"]


def test_address_input() -> None:
    for address, dev in (("10.1.1.100", "eth0"), ("10.1.1.300/32", "eth0"), ("x", "eth0"),
                         ("10.1.1.1/32", "e th0"), ("fe80::1%eth0/64", "eth0")):  # fmt: skip
        with pytest.raises(InputError):
            Address(address=address, dev=dev)
    with pytest.raises(InputError):
        Address(address="10.1.1.1/32", dev="lo", label="eth0:1")


DHCP = "default via 10.1.1.254 dev eth0 proto dhcp src 10.1.1.1 metric 100 \n"
STATIC = "default via 10.1.1.254 dev eth0 proto static onlink linkdown \n"


def test_route_absent_correct_drifted() -> None:
    want = Route(to="default", via="10.1.1.250", dev="eth0")
    key = want.key
    assert key == "0.0.0.0/0"
    add = "ip -4 route add default via 10.1.1.250 dev eth0"
    assert said(None, want, Route, key) == [add]
    assert Route.parse(key, DHCP) is None  # of another metric: it stays beside ours
    have = Route.parse(key, DHCP + STATIC)
    assert [c.field for c in changes(want, have)] == ["via"]
    assert said(have, want, Route, key) == [add.replace("add", "replace")]
    assert changes(Route(to="default", via="10.1.1.254"), have) == ()


def test_route_undo_is_word_by_word() -> None:
    before = Route.parse("0.0.0.0/0", STATIC)
    assert before is not None
    now = Route.parse("0.0.0.0/0", "default via 10.1.1.250 dev eth0 \n")
    assert said(now, journalled(before), Route, "0.0.0.0/0") == [
        "ip -4 route replace default via 10.1.1.254 dev eth0 proto static onlink"
    ]
    assert said(now, None, Route, "0.0.0.0/0") == [
        "ip -4 route del default via 10.1.1.250 dev eth0"
    ]


def test_route_of_several_next_hops_and_of_a_next_hop_object() -> None:
    hops = "default proto bird \\\tnexthop via 10.0.0.1 dev e0 weight 1 \\\tnexthop via 10.0.0.2 dev e1 weight 2 \n"  # noqa: E501
    many = Route.parse("0.0.0.0/0", hops)
    assert many is not None
    assert many.line == (
        "default proto bird nexthop via 10.0.0.1 dev e0 weight 1 "
        "nexthop via 10.0.0.2 dev e1 weight 2"
    )
    one = Route.parse("0.0.0.0/0", "default nhid 5 via 10.0.0.1 dev e0 proto static \n")
    assert one is not None
    assert one.line == "default nhid 5 proto static"


def test_route_ipv6_table_metric() -> None:
    want = Route(to="::/0", via="fd00::1", table=100, metric=20)
    assert want.key == "::/0,table=100,metric=20"
    assert said(None, want, Route, want.key) == [
        "ip -6 route add default via fd00::1 metric 20 table 100"
    ]
    text = "default via fd00::1 dev e0 metric 1024 expires 30sec pref medium\n"
    have = Route.parse("::/0", text)
    assert have is not None
    assert have.line == "default via fd00::1 dev e0 metric 1024 pref medium"
    assert changes(Route(to="default", via="fd00:0::1"), have) == ()


def test_route_input() -> None:
    for fields in ({"to": "10.0.0.0/33", "dev": "e"}, {"to": "default"},
                   {"to": "10.0.0.0/8", "via": "fd00::1"}, {"to": "default", "via": "x"},
                   {"to": "default", "dev": "e", "table": "a b"}):  # fmt: skip
        with pytest.raises(InputError):
            Route(**fields)  # type: ignore[arg-type]


def test_fou() -> None:
    assert Fou.parse("6080", captured("fou")) == Fou(port=6080)
    assert Fou.parse("6081", captured("fou")) is None
    assert Fou.parse("6081,6", captured("fou")) == Fou(port=6081, ipv6=True)
    assert Fou.parse("608", captured("fou")) is None
    have = Fou.parse("6082", captured("fou"))
    assert said(have, Fou(port=6082), Fou, "6082") == [
        "ip -4 fou del port 6082",
        "ip -4 fou add port 6082 gue",
    ]
    assert said(Fou(port=6081, ipv6=True), None, Fou, "6081,6") == ["ip -6 fou del port 6081"]
