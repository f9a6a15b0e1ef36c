"""What keepalived serves beyond one TCP port by IP in IP: each is proved by verify, and what a
check finds is acted upon. By itself, as test_keepalived_tun.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import LabUnderTest
from tests.e2e.test_keepalived import NAT, VIP, holders, until, up, weights
from tests.e2e.test_tutorials import alternates, system, tries

pytestmark = pytest.mark.lab
WEB3 = """\
  web3:
    roles: [real_server]
    interfaces: {eth0: {network: inside, addresses: [10.71.12.80/24]}}

parameters:
"""
PING_GROUPS = "cat /proc/sys/net/ipv4/ping_group_range"
WEB = {"web1": "10.71.12.69", "web2": "10.71.12.76", "web3": "10.71.12.80"}


@pytest.fixture(scope="module")
def three(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    """Tutorial 3's system with a third server; each test says what is up."""
    folder = tmp_path_factory.mktemp("three")
    with system("3-nat-keepalived", backend, folder, **{"parameters:\n": WEB3}) as lab:
        yield lab


def has(lab: LabUnderTest, **wanted: int) -> bool:
    """Whether the active director's table has exactly these servers, with these weights."""
    (active,) = holders(lab, VIP)
    return weights(lab, active) == {WEB[name]: weight for name, weight in wanted.items()}


def stop_page(lab: LabUnderTest, host: str, port: int = 15000) -> None:
    lab.sh(host, f"kill $(cat /run/lvsfab/testpage-{port}/pid)")


def test_the_sorry_server_answers_when_all_others_are_dead(three: LabUnderTest) -> None:
    sets = {**NAT, "sorry": "web3"}
    up(three, "nat", sets)
    assert has(three, web1=100, web2=100, web3=0)
    for host in ("web1", "web2"):
        stop_page(three, host)
    until(lambda: has(three, web3=1), 4 + 3)
    assert set(tries(three, f"http://{VIP}:15000")) == {"web3"}
    up(three, "nat", sets, "--no-verify")  # starts the pages again
    until(lambda: has(three, web1=100, web2=100, web3=0), 2 + 3)
    assert alternates(tries(three, f"http://{VIP}:15000"))
    up(three, "nat", {**NAT, "weights": "web1:50,web3:10"}, "--no-verify")  # none is sorry
    until(lambda: has(three, web1=50, web2=100, web3=10), 5)


def test_several_ports_are_checked_each(three: LabUnderTest) -> None:
    sets = {**NAT, "ports": "15001", "weights": "web3:100"}
    up(three, "nat", sets)
    for port in (15000, 15001):
        assert set(tries(three, f"http://{VIP}:{port}")) == {"web1", "web2", "web3"}
    stop_page(three, "web2", 15001)
    until(lambda: has(three, web1=100, web3=100), 4 + 3)
    for port in (15000, 15001):
        assert alternates(tries(three, f"http://{VIP}:{port}"))
    up(three, "nat", sets, "--no-verify")
    until(lambda: has(three, web1=100, web2=100, web3=100), 2 + 3)


@pytest.mark.parametrize(
    ("mode", "sets"),
    [
        ("tun", {"tunnel": "gue"}),
        ("tun", {"tunnel": "gre"}),
        ("tun", {"vip": "fd00:10::100"}),
        ("dr", {"vip": "fd00:10::100", "ports": "443"}),
        ("dr", {"protocol": "udp", "port": "5353", "ops": "true"}),
        ("nat", {"protocol": "udp", "port": "5353"}),
        ("nat", {"full_nat": "true", "upper": "1000", "lower": "500"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_verify_passes(clean: LabUnderTest, mode: str, sets: dict[str, str]) -> None:
    wanted = {"balancer": "keepalived", **sets}
    pings = clean.sh("director", PING_GROUPS)
    up(clean, mode, wanted)
    clean.cli("plan", mode, *(w for k, v in wanted.items() for w in ("--set", f"{k}={v}")))
    if "upper" in sets:
        table = clean.sh("director", "ipvsadm -Ln --thresholds")
        assert table.count(" 1000       500 ") == 2, table
    clean.cli("down")
    assert clean.sh("director", PING_GROUPS) == pings  # what checks by ping opened is shut again
