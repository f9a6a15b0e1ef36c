"""One host's changes: steps carried out over its shell. Only a fresh read says done.

Steps that could cut the controller off are carried out under the dead-man's switch (deadman.py):
the host undoes them unless a new connection confirms that it can still be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lvsfab import deadman, scripts
from lvsfab.deadman import Guard
from lvsfab.errors import AnswerError, CommandError, CutOffError, HostError, UnreachableError
from lvsfab.journal import Entry
from lvsfab.plan import Step, unfinished
from lvsfab.session import Record, Shell, by_id
from lvsfab.states.base import NOTE, Way

CHANGE_TIMEOUT = 900.0  # s for one host's changes: packages may have to be fetched
GRACE = 20.0  # s after the switch's limit for the host to be back


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `what` is read, plan, phase, step, undone, failed or note."""

    what: str
    host: str = ""
    text: str = ""
    step: Step | None = None
    seconds: float = 0.0


Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Site:
    """A host where steps are carried out. `name` is the inventory's; `connect` opens a further
    shell, `replace` makes that the one that the rest of the run goes on with.
    """

    name: str
    host: str
    shell: Shell
    emit: Emit
    connect: Callable[[], Shell]
    replace: Callable[[Shell], None]
    way: Way | None = None


def change(
    site: Site,
    steps: Sequence[Step],
    *,
    record: Sequence[Entry] = (),
    again: Sequence[Step] = (),
    overlook: bool = False,
    durable: bool = False,
) -> None:
    """Carry out `steps`, journalling `record` first. `again`: earlier steps that are only looked
    at again; `overlook`: what is to be absent may still be there, it goes later; `durable`: the
    journal must outlive a reboot. HostError.
    """
    for why, part in deadman.parts(steps, site.way):
        entries = [e for e in record if any(s.id == e.id for s in part)]
        more = tuple(again) if part[-1] is steps[-1] else ()
        if why:
            records = _guarded(site, part, entries, why, durable)
        else:
            script = scripts.change_script(
                site.name, part, record=entries, again=more, durable=durable
            )
            records = _run(site, part, script, CHANGE_TIMEOUT)
        raise_failed(site.host, records, part)
        found = scripts.haves(site.host, records)
        for step, told in unfinished((*part, *(() if why else more)), found):
            if overlook and step.undo and step.resource.state is None:
                continue
            raise CommandError(
                site.host,
                f"{step.id} did not become what was wanted: {told}",
                command="; ".join(map(str, step.commands)),
                output=by_id(records)[f"have:{step.id}"].output
                if f"have:{step.id}" in by_id(records)
                else "",
            )


def _run(site: Site, steps: Sequence[Step], script: str, timeout: float) -> list[Record]:
    done = 0

    def progress(answer: Record) -> None:
        nonlocal done
        head, _, number = answer.id.partition(":")
        if head == "do" and answer.status == 0 and number.isdecimal() and int(number) < len(steps):
            step, done = steps[int(number)], int(number) + 1
            site.emit(Event("undone" if step.undo else "step", site.host, step=step))
            for line in answer.output.splitlines():
                if line.startswith(NOTE):
                    told = line.removeprefix(NOTE)[:200]
                    site.emit(Event("note", site.host, f"{step.id} {told}"))

    try:
        return site.shell.run(script, timeout=timeout, on_record=progress, what="its changes")
    except AnswerError as error:
        at = f"{steps[done].id}: " if done < len(steps) else ""
        tip = "run it again: it goes on from here"
        raise AnswerError(site.host, at + error.message, tip=tip) from None


def _guarded(
    site: Site, steps: Sequence[Step], record: Sequence[Entry], why: str, durable: bool
) -> list[Record]:
    guard = deadman.guard(steps, site.way)
    script = scripts.change_script(site.name, steps, record=record, guard=guard, durable=durable)
    began = time.monotonic()
    records: list[Record] = []
    lost: UnreachableError | AnswerError | None = None
    try:
        records = _run(site, steps, script, guard.seconds / 2)
    except (UnreachableError, AnswerError) as error:
        lost = error
    if any(r.id in ("record", "arm") and r.status for r in records):
        return records  # nothing was changed
    time.sleep(guard.shows_after)
    try:
        fresh = site.connect()
        if not _confirmed(fresh, guard):
            raise UnreachableError(site.host, "answered too late")
    except HostError as error:
        raise _undone(site, steps, why, began + guard.seconds + GRACE, error) from None
    if lost is None:
        fresh.close()
        return records
    site.replace(fresh)  # the former shell ends with its link, whatever it was at
    stands = "a new one works, so the change stands"
    if isinstance(lost, AnswerError):
        told = f"{lost.message}; that connection was ended, {stands}"
        raise AnswerError(site.host, told, tip=lost.tip)
    raise UnreachableError(
        site.host,
        f"the link was lost while {why}; {stands}",
        tip="run it again: it goes on from here",
    )


def _confirmed(fresh: Shell, guard: Guard) -> bool:
    records = fresh.run(
        f"rec confirm deadman_confirm {guard.token}", timeout=guard.seconds / 2, what="its word"
    )
    return any(r.id == "confirm" and r.status == 0 for r in records)


def _undone(
    site: Site, steps: Sequence[Step], why: str, deadline: float, error: HostError
) -> HostError:
    """The controller was cut off: wait for the host's own undoing, and say how it went."""
    what = ", ".join(step.id for step in steps)
    site.emit(Event("note", site.host, f"cut off by {what}; waiting until the host undoes it"))
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            fresh = site.connect()
            records = fresh.run(
                "deadman_wait\n" + scripts.reads_script(s.resource for s in steps),
                timeout=50,
                what="its state",
            )
        except HostError as again:
            error = again
            continue
        site.replace(fresh)
        found = scripts.haves(site.host, records)
        left = [s.id for s in steps if s.id not in found or deadman.differs(s, found[s.id])]
        told = f"; {', '.join(left)} is not as it was" if left else " and is as it was"
        return CutOffError(
            site.host,
            f"{what} cut this controller off ({why}); the host undid it by itself{told}",
            tip="the recipe must leave the way that lvsfab comes by alone",
        )
    return UnreachableError(
        site.host,
        f"{what} cut this controller off ({why}), and the host is not back: {error.message}",
        tip="its console, or a reboot: nothing of it outlives one",
    )


def raise_failed(host: str, records: Iterable[Record], steps: Sequence[Step] = ()) -> None:
    """CommandError for the first record that says a step, or the journal, failed."""
    for record in records:
        head, _, number = record.id.partition(":")
        if record.status == 0 or head not in ("do", "record", "arm"):
            continue
        if head == "do" and number.isdecimal() and int(number) < len(steps):
            step = steps[int(number)]
            raise CommandError(
                host,
                f"{step.id} failed",
                command="; ".join(map(str, step.commands)),
                status=record.status,
                output=record.output,
            )
        what = {"arm": "the dead-man's switch cannot be armed"}.get(
            head, "its journal cannot be written"
        )
        raise CommandError(
            host, f"{what}; nothing was changed", status=record.status, output=record.output
        )
