"""A word of recipes that means several resources: no state of its own, only what it expands to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.base import Context, Resource, State
from lvsfab.states.words import plain

T = TypeVar("T", bound=msgspec.Struct)


class Composite:
    """Base of such words. `build` must be pure: it knows the recipe, not the host."""

    kind: ClassVar[str]

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        raise NotImplementedError


def arguments(args: Mapping[str, Any], shape: type[T], kind: str) -> T:
    """A recipe line's arguments as a `shape`; InputError names what does not fit."""
    plain(dict(args), kind)
    try:
        return msgspec.convert(dict(args), shape, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(str(error).replace(" - at `$", " at `"), key=kind) from None


def wanted(*states: State) -> tuple[Resource, ...]:
    return tuple(Resource(type(state), state.key, state) for state in states)
