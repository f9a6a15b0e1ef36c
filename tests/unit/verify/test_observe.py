"""Hostile and garbled output: a clear `could not read`, no crash, and never a PASS."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsfab.session import Record
from lvsfab.verify.observe import parse_links, parse_listeners, parse_settings, printable
from lvsfab.verify.observe_client import parse_answer, parse_batch, parse_capture
from lvsfab.verify.verdict import Status
from tests.unit.verify.recorded import check, cluster, load, verdict

NEEDED = [
    ("director", "table"),
    ("director", "stats"),
    ("director", "addresses"),
    ("rs1", "links"),
    ("rs1", "log"),
]


@pytest.mark.parametrize(("host", "record"), NEEDED)
@pytest.mark.parametrize("garbage", ["", "\x1b[31mhello\n", "1 2 3\n" * 5, "\\xff" * 40])
def test_garbled_records_are_said_and_prove_nothing(host: str, record: str, garbage: str) -> None:
    run = load("nat-good")
    run["after"][host][record] = [0, garbage]
    found = verdict(run, cluster("nat"))
    assert not found.passed
    for each in found.checks:
        assert each.fact.isprintable()


def test_a_host_that_says_nothing() -> None:
    run = load("nat-good")
    run["after"]["rs1"] = {}
    found = verdict(run, cluster("nat"))
    assert "rs1: no answer to what was asked" in check(found, "readable").fact
    assert not found.passed


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_records_cut_and_mixed_at_random_never_crash(seed: int) -> None:
    rng = random.Random(seed)
    run = load("tun-good")
    for phase in ("before", "after"):
        host = rng.choice(sorted(run[phase]))
        record = rng.choice(sorted(run[phase][host]))
        text = run[phase][host][record][1]
        cut = rng.randint(0, len(text))
        run[phase][host][record][1] = text[:cut] + rng.choice(["", "\0", "é" * 9, text[:cut]])
    text = run["batch"]["batch"][1]
    if rng.random() < 0.5:
        cut = rng.randint(0, text.index("\nend"))
        run["batch"]["batch"][1] = text[:cut]
        assert not verdict(run, cluster("tun")).passed
    else:
        verdict(run, cluster("tun"))


def test_only_a_server_of_the_cluster_can_answer() -> None:
    page = "rs1 reached at 10.1.1.100 port 80 by 172.25.254.67"
    assert parse_answer(200, 0, 1, page, {"rs1"}).good
    assert not parse_answer(200, 0, 1, page, {"rs2"}).good
    assert not parse_answer(200, 0, 1, page + " x", {"rs1"}).good
    assert not parse_answer(500, 0, 1, page, {"rs1"}).good
    assert not parse_answer(200, 28, 1, page, {"rs1"}).good


def test_a_batch_that_breaks_off_is_a_problem_not_a_result() -> None:
    text = "sent 2 0\norder 0 0\nfrom 1 2\nkind 0 2 0.1 200 0 1\tx\nend\ntime 1.0 2.0\n"
    whole, took = parse_batch(Record("batch", 0, text), {"rs1"})
    assert (whole.sent, whole.problem, took) == (2, "", 1.0)
    for cut in range(text.index("end")):
        broken, _ = parse_batch(Record("batch", 0, text[:cut]), {"rs1"})
        assert broken.problem
        assert broken.sent == 0


def test_a_client_without_curl() -> None:
    run = load("nat-good")
    run["batch"] = {"batch": [4, "curl is not installed"]}
    found = verdict(run, cluster("nat"))
    assert found.status is not Status.PASS
    assert "curl is not installed" in check(found, "answers").fact


def test_escapes_and_bounds() -> None:
    assert printable("\x1b[2Ja\nb") == "\\x1b[2Ja\\nb"
    assert len(printable("x" * 10_000)) == 120


def in_no_time(read: Callable[[], object]) -> None:
    began = time.process_time()
    read()
    assert time.process_time() - began < 1  # a square of its length: half a minute


def test_a_line_without_an_end_takes_no_time_to_read() -> None:
    device = "1: eth0: <UP> mtu 1500 " + "link/" * 50_000
    in_no_time(lambda: parse_links(device))
    asking = "02:00:00:00:00:01 " + "Request who-has x " * 20_000
    said = {name: Record(name, 0, asking) for name in ("ask", "arp", "replies")}
    in_no_time(lambda: parse_capture("h", {}, said, cluster("dr")))


def test_who_asks_in_the_name_of_the_vip_is_seen() -> None:
    vip, mac = cluster("dr").service.vip, "02:00:00:00:00:01"
    for target in ("192.168.10.2 (ff:ff:ff:ff:ff:ff)", "192.168.10.2"):
        line = f"{mac} ethertype ARP, length 48: Request who-has {target} tell {vip}, length 28"
        found = parse_capture("h", {}, {"arp": Record("arp", 0, line)}, cluster("dr"))
        assert found.asks == ((mac, "192.168.10.2"),)


def test_parsers_of_the_kernels_tables() -> None:
    assert [str(a) for a, _ in parse_listeners("0E0A4064:0016\n" + "0" * 32 + ":0050\n")] == [
        "100.64.10.14",
        "::",
    ]
    assert parse_settings("/proc/sys/net/ipv4/conf/a:b/rp_filter:2\n") == {"a:b/rp_filter": 2}
    link = parse_links(
        "3: tunl0@NONE: <NOARP,UP,LOWER_UP> mtu 1480 qdisc noqueue state UNKNOWN mode DEFAULT "
        "\\    link/ipip 0.0.0.0 brd 0.0.0.0 promiscuity 0 \\    ipip any remote any local any\n"
    )[0]
    assert (link.name, link.up, link.mtu, link.remote, link.mac) == ("tunl0", True, 1480, "any", "")
