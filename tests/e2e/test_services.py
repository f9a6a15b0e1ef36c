"""What a virtual service can be beside one port for everybody: several ports as one service,
one-packet scheduling, thresholds, a sorry server.
"""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab
VIP = "192.168.10.100"


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if " reached at " in line]


def answered(lab: LabUnderTest) -> dict[str, int]:
    verdict = lab.cli("verify", "-n", "20", "--json").json
    assert verdict["status"] == "pass"
    return {server["name"]: server["answered"] for server in verdict["servers"]}


@pytest.mark.parametrize("mode", ["nat", "tun", "dr"])
def test_two_ports_are_one_service_by_a_firewall_mark(clean: LabUnderTest, mode: str) -> None:
    grouped = ("--set", "ports=443", "--set", "persistence=300")
    clean.cli("up", mode, *grouped[:2])
    clean.cli("up", mode, *grouped, "--no-verify")
    # each client comes to both ports, and stays with its server
    verdict = clean.cli("verify", "--json").json
    assert verdict["status"] == "pass"
    assert verdict["service"].endswith(":80,443")
    assert "clients met one server alone" in str(verdict["checks"])
    assert "-A -f 19542 -s rr -p 300" in clean.sh("director", "ipvsadm -Sn")
    clean.cli("plan", mode, *grouped)
    clean.cli("down")
    clean.left_nothing()


def test_one_packet_scheduling_gives_each_datagram_its_turn(clean: LabUnderTest) -> None:
    six = f"""perl -MSocket -e '
      socket(my $s, PF_INET, SOCK_DGRAM, 0);
      connect($s, pack_sockaddr_in(5353, inet_aton("{VIP}")));
      for (1..6) {{ send($s, "x", 0); alarm 5; recv($s, my $line, 2000, 0); print $line }}'"""
    udp = ("up", "dr", "--set", "protocol=udp", "--set", "port=5353", "--set")
    clean.cli(*udp, "ops=false", "--no-verify")
    assert len(set(names(clean.sh("client", six)))) == 1  # one socket is one connection
    clean.cli(*udp, "ops=true")
    got = names(clean.sh("client", six))
    assert got == got[:2] * 3
    assert len(set(got)) == 2
    assert "ops" in clean.sh("director", "ipvsadm -Ln")


def test_a_server_at_its_threshold_gets_no_more(clean: LabUnderTest) -> None:
    clean.cli("up", "dr", "--no-verify", "--set", "upper=2", "--set", "lower=1")
    shown = clean.sh("director", "ipvsadm -Ln --thresholds")
    assert re.search(r"192\.168\.10\.1:80 +2 +1 ", shown), shown
    # two for each server fit; a fifth finds none that takes it
    hold = f"for i in 1 2 3 4; do curl -s -o /dev/null http://{VIP}/slow & done; sleep 1"
    fifth = f"curl -s -m 3 -o /dev/null -w '%{{exitcode}}' http://{VIP}/ || true"
    assert clean.sh("client", f"{hold}; {fifth}; kill $(jobs -p)") in ("7", "28")
    clean.cli("up", "dr", "--no-verify")  # without thresholds they get some again
    assert clean.sh("client", fifth) == "0"


# One connection after the other: who is let in, and who is refused, at 3 connections and below 2.
TURNS = f"""perl -MIO::Socket::INET -e '
  sub new {{ IO::Socket::INET->new(PeerAddr => "{VIP}:80", Timeout => 3) }}
  sub said {{ print $_[0], defined $_[1] ? " in" : " refused", "\n" }}
  my @held = map {{ new() }} 1..3; said("third", $held[2]);
  said("fourth", new());
  close shift @held; sleep 5; said("with two left", new());
  close shift @held; sleep 5; my $again = new(); said("with one left", $again);'"""


def test_verify_sends_no_more_than_the_thresholds_let_in(clean: LabUnderTest) -> None:
    limits = ("--set", "upper=20", "--set", "lower=10")
    verdict = clean.cli("up", "dr", "--json", *limits).json
    assert verdict["status"] == "pass"
    assert [server["answered"] for server in verdict["servers"]] == [14, 14]  # and 6 sized each
    # closed ones count for two minutes: none is let in, and none is sent
    full = clean.cli("verify", "--json", code=3).json
    assert full["status"] == "unchecked"
    assert full["requests"] == 0
    facts = {check["id"]: check["fact"] for check in full["checks"]}
    assert "rs1 20 of 20, rs2 20 of 20" in facts["answers"]
    assert "singled out by a firewall mark" in facts["server:rs1"]
    clean.cli("down")
    verdict = clean.cli("up", "dr", "--json", *limits, "--set", "scheduler=wlc").json
    assert (verdict["status"], verdict["held"]) == ("pass", True)
    assert [server["answered"] for server in verdict["servers"]] == [14, 14]


def test_a_full_server_waits_until_it_is_below_lower(clean: LabUnderTest) -> None:
    clean.cli("up", "dr", "--no-verify", "--set", "weights=rs2:0", "--set", "upper=3",
              "--set", "lower=2")  # fmt: skip
    clean.sh("director", "ipvsadm --set 0 2 0")  # s that a closed connection still counts
    said = clean.sh("client", TURNS)
    clean.sh("director", "ipvsadm --set 0 120 0")
    assert said.splitlines() == [
        "third in", "fourth refused", "with two left refused", "with one left in",
    ]  # fmt: skip


def test_verify_names_each_thing_that_is_not_the_recipes(clean: LabUnderTest) -> None:
    """Clients see nothing of it: servers take ipip out by the same device as gue."""
    clean.cli("up", "tun", "--no-verify", "--set", "tunnel=gue", "--set", "persistence=300")
    clean.sh("director", f"ipvsadm -e -t {VIP}:80 -r 192.168.10.1:80 -i -w 1 -x 9 && "
                         f"ipvsadm -E -t {VIP}:80 -s rr -p 60")  # fmt: skip
    verdict = clean.cli("verify", "--json", code=3).json
    assert {check["id"] for check in verdict["checks"] if check["status"] == "fail"} == {"table"}
    wrong = next(check["fact"] for check in verdict["checks"] if check["id"] == "table")
    assert wrong == (
        "persistence 60, not 300; rs1 has upper 9, not none; rs1 has tun type ipip, not gue; "
        "rs1 has tun port none, not 6080"
    )


def test_the_sorry_server_serves_while_all_others_are_drained(clean: LabUnderTest) -> None:
    clean.cli("up", "nat", "--no-verify", "--set", "sorry=rs2")
    assert answered(clean) == {"rs1": 20, "rs2": 0}
    clean.cli("drain", "rs1")
    assert answered(clean) == {"rs1": 0, "rs2": 20}
    clean.cli("restore", "rs1")
    assert answered(clean) == {"rs1": 20, "rs2": 0}
