"""Requests by the thousand through each mode at a bounded rate: each is accounted for, and the
client's, the director's and the servers' counts agree to the connection. LVSFAB_LOAD says how many
in each mode: some hundreds in CI, 100,000 by `make load`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab
REQUESTS = int(os.environ.get("LVSFAB_LOAD", "300"))
RATE = 225  # a second, at most: more would use a port again within the two minutes of its entry


@pytest.mark.parametrize("mode", ["nat", "dr", "tun"])
def test_every_request_is_accounted_for(
    clean: LabUnderTest, mode: str, record_property: Callable[[str, object], None]
) -> None:
    clean.cli("up", mode, "--no-verify")
    words = ("verify", "-n", str(REQUESTS), "--rate", str(RATE), "--json")
    verdict = clean.cli(*words, timeout=600 + REQUESTS / 5).json
    sent = verdict["requests"]
    assert sent >= REQUESTS
    assert verdict["outcomes"] == {"answered": sent}
    assert {c["id"]: c["status"] for c in verdict["checks"]}["counts"] == "pass"
    assert sum(server["answered"] for server in verdict["servers"]) == sent
    assert sent / verdict["batch_seconds"] <= RATE
    record_property("requests", sent)
    record_property("seconds", verdict["batch_seconds"])


def test_what_is_not_answered_is_counted_by_its_cause(clean: LabUnderTest) -> None:
    """rs1 refuses and rs2 is silent: what each was given is what failed, and why."""
    clean.cli("up", "nat", "--no-verify")
    clean.sh("rs1", "kill $(cat /run/lvsfab/testpage-80/pid)")
    clean.sh("rs2", "ip route add blackhole 172.25.254.0/24")
    try:
        verdict = clean.cli("verify", "-n", "4", "--json", code=3).json
    finally:
        clean.sh("rs2", "ip route del blackhole 172.25.254.0/24")
    outcomes = verdict["outcomes"]  # the last may find its time over while it waits for its turn
    assert set(outcomes) == {"refused or unreachable", "timed out"}
    conns = {server["name"]: server["conns"] for server in verdict["servers"]}
    assert sum(outcomes.values()) == verdict["requests"] == sum(conns.values())
    assert 0 < outcomes["refused or unreachable"] <= conns["rs1"]
    assert outcomes["timed out"] >= conns["rs2"] > 0
