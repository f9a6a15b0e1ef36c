"""Pearson's chi-squared test: are counts as shares by weight would have them? Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def distance(seen: Sequence[int], weights: Sequence[int]) -> float | None:
    """How far counts are from shares by weight. None: fewer than 5 are expected somewhere, too few
    for the test.
    """
    total, whole = sum(seen), sum(weights)
    expected = [total * weight / whole for weight in weights]
    if len(seen) < 2 or min(expected) < 5:
        return None
    return sum((n - e) ** 2 / e for n, e in zip(seen, expected, strict=True))


def limit(freedom: int) -> float:
    """What a true law exceeds once in 10,000 runs (Wilson and Hilferty's approximation)."""
    quantile = 3.719  # of the normal distribution at 0.9999
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + quantile * math.sqrt(part)) ** 3)
