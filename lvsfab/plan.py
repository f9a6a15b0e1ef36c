"""From what is wanted, what is there and what was there before: the steps. Pure.

`plan` and `up` share this, so a dry run cannot say what a run does not do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lvsfab import journal as journals
from lvsfab.errors import ConflictError, InputError
from lvsfab.journal import Entry
from lvsfab.session import Command
from lvsfab.states.base import Change, Others, Resource, State, changes


@dataclass(frozen=True, slots=True)
class Unsupported:
    """In place of a state: the host cannot have this resource, and why."""

    reason: str


Have = State | None | Unsupported


@dataclass(frozen=True, slots=True)
class Step:
    """One resource to change on one host: from `have` to `want` by `commands`."""

    resource: Resource
    have: State | None
    changes: tuple[Change, ...]
    commands: tuple[Command, ...]
    undo: bool = False

    @property
    def id(self) -> str:
        return self.resource.id


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What a run does on one host: `undo` (what no longer is wanted), `apply`, `late`, the undoing
    of what the undone stood on (a module may be in use until `apply` is done), and `last`, what
    keeps all of it over a reboot.

    `record`: journal entries to write before the first change; `keep`: the journal's entries
    that stay once `undo` is done, `keep_last` those that stay once `late` is. `moves`: the journal
    must be where a reboot leaves it before `last`. `problems`: why it cannot be done, `conflicts`:
    what somebody else put there and would be lost; one sentence each.
    """

    host: str
    undo: tuple[Step, ...] = ()
    apply: tuple[Step, ...] = ()
    record: tuple[Entry, ...] = ()
    late: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    keep: tuple[Entry, ...] = ()
    keep_last: tuple[Entry, ...] = ()
    forget: bool = False
    moves: bool = False
    problems: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.undo + self.apply + self.late + self.last

    @property
    def durable(self) -> bool:
        """Whether a reboot of the host will leave what is there."""
        return journals.durable(self.keep_last)

    def only(self, kinds: Collection[str]) -> HostPlan:
        """The part of the plan that changes resources of some kinds, and undoes nothing."""
        apply = tuple(step for step in self.apply if step.resource.type.kind in kinds)
        ids = {step.id for step in (*apply, *self.last)}
        return HostPlan(
            host=self.host,
            apply=apply,
            last=self.last,
            record=tuple(entry for entry in self.record if entry.id in ids),
            keep_last=self.keep_last,
        )


def plan_host(
    host: str,
    wanted: Sequence[Resource],
    haves: Mapping[str, Have],
    journal: Sequence[Entry],
    others: Others | None = None,
    kept: Sequence[Resource] = (),
    *,
    undoing: bool = True,
) -> HostPlan:
    """The plan for one host. `haves` has a state for each wanted and each journalled resource;
    `others`: what else is there; `kept`: what keeps the wanted over a reboot (persist.py).

    What the journal has and nobody wants is undone (unless not `undoing`); with nothing wanted that
    is a whole `down`.
    """
    ids = {resource.id for resource in (*wanted, *kept)}
    # last first, but what others may stand on goes after them (a later run may have put it there)
    # and comes back before them
    gone = sorted(
        (entry for entry in reversed(journal) if undoing and entry.id not in ids),
        key=lambda e: e.type.foundation * (-1 if e.before and e.before.is_there else 1),
    )
    undo = [(entry, step) for entry in gone if (step := _undo(entry, haves)) is not None]
    later = {entry.id for entry, _ in undo if wanted and entry.type.foundation}
    problems: list[str] = []
    conflicts: list[str] = []
    known = {entry.id for entry in journal}
    apply: list[Step] = []
    for resource in (*wanted, *kept):
        have = haves.get(resource.id)
        if isinstance(have, Unsupported):
            problems.append(f"{resource.id}: {have.reason}")
            continue
        if resource.id not in known and resource.state is not None:
            taken = resource.type.taken(resource.key, have, resource.state, others or Others())
            conflicts += [f"{resource.id}: {taken}"] if taken else []
        found = changes(resource.state, have)
        if found:
            commands = resource.type.commands(resource.key, have, resource.state)
            if not commands:
                told = ", ".join(f"{c.field} is {c.have}, wanted {c.want}" for c in found)
                problems.append(f"{resource.id}: {told}; it cannot be changed on this host")
                continue
            apply.append(Step(resource, have, found, commands))
    added = _added_members(wanted, haves, known)
    conflicts += [
        f"{step.id}: somebody added it to a service of ours; --adopt takes it out for good"
        for step in added
    ]
    late = [entry for entry, _ in undo if entry.id in later]
    record = tuple(
        Entry(step.resource.type, step.resource.key, _inherited(step, late))
        for step in apply
        if step.id not in known
    )
    last_ids = {resource.id for resource in kept}
    first, last = _off_and_on(
        [*(added if undoing else ()), *(step for entry, step in undo if entry.id not in later)],
        [step for step in apply if step.id in last_ids],
        haves if any(e.id not in last_ids for e in (*record, *gone)) else {},
        kept,
    )
    return HostPlan(
        host=host,
        undo=first,
        apply=tuple(step for step in apply if step.id not in last_ids),
        last=last,
        moves=journals.durable(record) and bool(journal),
        late=tuple(step for entry, step in undo if entry.id in later),
        record=record,
        keep=tuple(entry for entry in journal if entry.id in ids | later),
        keep_last=(*(e for e in journal if e.id in ids or not undoing), *record),
        forget=undoing and any(entry.id not in ids for entry in journal),
        problems=tuple(problems),
        conflicts=tuple(conflicts),
    )


def _inherited(step: Step, late: Sequence[Entry]) -> State | None:
    """What was there before `step`, with what entries of its kind that go after it leave to it."""
    have = step.have
    for entry in late:
        if have is not None and entry.before is not None and entry.type is step.resource.type:
            have = have.inherits(entry.before)
    return have


