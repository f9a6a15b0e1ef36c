"""One thing broken by hand: verify fails, for the right reason, and names the host."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab


def cause(lab: LabUnderTest) -> dict[str, Any]:
    verdict = lab.cli("verify", "--json", code=3).json
    assert verdict["status"] == "fail"
    found: dict[str, Any] = next(c for c in verdict["checks"] if c["id"] == verdict["cause"])
    assert found["status"] == "fail"
    return found


def test_dr_with_a_server_that_answers_arp_for_the_vip(clean: LabUnderTest) -> None:
    clean.cli("up", "dr", "--no-verify")
    clean.sh("rs2", "sysctl -w net.ipv4.conf.all.arp_ignore=0")
    found = cause(clean)
    assert found["blamed"] == ["rs2"]
    assert "rs2" in found["fact"]

    steps = clean.cli("plan", "dr", "--json", code=2).json["hosts"]
    changed = {host: [s["key"] for s in found] for host, found in steps.items() if found}
    assert changed == {"rs2": ["net.ipv4.conf.all.arp_ignore"]}
    clean.mended("dr")


def test_tun_with_a_strict_reverse_path_check(clean: LabUnderTest) -> None:
    clean.cli("up", "tun", "--no-verify")
    clean.sh("rs1", "sysctl -w net.ipv4.conf.tunl0.rp_filter=1")
    found = cause(clean)
    assert found["blamed"] == ["rs1"]
    assert "rp_filter" in found["fact"]
    clean.mended("tun")


def test_nat_with_a_gateway_that_is_not_the_director(clean: LabUnderTest) -> None:
    clean.cli("up", "nat", "--no-verify")
    clean.sh("rs2", "ip route replace default via 192.168.10.254")
    found = cause(clean)
    assert found["blamed"] == ["rs2"]
    clean.mended("nat")


@pytest.mark.parametrize(
    ("mode", "host", "damage", "told"),
    [
        ("tun", "rs3", "ip addr del 192.168.10.100/32 dev tunl0", "192.168.10.100"),
        ("tun", "rs2", "ip link set tunl0 down", "tunl0"),
        ("nat", "director", "sysctl -w net.ipv4.ip_forward=0", "ip_forward"),
        ("dr", "director", "ip addr del 192.168.10.100/32 dev eth1", "192.168.10.100"),
        ("dr", "director", "ipvsadm -d -t 192.168.10.100:80 -r 192.168.10.2:80", "192.168.10.2"),
        ("dr", "rs1", "kill $(cat /run/lvsfab/testpage-80/pid)", "80"),
    ],
)
def test_other_damage_is_named_too(
    clean: LabUnderTest, mode: str, host: str, damage: str, told: str
) -> None:
    clean.cli("up", mode, "--no-verify")
    clean.sh(host, damage)
    found = cause(clean)
    assert found["blamed"] == [host]
    assert told in found["fact"] + found["title"]
    clean.mended(mode)


def test_a_host_that_does_not_answer_stops_the_run_before_anything(clean: LabUnderTest) -> None:
    clean.sh("rs2", "ip link set mgmt down", code=None)
    try:
        done = clean.cli("up", "nat", code=4)
        assert "rs2" in done.err
        skipped = clean.cli("up", "nat", "--skip-unreachable", "--no-verify")
        assert "rs2" in skipped.err
    finally:
        clean.cli("lab", "reboot", "rs2")
    clean.cli("down")
    clean.left_nothing()
