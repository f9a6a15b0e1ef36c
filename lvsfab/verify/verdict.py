"""What verify says: checks with the facts behind them, a row per real server, one cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing proved, disproved, or not to be known. `fact` is a sentence with what was seen;
    `blamed` host names; `advice` the next thing to do (FAIL, UNCHECKED).
    """

    id: str
    title: str
    status: Status
    fact: str
    blamed: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One real server. `answered`: requests of the batch that it answered; `expected`: how many
    the scheduler's law gives it (None: the law says nothing per server); `conns`, `in_pkts`,
    `out_pkts`: what the director counted for it in the meantime; `logged`: lines in its log.
    """

    name: str
    address: str
    weight: int
    expected: int | None
    answered: int
    conns: int | None = None
    in_pkts: int | None = None
    out_pkts: int | None = None
    logged: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole. `status` is PASS only when every check passed; FAIL when one failed. `cause` is
    the failed check that comes first on the packet's way (None: none failed). `outcomes`: how
    many of the requests ended how ("answered", "timed out", ...); their sum is `requests`.
    """

    recipe: str
    method: str
    service: str
    scheduler: str
    status: Status
    requests: int
    answered: int
    held: bool
    rows: tuple[ServerRow, ...]
    checks: tuple[Check, ...]
    cause: Check | None
    seconds: float = 0.0
    batch_seconds: float = 0.0
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.status is Status.PASS


def overall(checks: tuple[Check, ...]) -> Status:
    found = {check.status for check in checks}
    if Status.FAIL in found:
        return Status.FAIL
    return Status.PASS if found == {Status.PASS} else Status.UNCHECKED
