"""The kinds of resources. One file is one kind: adding a kind is adding a file.

`KINDS`     kind word -> its State type, found among this package's modules.
`BUILDERS`  every word a recipe line may use -> what turns it into resources: each kind, and the
            words that mean several resources (subclasses of `Composite`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from lvsfab.states.base import Context, Resource, State
from lvsfab.states.composite import Composite
from lvsfab.states.shell import SHARED


class Builder(Protocol):
    """Turns one recipe line into resources on one host."""

    @property
    def kind(self) -> str: ...

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]: ...


def _found() -> tuple[dict[str, type[State]], dict[str, Builder], str]:
    kinds: dict[str, type[State]] = {}
    builders: dict[str, Builder] = {}
    helpers = [SHARED]
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if not isinstance(value, type) or value.__module__ != module.__name__:
                continue
            if issubclass(value, State) and "kind" in vars(value):
                kinds[value.kind] = value
                builders[value.kind] = value
            elif issubclass(value, Composite) and "kind" in vars(value):
                builders[value.kind] = value()
        helpers.append(getattr(module, "HELPERS", ""))
    return kinds, builders, "\n".join(text.strip("\n") for text in helpers if text)


KINDS, BUILDERS, _HELPERS = _found()


def readers_script() -> str:
    """POSIX functions for a shell's prelude: `read_KIND KEY` for each kind, and those that
    commands use as their first word (`set_sysctl` and the like).
    """
    readers = [
        f"{name}_{kind}() {{\n{body.strip(chr(10))}\n}}"
        for kind, state in sorted(KINDS.items())
        for name, body in (("read", state.reader), ("ahead", state.ahead))
        if body
    ]
    return helpers_script() + "\n".join(readers) + "\n"


def helpers_script() -> str:
    """The functions among them that commands use: what a script without readers needs."""
    return _HELPERS + "\n"
