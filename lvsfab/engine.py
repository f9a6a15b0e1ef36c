"""The run: read every host, plan, change phase by phase, re-read. One shell a host for all of it.

The engine decides nothing (plan.py does) and prints nothing: it emits events. Hosts are worked on
at the same time within a phase; a failure lets its phase finish and ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from lvsfab import apply, persist, rollback, scripts, wire
from lvsfab.apply import Emit as Emit  # noqa: PLC0414 - these two are the engine's words
from lvsfab.apply import Event as Event  # noqa: PLC0414
from lvsfab.errors import AnswerError, HostError, LockedError, UnreachableError
from lvsfab.journal import Entry
from lvsfab.links import Links
from lvsfab.outcome import Outcome
from lvsfab.plan import (
    HostPlan,
    Step,
    feasible,
    plan_host,
    quiesced,
    relieved,
    shared_addresses,
    stray_addresses,
    unopposed,
)
from lvsfab.reading import HostRead, host_read
from lvsfab.recipe import Compiled
from lvsfab.session import Shell
from lvsfab.states.base import Resource
from lvsfab.wire import Question

READ_TIMEOUT = 60.0  # s for one host to say all that it has


class Engine(Links):
    """Runs on the hosts of one inventory. `connect` opens a shell on a host (may raise
    UnreachableError); the shells stay open until `close`, so verify can go on with them.
    """

    undoing = True  # whether what a journal has and nobody wants any more is undone

    def __init__(
        self,
        name: str,
        connect: Callable[[str], Shell],
        emit: Emit,
        *,
        break_lock: bool = False,
    ) -> None:
        super().__init__(connect)
        self._name = name
        self._break_lock = break_lock
        self._emit = emit
        self.marks: dict[str, str] = {}
        self._reads: dict[str, HostRead] = {}
        self._left_out: dict[str, HostError] = {}

    def read(
        self,
        wanted: Mapping[str, Sequence[Resource]],
        *,
        owner: str = "",
        asked: Mapping[str, Sequence[Question]] | None = None,
    ) -> tuple[dict[str, HostRead], dict[str, HostError]]:
        """Read all hosts named in `wanted`; `owner` locks each for this run; `asked`: what hosts
        ask their network.
        """
        asked = asked or {}

        def one(host: str) -> HostRead:
            began = time.monotonic()
            script = scripts.read_script(
                self._name,
                wanted[host],
                owner,
                break_lock=self._break_lock,
                undoing=self.undoing,
                asked=asked.get(host, ()),
            )
            records = self.shell(host).run(script, timeout=READ_TIMEOUT, what="its state")
            found = host_read(host, records, wanted[host])
            for note in found.notes:
                self._emit(Event("note", host, note))
            self._emit(Event("read", host, seconds=time.monotonic() - began))
            return found

        reads, errors = self.each(wanted, one)
        self.marks |= {host: found.mark for host, found in reads.items() if found.mark}
        return reads, errors

    def up(
        self,
        compiled: Compiled,
        owner: str,
        *,
        mark: str = "",
        skip_unreachable: bool = False,
        only: Collection[str] = (),
        adopt: bool = False,
        rollback: bool = False,
        keep: bool = False,
    ) -> Outcome:
        """Bring a compiled recipe about. Nothing is changed unless every host that takes part was
        read and every plan can be carried out; with `skip_unreachable` those that do not answer are
        left out, and the directors send them nothing.

        `mark`: what the directors are told is up, for later runs from anywhere. `only`: resource
        kinds; nothing else is changed, nothing is undone. `adopt`: what somebody else put
        in the way is changed (and recorded) too. `rollback`: if a host fails, all go back to what
        they were. `keep`: it survives a reboot. ConflictError.
        """
        plans = self.plan(
            compiled, owner=owner, skip_unreachable=skip_unreachable, only=only, keep=keep
        )
        if not adopt:
            unopposed(plans.values())
        before, marks = dict(self._reads), dict(self.marks)
        outcome = Outcome(plans, left_out=self._left_out)
        cluster = compiled.cluster
        directors = [h for h in plans if cluster is not None and h in cluster.directors]
        told = {h: "" for h in plans if self.undoing and not only and marks.get(h)}
        told |= dict.fromkeys(directors, mark)
        first = list(told)  # with those that were directors and are none now
        self._mark(outcome, {h: word for h, word in told.items() if marks.get(h, "") != word})
        self._undo(outcome, [first, [h for h in plans if h not in first]])
        for phase in compiled.phases:
            ids = {h: {r.id for r in found} for h, found in phase.resources.items() if h in plans}
            work = {h: [s for s in plans[h].apply if s.id in ids[h]] for h in ids}
            work = {host: steps for host, steps in work.items() if steps}
            if outcome.failed:
                outcome.not_reached += work
                continue
            if work:
                self._emit(Event("phase", text=phase.on))
            self._change(outcome, work)
        unready = {*outcome.not_reached, *outcome.left_out}
        if outcome.failed:
            outcome.not_reached += [p.host for p in plans.values() if p.late or p.last]
        else:
            self._finish(outcome)
        if outcome.failed and rollback:
            self._roll_back(outcome, compiled, owner, before, {h: marks.get(h, "") for h in first})
        elif outcome.failed:
            self._quiesce(outcome, compiled, unready)
        outcome.settle()
        return outcome

    def _finish(self, outcome: Outcome) -> None:
        """What comes after the phases: what others stood on goes, what a boot does comes."""
        plans = outcome.plans.values()
        self._change(outcome, {p.host: p.late for p in plans if p.late})
        good = [p for p in plans if p.host not in outcome.failed]
        self._forget(outcome, {p.host: p.keep_last for p in good if p.late or p.moves})
        good = [p for p in good if p.host not in outcome.failed]
        self._change(outcome, {p.host: p.last for p in good if p.last})

    def _quiesce(self, outcome: Outcome, compiled: Compiled, unready: Collection[str]) -> None:
        """No director sends a new connection to a real server that failed or is `unready`."""
        if compiled.cluster is None:
            return
        away = compiled.cluster.addresses({*outcome.failed, *unready})
        able = [h for h in compiled.cluster.directors if h in outcome.plans]
        wanted = {h: compiled.resources(h) for h in able if h not in outcome.failed}
        if not away or not wanted:
            return
        reads, errors = self.read(wanted)
        self._fail(outcome, errors)
        work = {h: quiesced(wanted[h], read.haves, away) for h, read in reads.items()}
        work = {host: steps for host, steps in work.items() if steps}
        for director, steps in work.items():
            self._emit(Event("note", director, f"drains {', '.join(sorted(away))}: not ready"))
            plan = outcome.plans[director]
            known = {entry.id for entry in self._reads[director].journal}
            more = [Entry(s.resource.type, s.resource.key, s.have) for s in steps]
            record = (*plan.record, *(entry for entry in more if entry.id not in known))
            outcome.plans = {**outcome.plans, director: replace(plan, record=record)}
        self._change(outcome, work)

    def _roll_back(
        self,
        outcome: Outcome,
        compiled: Compiled,
        owner: str,
        before: Mapping[str, HostRead],
        marks: Mapping[str, str],
    ) -> None:
        """Every host back to what it was before this run, whatever the run had come to
        (rollback.py). `marks`: what the directors said was up.
        """
        plans = outcome.plans
        entries = {host: rollback.touched(plan, before[host]) for host, plan in plans.items()}
        failed = dict(outcome.failed)
        self._emit(Event("phase", text="rollback"))
        reads, errors = self.read(
            {h: [Resource(e.type, e.key, None) for e in found] for h, found in entries.items()},
            owner=owner,
        )

        def ways(hosts: Iterable[str], away: Collection[str] = ()) -> dict[str, HostPlan]:
            there = [(h, reads[h].haves) for h in hosts if h in reads]
            return {h: rollback.way_back(before[h], entries[h], have, away) for h, have in there}

        first = {h: rollback.losing(p) if h in marks else p for h, p in ways(plans).items()}
        back = Outcome(first, failed=dict(errors))
        both = {h: rollback.recorded(plans[h], before[h]) for h in reads if before[h].journal}
        self._forget(back, both)
        self._undo(back, [list(marks), [h for h in reads if h not in marks]])
        away = compiled.behind({*back.failed, *outcome.left_out})
        regained = {h: rollback.regaining(p) for h, p in ways(marks, away).items()}
        back.plans = {**back.plans, **regained}
        if any(host in back.failed for host in marks):
            back.not_reached += regained
        else:
            self._undo(back, [list(regained)])
        kept = {*back.failed, *back.not_reached}
        self._mark(back, {h: m for h, m in marks.items() if h not in kept})
        back.settle()
        outcome.returned = back.done
        outcome.failed = back.failed | failed
        outcome.not_reached = back.not_reached

    def plan(
        self,
        compiled: Compiled,
        *,
        owner: str = "",
        skip_unreachable: bool = False,
        only: Collection[str] = (),
        keep: bool = False,
    ) -> dict[str, HostPlan]:
        """The plan of every host; `keep`: what makes it survive a reboot is part of it. Raises the
        first host's error, or InputError where a host cannot have what is wanted.
        """
        wanted = {host: compiled.resources(host) for host in compiled.inventory.hosts}
        shared = shared_addresses(r for found in wanted.values() for r in found)
        places = persist.places(self._name) if keep else ()
        reads, errors = self.read(
            {h: (*r, *places) for h, r in wanted.items()},
            owner=owner,
            asked=wire.questions(compiled.cluster, compiled.inventory),
        )
        self._left_out = {}
        for host, error in errors.items():
            needed = host in compiled.hosts
            if isinstance(error, UnreachableError) and (skip_unreachable or not needed):
                self._emit(Event("note", host, f"left out: {error.message}"))
                self._left_out |= {host: error} if needed else {}
                continue
            raise error
        self._reads = reads
        if compiled.cluster is not None:
            away = compiled.cluster.addresses(self._left_out)
            wanted |= {h: relieved(wanted[h], away) for h in compiled.cluster.directors}
        macs = {mac for read in reads.values() for mac in read.others.macs}
        plans = {}
        for host, read in reads.items():
            kept = persist.kept(self._name, wanted[host], read.haves, read.journal) if keep else ()
            seen = (read.haves, read.journal, read.others)
            plan = plan_host(host, wanted[host], *seen, kept, undoing=self.undoing)
            stray = stray_addresses(shared, wanted[host], read.journal, read.others)
            strange = wire.strangers(read.answers, macs, [h for h in wanted if h not in reads])
            plans[host] = replace(plan, conflicts=plan.conflicts + stray + strange)
        plans = {host: plans[host] for host in wanted if host in plans}
        if only:
            plans = {host: plan.only(only) for host, plan in plans.items()}
        feasible(compiled.recipe.name, plans.values())
        return plans

    def down(self, hosts: Sequence[str], owner: str, first: Sequence[str] = ()) -> Outcome:
        """Every host back to what its journal says; `first` (directors) before the others.

        A host that does not answer keeps no other from being cleaned: a director that is gone
        sends nothing, and waiting for it would leave all others as they are. One that answers and
        cannot be read or undone still sends to what is behind it, which is left as it is.
        """
        reads, errors = self.read(dict.fromkeys(hosts, ()), owner=owner)
        self._reads = reads
        for error in errors.values():
            if isinstance(error, LockedError):
                raise error
        plans = {h: plan_host(h, (), r.haves, r.journal) for h, r in reads.items()}
        plans |= {h: replace(p, forget=True) for h, p in plans.items() if reads[h].left}
        outcome = Outcome(plans, failed=dict(errors))
        gone = {h for h, error in errors.items() if isinstance(error, UnreachableError)}
        sending = [h for h in hosts if h in first and h not in gone]
        self._undo(outcome, [sending, [h for h in plans if h not in first]])
        kept = {*outcome.failed, *outcome.not_reached}
        self._mark(outcome, {h: "" for h in plans if h in self.marks and h not in kept})
        outcome.settle()
        return outcome

    def _mark(self, outcome: Outcome, marks: Mapping[str, str]) -> None:
        def one(host: str) -> None:
            durable = outcome.plans[host].durable
            script = scripts.mark_script(self._name, marks[host], durable=durable)
            records = self.shell(host).run(script, timeout=READ_TIMEOUT, what="its mark")
            apply.raise_failed(host, records)

        _, errors = self.each(marks, one)
        self._fail(outcome, errors)

    def _undo(self, outcome: Outcome, groups: Sequence[Sequence[str]]) -> None:
        """Undo what is not wanted any more, one group after the other. A failure ends it after its
        group: what a director still does needs the servers behind it as they are.
        """
        stopped = False
        for group in groups:
            plans = [outcome.plans[host] for host in group if host not in outcome.failed]
            if stopped:
                outcome.not_reached += [p.host for p in plans if p.undo or p.forget]
                continue
            self._change(outcome, {plan.host: plan.undo for plan in plans if plan.undo})
            confirmed = [p for p in plans if p.forget and p.host not in outcome.failed]
            self._forget(outcome, {plan.host: plan.keep for plan in confirmed})
            stopped = any(host in outcome.failed for host in group)

    def _forget(self, outcome: Outcome, keep: Mapping[str, Sequence[Entry]]) -> None:
        def one(host: str) -> None:
            script = scripts.forget_script(self._name, keep[host])
            records = self.shell(host).run(script, timeout=READ_TIMEOUT, what="its journal")
            apply.raise_failed(host, records)

        _, errors = self.each(keep, one)
        self._fail(outcome, errors)

    def _change(self, outcome: Outcome, work: Mapping[str, Sequence[Step]]) -> None:
        """Carry out steps on hosts, all hosts at once (apply.py)."""

        def one(host: str) -> None:
            plan, steps = outcome.plans[host], work[host]
            late = steps is plan.late
            read = self._reads.get(host)
            apply.change(
                apply.Site(
                    self._name,
                    host,
                    self.shell(host),
                    self._emit,
                    connect=lambda: self._further(host),
                    replace=lambda fresh: self._replace(host, fresh),
                    way=read.way if read is not None else None,
                ),
                steps,
                record=plan.record,
                again=[s for s in plan.undo if s.resource.state is None] if late else [],
                overlook=bool(plan.late) and not late,
                durable=plan.durable,
            )

        _, errors = self.each(work, one)
        self._fail(outcome, errors)

    def _replace(self, host: str, fresh: Shell) -> None:
        self._lose(host)
        self.shells[host] = fresh

    def _fail(self, outcome: Outcome, errors: Mapping[str, HostError]) -> None:
        for host, error in errors.items():
            outcome.failed.setdefault(host, error)
            if isinstance(error, UnreachableError | AnswerError):
                self._lose(host)
            self._emit(Event("failed", host, error.message))
