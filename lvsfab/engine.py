"""The run: read every host, plan, change phase by phase, re-read. One shell a host for all of it.

The engine decides nothing (plan.py does) and prints nothing: it emits events. Hosts are worked on
at the same time within a phase; a failure lets its phase finish and ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import TypeVar

from lvsfab import apply, journal, persist, scripts, wire
from lvsfab.apply import Emit as Emit  # noqa: PLC0414 - these two are the engine's words
from lvsfab.apply import Event as Event  # noqa: PLC0414
from lvsfab.errors import HostError, UnreachableError
from lvsfab.journal import Entry
from lvsfab.outcome import Outcome
from lvsfab.plan import (
    HostPlan,
    Step,
    feasible,
    plan_host,
    quiesced,
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
PARALLEL = 64

T = TypeVar("T")


class Engine:
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
        self._name = name
        self._break_lock = break_lock
        self._connect = connect
        self._emit = emit
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="host")
        self.shells: dict[str, Shell] = {}
        self.marks: dict[str, str] = {}
        self.handshakes: dict[str, int] = {}
        self._reads: dict[str, HostRead] = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for shell in self.shells.values():
            shell.close()
        self.shells.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def each(
        self, hosts: Iterable[str], work: Callable[[str], T]
    ) -> tuple[dict[str, T], dict[str, HostError]]:
        """`work` for all hosts at once: results, and errors, by host."""
        results: dict[str, T] = {}
        errors: dict[str, HostError] = {}
        futures: dict[Future[T], str] = {self._pool.submit(work, host): host for host in hosts}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except HostError as error:
                errors[futures[future]] = error
        return results, errors

    def shell(self, host: str) -> Shell:
        if host not in self.shells:
            self.shells[host] = self._further(host)
        return self.shells[host]

    def _further(self, host: str) -> Shell:
        """One more connection to a host."""
        self.handshakes[host] = self.handshakes.get(host, 0) + 1
        return self._connect(host)

    def _lose(self, host: str) -> None:
        """A link that failed is not used again: what follows on that host connects anew."""
        shell = self.shells.pop(host, None)
        if shell is not None:
            shell.close()

    def renew(self, hosts: Iterable[str]) -> None:
        """Fresh shells on these hosts; one that cannot be reached has none."""
        for host in (hosts := tuple(hosts)):
            self._lose(host)
        self.each(hosts, self.shell)

    @property
    def execs(self) -> dict[str, int]:
        """How many commands were started over SSH on each host: one shell, however long the run."""
        return {host: shell.execs for host, shell in self.shells.items()}

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
        read and every plan can be carried out.

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
        outcome = Outcome(plans)
        cluster = compiled.cluster
        first = [host for host in plans if cluster is not None and host in cluster.directors]
        self._mark(outcome, {h: mark for h in first if self.marks.get(h, "") != mark})
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
        if not outcome.failed:
            self._finish(outcome)
        if outcome.failed and rollback:
            self._roll_back(outcome, owner, before, {h: marks.get(h, "") for h in first})
        elif outcome.failed:
            self._quiesce(outcome, compiled)
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

    def _quiesce(self, outcome: Outcome, compiled: Compiled) -> None:
        """No new connection goes to a real server that failed."""
        cluster = compiled.cluster
        if cluster is None or cluster.director not in outcome.plans:
            return
        unready = {*outcome.failed, *outcome.not_reached}
        away = {str(s.address) for s in cluster.real_servers if s.name in unready}
        director = cluster.director
        wanted = compiled.resources(director)
        if director in outcome.failed or not away:
            return
        reads, _ = self.read({director: wanted})
        if director not in reads:
            return
        steps = quiesced(wanted, reads[director].haves, away)
        if steps:
            self._emit(Event("note", director, f"drains {', '.join(sorted(away))}: not ready"))
            self._change(outcome, {director: steps})

    def _roll_back(
        self,
        outcome: Outcome,
        owner: str,
        before: Mapping[str, HostRead],
        marks: Mapping[str, str],
    ) -> None:
        """Every host back to what it was before this run, whatever the run had come to."""
        entries = {
            plan.host: journal.first(
                Entry(s.resource.type, s.resource.key, s.have) for s in plan.steps
            )
            for plan in outcome.plans.values()
        }
        failed = dict(outcome.failed)
        self._emit(Event("phase", text="rollback"))
        reads, errors = self.read(
            {h: [Resource(e.type, e.key, None) for e in found] for h, found in entries.items()},
            owner=owner,
        )
        back = Outcome(
            {
                host: replace(
                    plan_host(host, (), reads[host].haves, entries[host]),
                    keep=before[host].journal,
                    keep_last=before[host].journal,
                    forget=True,
                )
                for host in reads
            },
            failed=dict(errors),
        )
        self._undo(back, [[h for h in marks if h in reads], [h for h in reads if h not in marks]])
        self._mark(back, {h: m for h, m in marks.items() if h in reads})
        outcome.returned = [h for h in reads if h not in back.failed]
        outcome.failed = back.failed | failed
        outcome.not_reached = []

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
        for host, error in errors.items():
            needed = host in compiled.hosts
            if isinstance(error, UnreachableError) and (skip_unreachable or not needed):
                self._emit(Event("note", host, f"left out: {error.message}"))
                continue
            raise error
        self._reads = reads
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
        """Every host back to what its journal says; `first` (directors) before the others."""
        reads, errors = self.read(dict.fromkeys(hosts, ()), owner=owner)
        self._reads = reads
        for error in errors.values():
            if not isinstance(error, UnreachableError):
                raise error
        plans = {h: plan_host(h, (), r.haves, r.journal) for h, r in reads.items()}
        plans |= {h: replace(p, forget=True) for h, p in plans.items() if reads[h].left}
        outcome = Outcome(plans, failed=dict(errors))
        self._undo(
            outcome, [[h for h in plans if h in first], [h for h in plans if h not in first]]
        )
        marked = [h for h in plans if h in self.marks and h not in outcome.failed]
        self._mark(outcome, dict.fromkeys(marked, ""))
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
        for group in groups:
            plans = [outcome.plans[host] for host in group if host not in outcome.failed]
            self._change(outcome, {plan.host: plan.undo for plan in plans if plan.undo})
            confirmed = [p for p in plans if p.forget and p.host not in outcome.failed]
            self._forget(outcome, {plan.host: plan.keep for plan in confirmed})

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
            if isinstance(error, UnreachableError):
                self._lose(host)
            self._emit(Event("failed", host, error.message))
