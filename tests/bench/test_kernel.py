"""How long the built kernel takes from nothing: download, unpack, compile, index."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lvsfab.labs.kernel import build_kernel

pytestmark = pytest.mark.bench

BOUND = 240.0  # seconds on two cores with nothing else to do


def test_the_kernel_from_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path))
    begun = time.monotonic()
    built = build_kernel("built", lambda text: print(f"{time.monotonic() - begun:6.1f} s {text}"))
    took = time.monotonic() - begun
    print(f"kernel {built.version} from source: {took:.0f} s, bound {BOUND:.0f} s")
    assert took < BOUND
