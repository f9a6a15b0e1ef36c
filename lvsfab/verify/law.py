"""What a scheduler's law is told, and what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvsfab.verify.verdict import Status


@dataclass(frozen=True, slots=True)
class Load:
    """A server's connections in the director's table."""

    active: int = 0
    inactive: int = 0

    @property
    def total(self) -> int:
        return self.active + self.inactive


@dataclass(frozen=True, slots=True)
class Law:
    """What the scheduler gives each server (None: no law per server), and whether it did so."""

    status: Status
    fact: str
    expected: Mapping[str, int] | None = None
    advice: str = ""
