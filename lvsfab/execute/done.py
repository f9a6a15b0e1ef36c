"""Which hosts were meant, and what came of something on them: values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lvsfab.execute.task import HostResult, State, exit_code

if TYPE_CHECKING:
    from lvsfab.model import Host
    from lvsfab.plan import HostPlan

Told = Callable[[HostResult], None]


def _ignore(_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Meant:
    """The hosts that a target means; `unasked`: those of which it is unknown, and why."""

    hosts: tuple[Host, ...]
    unasked: tuple[HostResult, ...] = ()

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.hosts]

    def among(self, names: Collection[str]) -> Meant:
        """Those of them that are in `names`."""
        hosts = tuple(host for host in self.hosts if host.name in names)
        return Meant(hosts, tuple(result for result in self.unasked if result.host in names))


Target = str | Sequence[str] | Meant  # the language of targets.py, host names, or what they mean


@dataclass(slots=True)
class Done:
    """What came of something on many hosts, in the inventory's order; last those of which it is
    unknown whether they were meant. `plans`: of a dry run.
    """

    results: dict[str, HostResult]
    interrupted: bool = False
    unsure: tuple[str, ...] = ()
    plans: dict[str, HostPlan] = field(default_factory=dict)

    def also(self, meant: Meant, told: Told = _ignore) -> Done:
        """With the hosts that could not be asked whether they were meant."""
        for result in meant.unasked:
            self.results[result.host] = result
            told(result)
        return self

    @property
    def ok(self) -> bool:
        return exit_code(self.results) == 0 and not self.interrupted

    @property
    def failed(self) -> dict[str, HostResult]:
        return {h: r for h, r in self.results.items() if r.state is not State.OK}

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else exit_code(self.results)
