"""What `make demo` does on a new machine: the distribution's own kernel, and what it lacks. With
`BACKEND=docker` the same kernel, in containers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import LabUnderTest, inventory_file, running

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def prebuilt(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    own = {"kernel: built": "kernel: prebuilt", "100.64.10.0": "100.64.5.0"}
    folder = tmp_path_factory.mktemp("prebuilt")  # a name for each process: the other has the other
    path = inventory_file(folder, f"prebuilt-{os.getpid()}", backend, **own)
    with running(path, backend) as lab:
        yield lab


def test_one_command_builds_and_proves_a_cluster(prebuilt: LabUnderTest) -> None:
    done = prebuilt.cli("up", "tun")
    assert "PROVED" in done.out
    assert prebuilt.cli("verify", "--json").json["status"] == "pass"


def test_what_this_kernel_cannot_do_is_said_before_anything_is_changed(
    prebuilt: LabUnderTest,
) -> None:
    prebuilt.cli("up", "dr", "--no-verify")
    refused = prebuilt.cli("up", "dr", "--set", "arp=arptables", "--json", code=64)
    error = refused.json
    assert error["error"] == "InputError"
    assert "rs1" in error["message"]
    assert "arp" in error["message"]
    assert "--kernel built" in error["tip"]
    assert prebuilt.cli("plan", "dr", "--json").json["changes"] == 0
