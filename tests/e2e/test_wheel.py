"""The wheel alone, in a new environment and an empty directory, is all that a person needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory of its own, with a short name: a socket's path has 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="lw"))
    yield path
    shutil.rmtree(path)


def test_the_wheel_carries_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "lvsfab/data/recipes/tun.yml" in names
    assert "lvsfab/data/inventory/lab.yml" in names
    assert "lvsfab/data/docker/init" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_wheel_alone_builds_and_proves_a_cluster(
    wheel: Path, runtime: Path, tmp_path: Path
) -> None:
    venv, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    install = [str(venv / "bin/pip"), "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    environment.pop("PYTHONPATH", None)

    def lvsfab(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(venv / "bin/lvsfab"), *argv],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    try:
        done = lvsfab("up", "tun")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "PROVED" in done.stdout
        assert lvsfab("down").returncode == 0
    finally:
        lvsfab("lab", "down")
    assert not list(empty.iterdir())
    assert not list(runtime.iterdir())
