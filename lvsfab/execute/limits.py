"""How many hosts at once, how many before a pause, how many failures before the end; how large
a file. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lvsfab.errors import InputError

PARALLEL = 64
MOST = 1024**3  # bytes of a file that is fetched, unless told otherwise


@dataclass(frozen=True, slots=True)
class Share:
    """A number of hosts: `N`, or `P%` of them (rounded up, never 0)."""

    number: float
    percent: bool = False

    def of(self, hosts: int) -> int:
        if not self.percent:
            return int(self.number)
        return max(1, -int(-hosts * self.number // 100))

    def __str__(self) -> str:
        return f"{self.number:g}{'%' if self.percent else ''}"


def share(text: str, what: str = "") -> Share:
    """`12` or `25%`. InputError for anything else, and for 0."""
    match = re.fullmatch(r"([0-9]{1,7})(%?)", text.strip())
    number = int(match[1]) if match else 0
    percent = bool(match and match[2])
    if not 0 < number <= (100 if percent else 10_000_000):
        raise InputError(f"`{text}` is neither a number of hosts nor a percentage", key=what)
    return Share(number, percent)


def size_of(text: str, what: str = "") -> int:
    """`500M`, `2G` or a number of bytes. InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", text.strip().upper())
    if match is None:
        raise InputError(f"`{text}` is no size: 500M, 2G, or bytes", key=what)
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


@dataclass(frozen=True, slots=True)
class Limits:
    """`parallel` hosts at once; `batch`: the next ones only when these are all done; `max_fail`:
    once so many failed (or were unreachable), no further host is begun.
    """

    parallel: int = PARALLEL
    batch: Share | None = None
    max_fail: Share | None = None

    def batches(self, hosts: Sequence[str]) -> list[list[str]]:
        size = self.batch.of(len(hosts)) if self.batch is not None else max(1, len(hosts))
        return [list(hosts[i : i + size]) for i in range(0, len(hosts), size)]

    def too_many(self, failed: int, hosts: int) -> bool:
        return self.max_fail is not None and failed >= self.max_fail.of(hosts)
