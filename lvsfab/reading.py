"""What one host said of itself, as values; an answer that makes no sense names its host. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lvsfab import deadman, journal, lock, scripts, wire
from lvsfab.errors import CommandError, InputError, LockedError
from lvsfab.journal import Entry
from lvsfab.plan import Have
from lvsfab.session import Record, by_id
from lvsfab.states.base import Others, Resource, Way
from lvsfab.wire import Answer

MAX_TOLD = 200  # characters of what cannot be read that are shown
_LOCK = {
    "stale": "took over the lock of {0.owner}, whose run is dead (for {0.age} s)",
    "broken": "ended the run of {0.owner} (for {0.age} s) and took its lock",
}


@dataclass(frozen=True, slots=True)
class HostRead:
    """`left`: there is something of ours, if only an empty place for a journal; `notes`: what a
    person should know (whose lock was taken over); `way`: how this controller reaches the host;
    `others`: addresses and listeners there, whoever put them there; `answers`: who on its network
    answered for what it was to ask about.
    """

    host: str
    haves: Mapping[str, Have]
    journal: tuple[Entry, ...]
    mark: str = ""
    left: bool = False
    notes: tuple[str, ...] = ()
    way: Way | None = None
    others: Others = field(default_factory=Others)
    answers: tuple[Answer, ...] = ()


def host_read(host: str, records: Sequence[Record], wanted: Sequence[Resource]) -> HostRead:
    """The records of `scripts.read_script`. LockedError, CommandError."""
    try:
        return _host_read(host, records, wanted)
    except (ValueError, LookupError, RecursionError) as error:
        raise CommandError(host, f"its answer makes no sense: {str(error)[:MAX_TOLD]}") from None


def _host_read(host: str, records: Sequence[Record], wanted: Sequence[Resource]) -> HostRead:
    found = by_id(records)
    if not found:
        raise CommandError(host, "gave no answer that could be read")
    taken = found.get("lock")
    told = lock.said(taken.output) if taken is not None else ()
    if taken is not None and taken.status == 3 and told:
        raise LockedError(
            host,
            f"is being changed by {told[-1].owner} (for {told[-1].age} s)",
            tip="wait until that run ends, or end it: --break-lock",
        )
    if taken is not None and taken.status != 0:
        raise CommandError(
            host,
            "cannot be locked (is the login root? is /run full or read-only?)",
            command="mkdir /run/lvsfab/lock",
            status=taken.status,
            output=taken.output,
            tip="log in as root, or set `ssh: {sudo: true}` in the inventory",
        )
    if not {"journal", "mark", "others"} <= set(found):
        raise CommandError(host, "did not say what was done to it before")
    haves = scripts.haves(host, records)
    missing = [r.id for r in wanted if r.id not in haves]
    if missing:
        raise CommandError(host, f"did not say what it has of {', '.join(missing[:3])}")
    answers, unasked = wire.answers(found["wire"].output) if "wire" in found else ((), ())
    kept, mark = found["journal"].output, found["mark"].output.strip()
    try:
        entries = journal.parse(kept)
    except InputError as error:
        raise CommandError(
            host,
            f"its journal is another version's: {error.message}",
            tip="take down what is up with the version that put it there",
        ) from None
    return HostRead(
        host,
        haves,
        entries,
        mark,
        left=bool(kept.strip() or mark),
        notes=(*(_LOCK[t.word].format(t) for t in told), *unasked),
        way=deadman.parse(found["way"].output) if "way" in found else None,
        others=scripts.others(found["others"]),
        answers=answers,
    )
