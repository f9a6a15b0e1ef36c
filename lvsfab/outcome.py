"""How a run ended, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lvsfab.errors import HostError
from lvsfab.plan import HostPlan


@dataclass(slots=True)
class Outcome:
    """How a run ended, host by host: `done` is as wanted, `failed` is not and why, `not_reached`
    had changes to come when the run ended. `left_out`: did not answer, and the run went on without
    it; it is among the `not_reached`. `returned`: brought back to what it was before the run.
    """

    plans: Mapping[str, HostPlan]
    done: list[str] = field(default_factory=list)
    failed: dict[str, HostError] = field(default_factory=dict)
    not_reached: list[str] = field(default_factory=list)
    left_out: Mapping[str, HostError] = field(default_factory=dict)
    returned: list[str] = field(default_factory=list)

    @property
    def changes(self) -> int:
        return sum(len(plan.steps) for plan in self.plans.values())

    @property
    def errors(self) -> list[HostError]:
        """Why not every host is as wanted; what went wrong first."""
        return [*self.failed.values(), *self.left_out.values()]

    def settle(self) -> None:
        """Sort the hosts once nothing more will be done."""
        self.not_reached += self.left_out
        self.not_reached = [h for h in dict.fromkeys(self.not_reached) if h not in self.failed]
        out = {*self.failed, *self.not_reached, *self.returned}
        self.done = [h for h in self.plans if h not in out]
