"""What each host had before lvsfab first changed it. Pure: text in, entries out, and back.

A journal is a text file on the host with one line a resource, in the order of the changes:
`KIND KEY JSON`, where JSON is the state that was there (`null`: absent). The first value recorded
wins. A line that is not whole (the host died while it was written) is followed by no change, so
it is passed over. One that is whole and is not understood is another version's: to pass it over
would be to lose it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from lvsfab.errors import InputError
from lvsfab.states import KINDS
from lvsfab.states.base import State


@dataclass(frozen=True, slots=True)
class Entry:
    """The state `before` that a resource of `type` named `key` had; None: absent."""

    type: type[State]
    key: str
    before: State | None

    @property
    def id(self) -> str:
        return f"{self.type.kind}:{self.key}"

    def line(self) -> str:
        return f"{self.type.kind} {self.key} {msgspec.json.encode(self.before).decode()}"


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a journal, in order, first value of each resource only. InputError."""
    found: list[Entry] = []
    for line in text.split("\n"):  # not splitlines: JSON leaves U+0085, U+2028, U+2029
        kind, _, rest = line.partition(" ")
        key, _, state = rest.partition(" ")
        try:
            msgspec.json.decode(state)
        except (msgspec.DecodeError, RecursionError):
            continue  # a place, or not whole
        try:
            type_ = KINDS[kind]
            before = msgspec.json.decode(state, type=type_ | None)
        except (KeyError, ValueError, msgspec.MsgspecError, InputError) as error:
            raise InputError(f"`{line[:200]}`: {error}") from None
        found.append(Entry(type_, key, before))
    return first(found)


def durable(entries: Iterable[Entry]) -> bool:
    """Whether what is journalled comes back after a reboot: then its journal must, too."""
    return any(entry.type.at_boot or entry.type.comes_back for entry in entries)


def first(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of several entries of one resource the first: what was there before all of them."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.id, entry)
    return tuple(found.values())


def text(entries: Iterable[Entry]) -> str:
    return "".join(entry.line() + "\n" for entry in entries)
