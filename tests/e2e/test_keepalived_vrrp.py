"""Who of tutorial 3's directors is active and why, what a check's times mean, what keepalived
refuses. By itself, as test_keepalived_tun.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import LabUnderTest
from tests.e2e.test_keepalived import GATEWAY, NAT, QUICK, VIP, holders, until, up, weights
from tests.e2e.test_tutorials import alternates, system, tries

pytestmark = pytest.mark.lab
CHOSEN = 15  # s: three advertisements and a bit, on a busy machine
BOTH = {"10.71.12.69": 100, "10.71.12.76": 100}


@pytest.fixture(scope="module")
def pair(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    """Tutorial 3's system; each test says what is up."""
    with system("3-nat-keepalived", backend, tmp_path_factory.mktemp("pair")) as lab:
        yield lab


def power_cut(lab: LabUnderTest, sets: dict[str, str]) -> None:
    """lb1, which is active, loses its power, comes back with nothing, and is set up again."""
    lab.cli("lab", "reboot", "lb1")
    until(lambda: holders(lab, VIP) == ["lb2"], CHOSEN)
    up(lab, "nat", sets, "--no-verify")


def test_who_comes_back_stands_by_unless_it_is_told_to_preempt(pair: LabUnderTest) -> None:
    up(pair, "nat", NAT, "--no-verify")
    pair.sh("lb2", "/etc/init.d/keepalived stop >/dev/null 2>&1 </dev/null")
    until(lambda: holders(pair, VIP) == ["lb1"], CHOSEN)  # the one of priority 100
    up(pair, "nat", NAT, "--no-verify")
    assert holders(pair, VIP) == ["lb1"]

    power_cut(pair, NAT)
    began = time.monotonic()
    while time.monotonic() - began < 8:  # twice what a choice takes
        assert holders(pair, VIP) == holders(pair, GATEWAY) == ["lb2"]

    preempt = {**NAT, "preempt": "yes"}
    up(pair, "nat", preempt, "--no-verify")
    until(lambda: holders(pair, VIP) == ["lb1"], CHOSEN)  # the better one takes it at once
    power_cut(pair, preempt)
    until(lambda: holders(pair, VIP) == holders(pair, GATEWAY) == ["lb1"], CHOSEN)
    up(pair, "nat", preempt)


def test_another_password_parts_the_directors(pair: LabUnderTest) -> None:
    up(pair, "nat", NAT)
    edited = "sed -i 's/auth_pass 1111/auth_pass 2222/' /etc/keepalived/keepalived.conf"
    pair.sh("lb2", f"{edited} && kill -HUP $(cat /run/keepalived.pid)")
    until(lambda: len(holders(pair, VIP)) == 2, CHOSEN)  # neither believes the other
    failed = pair.cli("verify", "--json", code=3).json
    (fact,) = [c["fact"] for c in failed["checks"] if c["id"] == "directors"]
    assert "lb1 active, lb2 active" in fact
    watched = pair.cli("verify", "--for", "2", "--json", code=None).json
    assert watched["directors"]["before"] == {"lb1": "active", "lb2": "active"}
    argv = (w for k, v in NAT.items() for w in ("--set", f"{k}={v}"))
    pair.mended("nat", {"lb2": {"keepalived:/etc/keepalived/keepalived.conf"}}, *argv)
    until(lambda: len(holders(pair, VIP)) == len(holders(pair, GATEWAY)) == 1, CHOSEN)
    until(lambda: alternates(tries(pair, f"http://{VIP}:15000")), 30)  # neighbours ask again
    assert pair.cli("verify", "--json").json["status"] == "pass"


def test_what_keepalived_refuses_is_not_put_in_place(pair: LabUnderTest) -> None:
    up(pair, "nat", NAT, "--no-verify")
    look = "cksum /etc/keepalived/keepalived.conf; cat /run/keepalived.pid"
    look += "; ls /var/lib/lvsfab; ls /run/lvsfab 2>/dev/null || true"
    before = pair.sh("lb1", look)
    content = "vrrp_instance broken {\n    interface nowhere\n    virtual_router_id 300\n}\n"
    done = pair.cli("state", "lb1", "keepalived", f"content={content}", code=5)
    assert "Non-existent interface specified" in done.err  # in its own words
    assert pair.sh("lb1", look) == before
    argv = (w for k, v in NAT.items() for w in ("--set", f"{k}={v}"))
    pair.cli("plan", "nat", *argv)


def test_connections_are_synced_while_it_is_wanted(pair: LabUnderTest) -> None:
    def daemons() -> list[bool]:
        return [bool(pair.sh(host, "ipvsadm -L --daemon")) for host in ("lb1", "lb2")]

    up(pair, "nat", NAT, "--no-verify")
    until(lambda: daemons() == [True, True], CHOSEN)
    up(pair, "nat", QUICK, "--no-verify")
    assert daemons() == [False, False]


@pytest.mark.parametrize(
    ("sets", "least", "most"),
    [
        (QUICK, 0, 1 + 2 * 1 + 1),
        # the tutorial's own: every 6 s; four connections of 3 s each, 3 s between them
        ({}, 3 * 3 + 3 * 3, 6 + 4 * 3 + 3 * 3),
    ],
    ids=["quick", "tutorial"],
)
def test_a_dead_link_is_seen_when_connections_time_out(
    pair: LabUnderTest, sets: dict[str, str], least: float, most: float
) -> None:
    up(pair, "nat", sets, "--no-verify")
    until(lambda: len(holders(pair, VIP)) == 1, CHOSEN)
    (active,) = holders(pair, VIP)
    until(lambda: weights(pair, active) == BOTH, CHOSEN)
    pair.sh("web1", "ip link set eth0 down")
    took = until(lambda: weights(pair, active) == {"10.71.12.76": 100}, most + 5)
    assert took > least
    assert set(tries(pair, f"http://{VIP}:15000")) == {"web2"}
    pair.sh("web1", "ip link set eth0 up")
    up(pair, "nat", sets, "--no-verify")  # its routes went with the link
    until(lambda: weights(pair, active) == BOTH, most + 5)
