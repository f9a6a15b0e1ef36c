"""Each mode on real kernels: up, up again, verify, down without a trace, and one after another."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab
MODES = ("nat", "dr", "tun")
# A connection of 12 s: 192 KiB at 16 KiB a second.
SLOW = "curl -s -r 0-196607 -o /dev/null -w '%{http_code} %{size_download} %{exitcode}\n'"
WHOLE = "206 196608 0"


def rules(lab: LabUnderTest) -> str:
    return lab.sh("director", "ipvsadm -Sn")


@pytest.mark.parametrize("mode", MODES)
def test_up_verify_down(clean: LabUnderTest, mode: str) -> None:
    verdict = clean.cli("up", mode, "--json").json
    assert verdict["status"] == "pass"
    assert sum(server["answered"] for server in verdict["servers"]) == 60

    again = clean.cli("up", mode, "--json", "--no-verify").json
    assert again["changes"] == 0
    assert set(again["execs"].values()) == {1}
    assert set(again["handshakes"].values()) == {1}

    clean.cli("plan", mode)  # exit 0: nothing to change

    clean.cli("down")
    clean.left_nothing()


def test_plan_says_what_up_will_do_and_does_nothing(clean: LabUnderTest) -> None:
    planned = clean.cli("plan", "tun", "--json", code=2).json
    clean.left_nothing()
    events = clean.cli("up", "tun", "--json", "--no-verify").documents()
    done = {
        (e["host"], e["step"]["kind"], e["step"]["key"]) for e in events if e["event"] == "step"
    }
    said = {(host, s["kind"], s["key"]) for host, steps in planned["hosts"].items() for s in steps}
    assert done == said
    assert events[-1]["changes"] == planned["changes"] == len(said)


BUSY = "curl -s -m 30 http://192.168.10.100/slow </dev/null >/dev/null 2>&1 &"


def test_one_mode_after_another(clean: LabUnderTest) -> None:
    forms = {"tun": " -i ", "dr": " -g ", "nat": " -m "}
    for mode in ("tun", "dr", "nat", "tun"):
        if mode == "dr":  # connections of the former mode are busy while the mode changes
            clean.sh("client", 3 * BUSY)
        clean.cli("up", mode, "--no-verify")
        # DR by the route that a connection of TUN found asks ARP for the VIP, and nobody answers
        assert clean.sh("director", "ip neigh show to 192.168.10.100") == ""
        table = rules(clean)
        assert forms[mode] in table
        assert not [flag for other, flag in forms.items() if other != mode and flag in table]
        tunnel = clean.sh("rs1", "lsmod | grep -c '^ipip ' || true").strip()
        assert tunnel == ("1" if mode == "tun" else "0")
        held = clean.sh("rs1", "ip -o -4 addr | grep -c '192.168.10.100/32' || true").strip()
        assert held == ("0" if mode == "nat" else "1")
        assert clean.cli("verify", "--json").json["status"] == "pass"
    clean.cli("down")
    clean.left_nothing()


VARIANTS = [
    ("tun", {"arp": "arptables"}),
    ("tun", {"arp": "nft"}),
    ("tun", {"tunnel": "gre"}),
    ("tun", {"tunnel": "gue"}),
    ("tun", {"vip_on": "tunl0"}),
    ("tun", {"vip": "fd00:10::100"}),
    ("dr", {"arp": "arptables"}),
    ("dr", {"arp": "nft"}),
    ("dr", {"vip": "fd00:10::100"}),
    ("dr", {"protocol": "udp", "port": "5353"}),
    ("tun", {"protocol": "udp", "port": "5353"}),
    ("nat", {"protocol": "udp", "port": "5353"}),
    ("nat", {"real_port": "8080"}),
    ("nat", {"vip": "fd00:1::100"}),
    ("nat", {"persistence": "60"}),
    ("nat", {"sorry": "rs2"}),
]


@pytest.mark.parametrize(
    ("mode", "sets"), VARIANTS, ids=[f"{m}-{'-'.join(map(str, s.items()))}" for m, s in VARIANTS]
)
def test_each_way_to_build_a_mode(lab: LabUnderTest, mode: str, sets: dict[str, str]) -> None:
    """Each takes the place of the one before it; the next test takes down the last."""
    options = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    lab.cli("up", mode, *options)
    assert lab.cli("up", mode, *options, "--no-verify", "--json").json["changes"] == 0


def test_nothing_of_all_these_ways_is_left(clean: LabUnderTest) -> None:
    clean.cli("down")
    clean.left_nothing()


def test_the_monitor_opens_the_port_of_gue_again(clean: LabUnderTest) -> None:
    gue = ("tun", "--set", "tunnel=gue", "--set", "monitor=yes")
    clean.cli("up", *gue, "--no-verify")
    clean.sh("rs1", "ip fou del port 6080")
    clean.sh("rs2", "ip fou del port 6080; rmmod fou")
    opened = "ip fou show | grep -q '^port 6080 gue' && ip -br link show tunl0 | grep -q UNKNOWN"
    for host in ("rs1", "rs2"):
        clean.sh(host, f"for i in $(seq 90); do {opened} && exit; sleep 0.1; done; exit 1")
    clean.cli("plan", *gue)  # it has left nothing for `up` to mend
    assert clean.cli("verify", "-n", "20", "--json").json["status"] == "pass"


def test_a_server_that_has_arptables_over_nftables_alone(clean: LabUnderTest) -> None:
    """As RHEL 9: the program of that name speaks to nftables."""
    hide = "cd /usr/sbin && mv arptables-legacy hidden && arptables -V"
    assert "nf_tables" in clean.sh("rs1", hide)
    try:
        pristine = clean.snapshot()["rs1"]
        clean.cli("up", "tun", "--set", "arp=arptables")
        rules = clean.sh("rs1", "nft list table arp filter")
        assert "arp daddr ip 192.168.10.100 counter" in rules
        assert "arp saddr ip set 192.168.10.1" in rules
        clean.cli("plan", "tun", "--set", "arp=arptables")
        clean.sh("rs1", "arptables -F OUTPUT")
        again = clean.cli("up", "tun", "--set", "arp=arptables", "--no-verify", "--json").json
        assert again["changes"] == 1
        clean.cli("down")
        assert clean.snapshot()["rs1"] == pristine
    finally:
        clean.sh("rs1", "cd /usr/sbin && mv hidden arptables-legacy")
    clean.left_nothing()


def test_three_to_one_is_exactly_that(clean: LabUnderTest) -> None:
    clean.cli("up", "nat", "--no-verify", "--set", "scheduler=wrr", "--set", "weights=rs1:3,rs2:1")
    verdict = clean.cli("verify", "-n", "400", "--json").json
    assert verdict["status"] == "pass"
    assert {s["name"]: s["answered"] for s in verdict["servers"]} == {"rs1": 300, "rs2": 100}


def test_a_weight_changed_is_one_field_and_no_dropped_connection(clean: LabUnderTest) -> None:
    base = ("up", "nat", "--no-verify", "--set", "scheduler=wrr", "--json", "--set")
    clean.cli(*base, "weights=rs1:1,rs2:1")
    slow = f"{SLOW} http://10.1.1.100/slow & sleep 1; echo started; wait"
    got = clean.background("client", slow)
    events = clean.cli(*base, "weights=rs1:4,rs2:1").documents()
    steps = [e["step"] for e in events if e["event"] == "step"]
    assert [[(c["field"], c["have"], c["want"]) for c in s["changes"]] for s in steps] == [
        [("weight", "1", "4")]
    ]
    assert got() == f"{WHOLE}\n"


def test_drain_lets_connections_finish_and_sends_no_new_ones(clean: LabUnderTest) -> None:
    clean.cli("up", "dr", "--no-verify")
    slow = f"for i in 1 2; do {SLOW} http://192.168.10.100/slow & done; sleep 1; echo started; wait"
    got = clean.background("client", slow)
    clean.cli("drain", "rs1")
    status = clean.cli("status", "--json").json["directors"][0]["services"][0]["servers"]
    weights = {s["name"]: s["weight"] for s in status}
    assert weights == {"rs1": 0, "rs2": 1}
    before = {s["name"]: s["conns"] for s in status}
    verdict = clean.cli("verify", "--json").json
    assert {s["name"]: s["answered"] for s in verdict["servers"]} == {"rs1": 0, "rs2": 60}
    after = clean.cli("status", "--json").json["directors"][0]["services"][0]["servers"]
    assert {s["name"]: s["conns"] for s in after}["rs1"] == before["rs1"]
    assert got() == f"{WHOLE}\n" * 2

    clean.cli("restore", "rs1")
    verdict = clean.cli("verify", "--json").json
    assert {s["name"]: s["answered"] for s in verdict["servers"]} == {"rs1": 30, "rs2": 30}


def test_status_shows_the_table(clean: LabUnderTest) -> None:
    clean.cli("up", "nat")
    shown = clean.cli("status").out
    assert "tcp:10.1.1.100:80 rr" in shown
    assert re.search(r"rs1 +192\.168\.10\.1:80 +nat +1 +\d+ +\d+ +\d+ +yes", shown), shown


def test_verify_writes_junit(clean: LabUnderTest, tmp_path: object) -> None:
    clean.cli("up", "tun", "--no-verify")
    path = f"{tmp_path}/verify.xml"
    clean.cli("verify", "--junit", path)
    suite = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
    cases = list(suite.iter("testcase"))
    assert len(cases) > 5
    assert not list(suite.iter("failure"))
