"""`run --via dask://...` with two local workers says and ends as `run` does, over a real sshd.

The hosts are one sshd's addresses in a network namespace; this file run by itself is the inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="dask is an extra: lvsfab[dask]")

ROOT = Path(__file__).parent.parent.parent
INSIDE = """
import json, os, subprocess, sys
from pathlib import Path
from tests.bench.contenders import LVSFAB, _home, _inventory
from tests.bench.sshd import fleet

def main(base):
    import distributed
    with fleet(base, 6) as found:
        path = _inventory(found, 6, base)
        with path.open("a") as file:
            file.write("  dead: {ssh: {host: 127.1.0.1, port: 9, user: nobody}}\\n")
        home = dict(word.split("=", 1) for word in _home(found, base)[1:])
        env = {**os.environ, **home}
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                                      host="127.0.0.1", env=home) as cluster:
            url = cluster.scheduler_address.replace("tcp://", "dask://")
            told = []
            for more in ([], ["--via", url]):
                argv = [str(LVSFAB), "run", "-i", str(path), "*", *more,
                        "--shell", "echo $SSH_CONNECTION | cut -d' ' -f3; [ -d /srv ]"]
                done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
                told.append([done.returncode, sorted(done.stdout.splitlines()),
                             done.stderr.splitlines()[-1:], done.stderr])
    print(json.dumps(told))

if __name__ == "__main__":
    main(Path(sys.argv[1]))
"""


def test_shares_by_two_workers_are_as_one_run(tmp_path: Path) -> None:
    from tests.bench.sshd import enter

    tmp_path.chmod(0o755)
    script = tmp_path / "inside.py"
    script.write_text(INSIDE)
    done = subprocess.run(
        enter([sys.executable, str(script), str(tmp_path)]),
        capture_output=True, text=True, timeout=240, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone, by_workers = json.loads(done.stdout.splitlines()[-1])
    assert alone[0] == 4, alone
    assert len(alone[1]) == 6
    assert by_workers[:3] == alone[:3]
