"""Tutorial 4's system under two directors. By itself: on one engine it has the same subnets as the
labs that test_keepalived.py keeps up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_keepalived import QUICK, holders, up
from tests.e2e.test_tutorials import GUARD, system

pytestmark = pytest.mark.lab

DIRECTOR2 = """\
  director2:
    roles: [director]
    inner: 10.0.0.4/24
    interfaces:
      eth0: {network: public, addresses: [203.0.113.12/24]}
      eth1: {network: office, addresses: [192.168.1.12/24]}
    gateways: [203.0.113.1]
  rs1:
"""


def test_4_under_two_directors(backend: str, tmp_path: Path) -> None:
    """Servers know both: firewalls let in either's tunnel and checks, inside it both answer."""
    directors, vip = ("director", "director2"), "203.0.113.100"
    guarded, second = "role:director or role:real_server", {"  rs1:\n": DIRECTOR2}
    with system("4-tun-across-networks", backend, tmp_path, guarded=guarded, **second) as lab:
        sets = {**QUICK, "balancer": "keepalived", "firewall": "yes"}
        up(lab, "tun", sets)
        (active,) = holders(lab, vip, directors)
        (other,) = {*directors} - {active}
        lab.sh("rs2", "ping -c 1 -W 2 10.0.0.1 && ping -c 1 -W 2 10.0.0.4")

        lab.cli("lab", "reboot", active)  # its power is cut, and it comes back with nothing
        failed = lab.cli("verify", "--json", code=3).json
        assert [c["id"] for c in failed["checks"] if c["status"] == "fail"] == ["directors"]
        assert holders(lab, vip, directors) == [other]
        lab.sh(active, GUARD)
        up(lab, "tun", sets)
        assert holders(lab, vip, directors) == [other]
