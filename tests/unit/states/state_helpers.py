"""What tests of states share: captured output, and what a state must do to be undone."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from lvsfab.states.base import State, changes

S = TypeVar("S", bound=State)

DATA = Path(__file__).parents[2] / "data" / "states"


def captured(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def journalled(state: S) -> S:
    """`state` as it comes back out of a journal."""
    return msgspec.json.decode(msgspec.json.encode(state), type=type(state))


def said(have: State | None, want: State | None, kind: type[State], key: str) -> list[str]:
    """The commands from `have` to `want`, as a shell gets them; none when nothing differs."""
    if not changes(want, have):
        return []
    return [command.script() for command in kind.commands(key, have, want)]
