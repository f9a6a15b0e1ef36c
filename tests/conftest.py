"""Hypothesis for all tests: machines are busy, so nothing has a deadline; CI tries the same cases
each time (a run that finds a new one is yours, or `make fuzz`).
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "lvsfab", deadline=None, derandomize="CI" in os.environ and "LVSFAB_FUZZ" not in os.environ
)
settings.load_profile("lvsfab")
