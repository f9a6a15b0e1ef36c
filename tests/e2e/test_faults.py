"""One thing broken by hand: verify fails, for the right reason, and names the host. `up` mends it,
and the next test goes on from there: in another mode, or in the same one.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.e2e.conftest import HOSTS, LabUnderTest

pytestmark = pytest.mark.lab


def cause(lab: LabUnderTest) -> dict[str, Any]:
    verdict = lab.cli("verify", "--json", code=3).json
    assert verdict["status"] == "fail"
    found: dict[str, Any] = next(c for c in verdict["checks"] if c["id"] == verdict["cause"])
    assert found["status"] == "fail"
    return found


def test_nat_with_a_gateway_that_is_not_the_director(lab: LabUnderTest) -> None:
    lab.cli("up", "nat", "--no-verify")
    lab.sh("rs2", "ip route replace default via 192.168.10.254")
    found = cause(lab)
    assert found["blamed"] == ["rs2"]
    lab.mended("nat", {"rs2": {"route:0.0.0.0/0"}})


@pytest.mark.parametrize(
    ("mode", "host", "damage", "told", "mended"),
    [
        ("nat", "director", "sysctl -w net.ipv4.ip_forward=0", "ip_forward",
         "sysctl:net.ipv4.ip_forward"),
        ("dr", "director", "ip addr del 192.168.10.100/32 dev eth1", "192.168.10.100",
         "address:192.168.10.100@eth1"),
        ("dr", "director", "ipvsadm -d -t 192.168.10.100:80 -r 192.168.10.2:80", "192.168.10.2",
         "real_server:tcp:192.168.10.100:80->192.168.10.2:80"),
        ("dr", "rs1", "kill $(cat /run/lvsfab/testpage-80/pid)", "80", "testpage:80"),
        ("tun", "rs3", "ip addr del 192.168.10.100/32 dev tunl0", "192.168.10.100",
         "address:192.168.10.100@tunl0"),
        ("tun", "rs2", "ip link set tunl0 down", "tunl0", "link:tunl0"),
    ],
)  # fmt: skip
def test_other_damage_is_named_too(
    lab: LabUnderTest, mode: str, host: str, damage: str, told: str, mended: str
) -> None:
    lab.cli("up", mode, "--no-verify")
    lab.sh(host, damage)
    found = cause(lab)
    assert found["blamed"] == [host]
    assert told in found["fact"] + found["title"]
    lab.mended(mode, {host: {mended}})


def test_tun_with_a_strict_reverse_path_check(lab: LabUnderTest) -> None:
    lab.cli("up", "tun", "--no-verify")
    lab.sh("rs1", "sysctl -w net.ipv4.conf.tunl0.rp_filter=1")
    found = cause(lab)
    assert found["blamed"] == ["rs1"]
    assert "rp_filter" in found["fact"]
    lab.mended("tun", {"rs1": {"sysctl:net.ipv4.conf.tunl0.rp_filter"}})


def test_dr_with_a_server_that_answers_arp_for_the_vip(lab: LabUnderTest) -> None:
    lab.cli("up", "dr", "--no-verify")
    lab.sh("rs2", "sysctl -w net.ipv4.conf.all.arp_ignore=0")
    found = cause(lab)
    assert found["blamed"] == ["rs2"]
    assert "rs2" in found["fact"]
    lab.mended("dr", {"rs2": {"sysctl:net.ipv4.conf.all.arp_ignore"}})


def test_nothing_of_all_this_is_left(clean: LabUnderTest) -> None:
    clean.cli("down")
    clean.left_nothing()


def test_a_host_that_does_not_answer_stops_the_run_before_anything(clean: LabUnderTest) -> None:
    clean.sh("rs2", "ip link set mgmt down", code=None)
    try:
        done = clean.cli("up", "nat", code=4)
        assert "rs2" in done.err
    finally:
        clean.cli("lab", "reboot", "rs2")
    clean.left_nothing()


def test_a_host_that_does_not_answer_is_left_out_when_asked(clean: LabUnderTest) -> None:
    """Before it is built, and once it serves: it gets no requests, the others do all of them."""

    def weights() -> dict[str, str]:
        return dict(re.findall(r"-r ([0-9.]+):80 .*-w (\d+)", clean.sh("director", "ipvsadm -Sn")))

    for _ in range(2):
        clean.sh("rs2", "ip link set mgmt down", code=None)
        try:
            done = clean.cli("up", "nat", "--skip-unreachable", "--json", code=4).documents()
            (found,) = [told for told in done if told.get("event") == "result"]
            assert (found["failed"], found["not_reached"]) == ({}, ["rs2"])
            assert set(found["done"]) == {*HOSTS} - {"rs2"}
            assert done[-1]["host"] == "rs2"
            assert weights() == {"192.168.10.1": "1", "192.168.10.2": "0"}
            answers = "for i in 1 2 3 4; do curl -s --max-time 5 http://10.1.1.100/; done"
            lines = clean.sh("client", answers).splitlines()
            assert len(lines) == 4
            assert all("rs1" in line for line in lines)
        finally:
            clean.cli("lab", "reboot", "rs2")
        clean.cli("up", "--resume")
        assert weights() == {"192.168.10.1": "1", "192.168.10.2": "1"}
    clean.cli("down")
    clean.left_nothing()


def test_what_somebody_else_serves_by_ip_vs_outlives_down(clean: LabUnderTest) -> None:
    theirs = "-t 192.168.10.99:80"
    clean.cli("up", "nat", "--no-verify")
    clean.sh("director", f"ipvsadm -A {theirs} -s rr")
    try:
        done = clean.cli("down")
        assert "module:ip_vs stays loaded, in use by ip_vs_rr" in done.err
        assert clean.sh("director", "ipvsadm -Sn") == f"-A {theirs} -s rr\n"
        assert clean.cli("down", "--json").documents()[-1]["changes"] == 0
    finally:
        clean.cli("lab", "reboot", "director")
    clean.left_nothing()
