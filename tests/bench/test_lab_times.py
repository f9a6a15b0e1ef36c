"""How long the default lab takes: run with `pytest tests/bench -s -m bench`.

What is asserted is what README.md promises for two cores; what is printed is for people.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path

import pytest

from lvsfab import inventory
from lvsfab.labs.rootless import RootlessLab

pytestmark = [pytest.mark.lab, pytest.mark.bench]

ROOT = Path(__file__).parent.parent.parent
UP = 5.0  # seconds from nothing to SSH on six hosts
ROUNDS = 5


def test_up_and_one_command(tmp_path: Path) -> None:
    lab = RootlessLab(inventory.load(ROOT / "inventory/lab.yml"), directory=tmp_path)
    ups, downs, commands = [], [], []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        lab.up(lambda _: None)
        ups.append(time.monotonic() - begun)
        try:
            config = tmp_path / "ssh_config"
            config.write_text(lab.ssh_config())
            for _ in range(ROUNDS):
                begun = time.monotonic()
                subprocess.run(["ssh", "-F", str(config), "rs1", "true"], check=True, timeout=30)
                commands.append(time.monotonic() - begun)
            resident = [status.resident for status in lab.status()]
        finally:
            config.unlink(missing_ok=True)
            begun = time.monotonic()
            lab.down(lambda _: None)
            downs.append(time.monotonic() - begun)
            tmp_path.mkdir(mode=0o700, exist_ok=True)
    for name, times in (("up", ups), ("down", downs), ("ssh host true", commands)):
        print(f"{name}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s")
    print(f"resident MiB for each host: {resident}")
    assert statistics.median(ups) < UP
