"""The way back from an `up` that failed: plans that return each host to what was read before. Pure.

Directors first lose what the run gave them, then the servers go back, and last directors get back
what they had, but for what goes to a server that is not back: none sends to one that is not ready.
(keepalived has all in one file: where the run changed it, it is regained, and not lost first.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lvsfab import journal
from lvsfab.journal import Entry
from lvsfab.plan import Have, HostPlan, Step, Unsupported, plan_host
from lvsfab.reading import HostRead


def touched(plan: HostPlan, before: HostRead) -> tuple[Entry, ...]:
    """What this run (`plan`) changes and what earlier ones did, as it was before this run; in the
    order in which it is taken back, last first.
    """
    steps = [Entry(s.resource.type, s.resource.key, s.have) for s in plan.steps]
    stood = [(entry, before.haves.get(entry.id)) for entry in before.journal]
    rest = [Entry(e.type, e.key, h) for e, h in stood if not isinstance(h, Unsupported)]
    return journal.first([*steps, *rest])


def recorded(plan: HostPlan, before: HostRead) -> tuple[Entry, ...]:
    """The journal while a host goes back: whatever of both runs is there then, `down` undoes it."""
    return journal.first([*before.journal, *plan.record])


def way_back(
    before: HostRead,
    entries: Sequence[Entry],
    haves: Mapping[str, Have],
    away: Collection[str] = (),
) -> HostPlan:
    """The plan that makes of `haves` what `entries` say, with nothing new for what is `away`."""
    there = [
        replace(e, before=e.before.drained(away) or e.before) if e.before is not None else e
        for e in entries
    ]
    plan = plan_host(before.host, (), haves, there)
    return replace(plan, keep=before.journal, keep_last=before.journal, forget=True)


def losing(plan: HostPlan) -> HostPlan:
    """The part of a way back that takes away what was not there; the journal stays."""
    return replace(plan, undo=tuple(s for s in plan.undo if not _leaves(s)), forget=False)


def regaining(plan: HostPlan) -> HostPlan:
    """The other part, and the journal of before."""
    return replace(plan, undo=tuple(s for s in plan.undo if _leaves(s)))


def _leaves(step: Step) -> bool:
    """Whether there is something once the step is done."""
    return step.resource.state is not None and step.resource.state.is_there
