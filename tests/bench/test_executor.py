"""The executor beside its peers, in one run on the same hosts: `make bench-executor`.

LVSFAB_BENCH_HOSTS=1,10,50,200 says for how many hosts (default 1,10), LVSFAB_BENCH_README which
file's table gets the figures, if the machine had nothing else to do. Peers are installed into
virtual environments of their own; one that cannot be is named, with the reason. The floor, and
lvsfab, take turns five times and their medians count. Wall times are judged on a machine that had
nothing else to do when it began; processor time and memory always.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.contenders import ALL, install
from tests.bench.judge import costs, in_readme, medians, peers, table, times
from tests.bench.sshd import enter

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parent.parent.parent
HOSTS = os.environ.get("LVSFAB_BENCH_HOSTS", "1,10")
README = os.environ.get("LVSFAB_BENCH_README", "")


def test_beside_its_peers(tmp_path: Path) -> None:
    for one in ALL:
        if one.package and (why := install(one.package)):
            print(f"left out: {one.name}: {why}")
    tmp_path.chmod(0o755)
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    argv = enter([sys.executable, "-m", "tests.bench.executor", str(tmp_path), HOSTS])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    by = medians(rows)
    print("\n" + table(by))
    print("\n".join(f"missed: {aim}" for aim in (*times(by), *peers(by))))
    assert not costs(by)
    if busy:
        print("this machine is busy with other work: wall times were not judged, nor written down")
        return
    if README:
        path = Path(README)
        path.write_text(in_readme(path.read_text(), by))
    assert not times(by)
