"""A secret is not shown, and does not travel."""

from __future__ import annotations

import pickle

import pytest

from lvsfab.model import Secret
from lvsfab.transports.endpoint import Endpoint

ENDPOINT = Endpoint("h", "192.0.2.1", sudo=True, sudo_password=Secret("canary"))


def test_a_secret_prints_as_stars_wherever_it_is() -> None:
    assert "canary" not in f"{ENDPOINT} {ENDPOINT!r} {Secret('canary')}"
    assert Secret("canary").reveal() == "canary"


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(ENDPOINT)
