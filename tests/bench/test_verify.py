"""What the proof costs beside one bare curl on the same client in the same lab."""

from __future__ import annotations

import re
import statistics

import pytest

from tests.e2e.conftest import LabUnderTest
from tests.e2e.conftest import engine as engine  # noqa: PLC0414 - a fixture
from tests.e2e.conftest import lab as lab  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.bench
REQUESTS = 1000
PAIRS = 5
BOUND = 1.15  # times a bare curl process

BARE = (
    "t0=$(cut -d' ' -f1 /proc/uptime); "
    f"curl -s -H 'Connection: close' 'http://10.1.1.100/?[1-{REQUESTS}]' >/dev/null; "
    "t1=$(cut -d' ' -f1 /proc/uptime); echo took $t0 $t1"
)


def test_a_thousand_requests_cost_little_more_than_curl(lab: LabUnderTest) -> None:
    lab.cli("up", "nat", "--no-verify")
    ratios = []
    for _ in range(PAIRS):
        match = re.search(r"took (\S+) (\S+)", lab.sh("client", BARE))
        assert match is not None
        bare = float(match[2]) - float(match[1])
        verdict = lab.cli("verify", "-n", str(REQUESTS), "--json").json
        ratios.append(verdict["batch_seconds"] / bare)
        print(f"\nbare curl {bare:.2f} s, verify {verdict['batch_seconds']:.2f} s")
    print(f"median ratio {statistics.median(ratios):.3f} of {PAIRS} pairs, bound {BOUND}")
    lab.cli("down")
    assert statistics.median(ratios) <= BOUND
