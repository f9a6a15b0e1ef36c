from __future__ import annotations

import pytest

from lvsfab.errors import InputError
from lvsfab.states.base import Change, changes
from lvsfab.states.sysctl import Sysctl, effective
from tests.unit.states.state_helpers import journalled, said

NAME = "net.ipv4.conf.tunl0.rp_filter"


def read(key: str, text: str) -> Sysctl | None:
    return Sysctl.parse(key, text)


def test_absent() -> None:
    assert read(NAME, "") is None
    want = Sysctl(name=NAME, value="0")
    assert changes(want, None) == (Change("value", "absent", "0"),)
    assert said(None, want, Sysctl, NAME) == [f"set_sysctl {NAME} 0"]
    assert Sysctl.commands(NAME, want, None) == ()


def test_correct() -> None:
    have = read(NAME, "value 2\nall 0\nforwarding 0\n")
    assert have is not None
    assert have.in_effect == "2"
    assert changes(Sysctl(name=NAME, value="2"), have) == ()


def test_conf_all_blocks_an_interfaces_value() -> None:
    have = read(NAME, "value 0\nall 1\nforwarding 0\n")
    (change,) = changes(Sysctl(name=NAME, value="0"), have)
    assert (change.field, change.want) == ("in effect", "0")
    assert change.have.startswith("1")


def test_drift_tells_the_value_and_that_it_will_have_no_effect() -> None:
    have = read(NAME, "value 2\nall 1\nforwarding 0\n")
    found = changes(Sysctl(name=NAME, value="0"), have)
    assert [c.field for c in found] == ["value", "in effect"]


def test_undo_restores_the_value_whatever_is_in_effect() -> None:
    before = read(NAME, "value 0\nall 1\nforwarding 0\n")
    assert before is not None
    before = journalled(before)
    now = read(NAME, "value 2\nall 2\nforwarding 0\n")
    assert said(now, before, Sysctl, NAME) == [f"set_sysctl {NAME} 0"]
    assert changes(before, read(NAME, "value 0\nall 2\nforwarding 0\n")) == ()


def test_ip_forward_brings_back_what_it_resets() -> None:
    text = (
        "value 0\n/proc/sys/net/ipv4/conf/all/forwarding:0\n"
        "/proc/sys/net/ipv4/conf/eth0.5/forwarding:1\n"
        "/proc/sys/net/ipv4/conf/all/accept_redirects:1\n"
    )
    before = read("net.ipv4.ip_forward", text)
    assert before is not None
    now = read("net.ipv4.ip_forward", text.replace("value 0", "value 1"))
    (line,) = said(now, journalled(before), Sysctl, "net.ipv4.ip_forward")
    assert line == (
        "set_sysctl net.ipv4.ip_forward 0 net.ipv4.conf.all.forwarding 0 "
        "net.ipv4.conf.eth0/5.forwarding 1 net.ipv4.conf.all.accept_redirects 1"
    )


def test_several_numbers_are_one_value() -> None:
    have = read("net.ipv4.vs.sync_threshold", "value 3\t50\n")
    assert changes(Sysctl(name="net.ipv4.vs.sync_threshold", value="3 50"), have) == ()


@pytest.mark.parametrize(
    ("name", "own", "common", "forwards", "effect"),
    [
        ("rp_filter", 0, 1, False, "1"),
        ("rp_filter", 2, 1, False, "2"),
        ("arp_ignore", 0, 1, False, "1"),
        ("arp_announce", 1, 0, False, "1"),
        ("send_redirects", 0, 1, True, "1"),
        ("log_martians", 0, 0, False, "0"),
        ("accept_source_route", 1, 0, False, "0"),
        ("accept_redirects", 1, 0, False, "1"),
        ("accept_redirects", 1, 0, True, "0"),
        ("accept_redirects", 1, 1, True, "1"),
        ("proxy_arp_pvlan", 1, 0, False, "1"),
        ("forwarding", 0, 1, False, "0"),
    ],
)
def test_effective(name: str, own: int, common: int, forwards: bool, effect: str) -> None:
    assert effective(f"net.ipv4.conf.eth0.{name}", str(own), str(common), forwards) == effect


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "net.//.//.etc.passwd",
        "a b.c",
        "a.$(id)",
        "net.ipv4..x",
        "a.b\n",
        "/etc.x",
        "a." + "b" * 200,
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        Sysctl(name=name, value="1")


def test_a_value_is_one_line() -> None:
    with pytest.raises(InputError):
        Sysctl(name="net.ipv4.ip_forward", value="1\n2")