def _added_members(
    wanted: Sequence[Resource], haves: Mapping[str, Have], known: Collection[str]
) -> list[Step]:
    """Steps that take out what neither the recipe nor an earlier run (`known`) put into what a run
    of ours made: to a real server that somebody added goes part of the requests.
    """
    ids = {resource.id for resource in wanted} | set(known)
    found = []
    for resource in wanted:
        have = haves.get(resource.id)
        if resource.id not in known or not isinstance(have, State):
            continue
        for member in have.members(resource.key):
            if member.id not in ids:
                commands = member.type.commands(member.key, None, None)
                gone = (Change("", "present", "absent"),)
                found.append(Step(member, None, gone, commands, undo=True))
    return found


def _off_and_on(
    undo: Sequence[Step], last: Sequence[Step], haves: Mapping[str, Have], kept: Sequence[Resource]
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """`undo` and `last`, so that nothing is made at boot while the journal changes: a boot in the
    middle would bring back what is journalled no more, or not yet.
    """
    for boot in kept:
        have = haves.get(boot.id)
        if not boot.type.at_boot or not isinstance(have, State):
            continue
        absent, commands = Resource(boot.type, boot.key, None), boot.type.commands
        gone = changes(None, have)
        off = Step(absent, have, gone, commands(boot.key, None, None), undo=True)
        made = changes(boot.state, None)
        on = Step(boot, None, made, commands(boot.key, None, boot.state))
        return (off, *undo), (*(step for step in last if step.id != boot.id), on)
    return tuple(undo), tuple(last)


def stray_addresses(
    shared: Collection[str], wanted: Sequence[Resource], journal: Sequence[Entry], others: Others
) -> tuple[str, ...]:
    """Of the addresses that a recipe shares out (VIPs), those that a host has where neither the
    recipe nor an earlier run put them: a conflict each.
    """
    known = [(r.type, r.key) for r in wanted] + [(entry.type, entry.key) for entry in journal]
    if any(kind.moves_addresses for kind, _ in known):
        return ()  # they come and go
    ours = {kind.places(key) for kind, key in known}
    return tuple(
        f"{address} is on {dev}, where the recipe does not put it"
        for address, dev in others.addresses
        if address in shared and (address, dev) not in ours
    )


def shared_addresses(wanted: Iterable[Resource]) -> set[str]:
    """The addresses that wanted resources put on hosts and several hosts may have."""
    return {r.state.shared for r in wanted if r.state is not None and r.state.shared}


def quiesced(
    wanted: Iterable[Resource], haves: Mapping[str, Have], addresses: Collection[str]
) -> tuple[Step, ...]:
    """Steps on a director that give the real servers at `addresses` weight 0, where they have
    another: no new connection reaches a server that is not ready.
    """
    steps = []
    for resource in wanted:
        have = haves.get(resource.id)
        if not isinstance(have, State) or (state := have.drained(addresses)) is None:
            continue
        commands = resource.type.commands(resource.key, have, state)
        drained = Resource(resource.type, resource.key, state)
        steps.append(Step(drained, have, changes(state, have), commands))
    return tuple(steps)


def relieved(wanted: Iterable[Resource], addresses: Collection[str]) -> tuple[Resource, ...]:
    """What is wanted of a director while the real servers at `addresses` are left out of a run:
    that it sends them nothing.
    """
    return tuple(
        replace(r, state=r.state.drained(addresses) or r.state) if r.state is not None else r
        for r in wanted
    )


def feasible(recipe: str, plans: Iterable[HostPlan]) -> None:
    """InputError where a host cannot have what is wanted."""
    problems = [f"  {plan.host}: {problem}" for plan in plans for problem in plan.problems]
    if problems:
        raise InputError(
            f"recipe {recipe} cannot be done; nothing was changed:\n" + "\n".join(problems),
            tip="in a lab: `lvsfab lab build --kernel built`, `lvsfab lab down`, and again; "
            "elsewhere: a kernel that has what is missing",
        )


def unopposed(plans: Iterable[HostPlan]) -> None:
    """ConflictError where somebody else put something in the way."""
    conflicts = [f"  {plan.host}: {what}" for plan in plans for what in plan.conflicts]
    if conflicts:
        raise ConflictError(
            "what somebody else put there is in the way; nothing was changed:\n"
            + "\n".join(conflicts),
            tip="take it away, or --adopt: what is on these hosts is recorded, changed, and `down` "
            "brings it back",
        )


def _undo(entry: Entry, haves: Mapping[str, Have]) -> Step | None:
    have = haves.get(entry.id)
    if isinstance(have, Unsupported):
        have = None
    found = changes(entry.before, have)
    commands = entry.type.commands(entry.key, have, entry.before) if found else ()
    if not commands:
        return None  # it is as it was, or goes with the resource that brought it
    resource = Resource(entry.type, entry.key, entry.before)
    return Step(resource, have, found, commands, undo=True)


def unfinished(steps: Iterable[Step], haves: Mapping[str, Have]) -> list[tuple[Step, str]]:
    """Of steps that were carried out, those that a fresh read does not confirm, and how."""
    failed = []
    steps = tuple(steps)
    gone = any(step.undo and step.resource.type.foundation for step in steps)
    for step in steps:
        have = haves.get(step.id)
        if gone and step.undo and have is None and step.resource.type.fleeting:
            continue  # it was put back, and then went with what it stood on
        if isinstance(have, Unsupported):
            failed.append((step, have.reason))
            continue
        left = changes(step.resource.state, have)
        if left:
            told = ", ".join(f"{c.field or 'it'} is {c.have}, not {c.want}" for c in left)
            failed.append((step, told))
    return failed
