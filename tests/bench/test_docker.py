"""How long the default lab takes on a Docker engine: `pytest tests/bench -s -m bench`.

The image is there already, as after a first `lab up`; six containers with a kernel each are to
answer SSH within 10 s on two cores.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lvsfab import inventory
from lvsfab.labs import docker_image
from lvsfab.labs.docker import DockerLab
from lvsfab.labs.docker_engine import Engine
from lvsfab.labs.kernel import build_kernel
from tests.e2e.conftest import engine  # noqa: F401 - a fixture

pytestmark = [pytest.mark.lab, pytest.mark.bench]

ROOT = Path(__file__).parent.parent.parent
UP = 10.0  # seconds from nothing to SSH on six hosts
ROUNDS = 5


def test_up_and_down(tmp_path: Path, engine: Engine) -> None:  # noqa: F811 - the fixture
    default = inventory.load(ROOT / "inventory/lab.yml")
    assert default.lab is not None
    own = IPv4Network("100.64.4.0/24")
    default = replace(default, lab=replace(default.lab, kernel="built", management=own))
    docker_image.build(engine, build_kernel("built", print), print)
    lab = DockerLab(default, directory=tmp_path, engine=engine)
    ups, downs = [], []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        try:
            lab.up(lambda _: None)
            ups.append(time.monotonic() - begun)
        finally:
            begun = time.monotonic()
            lab.down(lambda _: None)
            downs.append(time.monotonic() - begun)
            tmp_path.mkdir(mode=0o700, exist_ok=True)
    for name, times in (("up", ups), ("down", downs)):
        print(f"docker {name}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s")
    assert statistics.median(ups) < UP
