"""The schedulers, each held to its law by verify on real kernels."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lvsfab.model import Scheduler
from lvsfab.verify import chi_squared
from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab

# How many of the three servers (weights 3, 2, 1) meet new clients.
MET = {"fo": 1, "dh": 1}
HELD = {"lc", "wlc", "sed", "nq", "ovf", "lblc", "lblcr"}


def test_each_scheduler_keeps_its_law(clean: LabUnderTest) -> None:
    """Many clients for sh, mh, dh, fo."""
    for scheduler in Scheduler:
        verdict = clean.cli("up", "tun", "--json", "--set", f"scheduler={scheduler}", "--set",
                            "weights=rs1:3,rs2:2,rs3:1", code=None).json  # fmt: skip
        law = next(check for check in verdict["checks"] if check["id"] == "scheduler")
        failed = [check for check in verdict["checks"] if check["status"] == "fail"]
        assert verdict["status"] == "pass", (str(scheduler), failed or verdict)
        met = [server["name"] for server in verdict["servers"] if server["answered"]]
        assert len(met) == MET.get(scheduler, 3), (scheduler, law)
        assert verdict["held"] == (scheduler in HELD)
    clean.cli("down")
    clean.left_nothing()


def test_lblc_and_lblcr_leave_a_server_that_has_more_than_its_weight(clean: LabUnderTest) -> None:
    """60 held connections, weights 3, 2, 1: lblc leaves each server once and stays with the last;
    the set of lblcr grows to all three, and the least loaded of them is taken. dh never leaves.
    """
    weights = {"rs1": 3, "rs2": 2, "rs3": 1}

    def given(scheduler: str) -> dict[str, int]:
        verdict = clean.cli("up", "tun", "--json", "--set", f"scheduler={scheduler}", "--set",
                            "weights=rs1:3,rs2:2,rs3:1").json  # fmt: skip
        assert verdict["status"] == "pass"
        return {server["name"]: server["answered"] for server in verdict["servers"]}

    lblc = given("lblc")
    last = max(lblc, key=lambda name: lblc[name])
    left = {name: number for name, number in lblc.items() if name != last}
    assert left == {name: weights[name] + 1 for name in left}
    assert given("lblcr") == {"rs1": 30, "rs2": 20, "rs3": 10}
    clean.cli("down")


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_a_hash_spreads_clients_by_weight_and_by_no_other(
    clean: LabUnderTest, scheduler: str
) -> None:
    verdict = clean.cli("up", "tun", "--json", "--set", f"scheduler={scheduler}", "--set",
                        "weights=rs1:3,rs2:2,rs3:1").json  # fmt: skip
    law = next(check for check in verdict["checks"] if check["id"] == "scheduler")
    met = [int(number) for number in re.findall(r"rs\d (\d+)", law["fact"].split("server:")[1])]
    assert sum(met) > 150
    for weights in ([1, 1, 1], [1, 2, 3]):
        off = chi_squared.distance(met, weights)
        assert off is not None
        assert off > chi_squared.limit(2), (met, weights)
    # and what a table of other weights gives, the recipe's law does not pass
    clean.sh("director", "ipvsadm -S -n | grep -e ^-a | while read -r a t v r s i w n rest; do "
                         "ipvsadm -e $t $v $r $s $i -w 1 $rest; done")  # fmt: skip
    edited = clean.cli("verify", "--json", code=3).json
    failed = {check["id"]: check["fact"] for check in edited["checks"] if check["status"] == "fail"}
    assert set(failed) == {"table", "scheduler"}
    assert "the clients are not spread by weight" in failed["scheduler"]


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_the_flags_of_a_hash_keep_their_law(clean: LabUnderTest, scheduler: str) -> None:
    """Without flags a client keeps its server: test_each_scheduler_keeps_its_law."""

    def verdict(flags: str, code: int, drained: int = 0) -> dict[str, Any]:
        found = clean.cli("up", "dr", "--json", "--set", f"scheduler={scheduler}", "--set",
                          f"scheduler_flags={flags}", "--set", f"weights=rs1:{drained},rs2:2",
                          code=code).json  # fmt: skip
        return found | {"law": next(c for c in found["checks"] if c["id"] == "scheduler")}

    port = verdict(f"{scheduler}-port", 0, 2)  # one client, and its ports
    assert "hashed by source port too, 2 servers met" in port["law"]["fact"]
    assert all(server["answered"] for server in port["servers"])
    # clients of a drained server are refused, all others keep theirs
    refused = verdict("", 3)
    assert f"met none: {scheduler} keeps them for rs1 (weight 0)" in refused["law"]["fact"]
    assert "refused" in next(c["fact"] for c in refused["checks"] if c["id"] == "answers")
    fallback = verdict(f"{scheduler}-fallback", 0)
    assert [server["answered"] for server in fallback["servers"]] == [0, fallback["requests"]]
    assert "those of rs1 (weight 0) too" in fallback["law"]["fact"]


def test_many_clients_show_persistence(clean: LabUnderTest) -> None:
    clean.cli("up", "dr", "--no-verify", "--set", "persistence=300")
    verdict = clean.cli("verify", "--json").json
    law = next(check for check in verdict["checks"] if check["id"] == "scheduler")
    assert "each of 30 clients met one server alone" in law["fact"]
    assert all(server["answered"] for server in verdict["servers"])
    # one network of clients counts as one
    clean.cli("up", "dr", "--no-verify", "--set", "persistence=300", "--set", "netmask=24")
    verdict = clean.cli("verify", "--json").json
    assert sorted(server["answered"] for server in verdict["servers"]) == [0, 60]
    # which addresses, a user may say
    said = clean.cli("verify", "--sources", "172.25.254.128/29", "--json").json
    law = next(check for check in said["checks"] if check["id"] == "scheduler")
    assert "each of 1 clients" in law["fact"]
    assert clean.cli("verify", "--sources", "172.25.254.64/29", code=64).err.count("client")
    assert clean.sh("client", "ip route show table local dev lo | grep -c 254.1 || true") == "0\n"
