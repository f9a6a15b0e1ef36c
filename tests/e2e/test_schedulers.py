"""Every scheduler of the kernel, held to its law by verify on real kernels."""

from __future__ import annotations

import pytest

from lvsfab.model import Scheduler
from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab

FLAGS = {"sh": "sh-fallback", "mh": "mh-fallback"}
# How many of the three servers (weights 3, 2, 1) meet new clients.
MET = {"fo": 1, "dh": 1, "lblc": 1, "lblcr": 1}


def test_each_scheduler_keeps_its_law(clean: LabUnderTest) -> None:
    """Held connections for lc, wlc, sed, nq, ovf; many clients for sh, mh, dh, lblc, lblcr, fo."""
    for scheduler in Scheduler:
        flags = FLAGS.get(scheduler, "")
        clean.cli("up", "tun", "--no-verify", "--set", f"scheduler={scheduler}", "--set",
                  "weights=rs1:3,rs2:2,rs3:1", "--set", f"scheduler_flags={flags}")  # fmt: skip
        verdict = clean.cli("verify", "--json", code=None).json
        law = next(check for check in verdict["checks"] if check["id"] == "scheduler")
        assert verdict["status"] == "pass", (scheduler, law, verdict["cause"])
        met = [server["name"] for server in verdict["servers"] if server["answered"]]
        assert len(met) == MET.get(scheduler, 3), (scheduler, law)
        assert verdict["held"] == (scheduler in ("lc", "wlc", "sed", "nq", "ovf"))
    clean.cli("down")
    clean.left_nothing()


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
