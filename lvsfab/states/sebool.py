"""A boolean of SELinux's policy, where SELinux is enforced (getsebool(8), setsebool(8)).

It is set until the next boot, as a sysctl is: -P would build the host's whole policy anew. Where
SELinux is not there, does not enforce, or its policy knows no such boolean, nothing is to be done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Resource, State

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Sebool(State, frozen=True, kw_only=True):
    """`name`: the policy's; `on`: its value. `enforced` is only ever read: whether it counts."""

    kind: ClassVar[str] = "sebool"
    read_only: ClassVar[frozenset[str]] = frozenset({"enforced"})
    reader: ClassVar[str] = r"""
  has getenforce && has getsebool && [ "$(getenforce 2>/dev/null)" = Enforcing ] || return 0
  getsebool "$1" 2>/dev/null
  return 0
"""

    name: str
    on: bool = True
    enforced: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"`{self.name}` is no name of a boolean", key=self.kind)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        if "absent" in args:
            raise InputError("a boolean is on or off, never absent", key=cls.kind)
        return super().build(args, context)

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        name, arrow, value = output.strip().partition(" --> ")
        if name != key or not arrow:
            return cls(name=key, enforced=False)
        return cls(name=key, on=value.split()[:1] == ["on"])

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if have is None or not have.enforced or have.on == self.on:
            return ()
        return (Change("value", _word(on=have.on), _word(on=self.on)),)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        del have
        return () if want is None else (command("setsebool", key, _word(on=want.on)),)


def _word(*, on: bool) -> str:
    return "on" if on else "off"
