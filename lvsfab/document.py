"""A YAML file as plain data that remembers its lines, and its conversion to typed values.

YAML is read by the 1.2 core rules: only `true` and `false` are booleans (so a key may be `on`),
`22:22` is text. Duplicate keys, tags, more than MAX_NODES values (an alias counts as often as it
is used, so a "bomb" is refused), more than MAX_BYTES are errors. Every error is an InputError
with file, line and key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from lvsfab import files
from lvsfab.errors import InputError
from lvsfab.files import MAX_BYTES

MAX_NODES = 200_000
MAX_DEPTH = 40

T = TypeVar("T")
Place = tuple[str | int, ...]

_INT = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+]?[0-9]+)?$")
_TAGS = {  # what plain YAML is resolved to; anything else was written as a tag
    f"tag:yaml.org,2002:{tag}"
    for tag in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
}
_WORDS: Mapping[str, object] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "True": True,
    "false": False,
    "False": False,
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is made of dict, list, str, int, float, bool and None; `lines` has the 1-based line
    of every place in it.
    """

    path: Path
    data: Any
    lines: Mapping[Place, int] = field(repr=False)

    def line(self, place: Place) -> int | None:
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def error(self, place: Place, message: str, *, tip: str = "") -> InputError:
        return InputError(
            message, path=self.path, line=self.line(place), key=dotted(place), tip=tip
        )

    def convert(self, type_: type[T]) -> T:
        """The data as `type_`; what does not fit is an InputError at its exact place."""
        try:
            return msgspec.convert(self.data, type_)
        except msgspec.ValidationError as error:
            place, text = _locate(type_, self.data, (), str(error))
            raise self.error(place, text) from None


def dotted(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def load(path: Path) -> Document:
    """Read a YAML file. InputError when it is missing, too large, or not YAML."""
    return parse(files.content(path, MAX_BYTES, given=True), path)


def parse(raw: bytes, path: Path) -> Document:
    try:
        text = raw.decode("utf-8")
        _bounded(text, path)
        node = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", path=path) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        raise InputError(f"not YAML: {error.problem}", path=path, line=line) from None
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", path=path) from None
    if node is None:
        raise InputError("the file is empty", path=path)
    reader = _Reader(path)
    return Document(path, reader.value(node, ()), reader.lines)


def _bounded(text: str, path: Path) -> None:
    """Refuse what would take a composer's stack or memory: it nests without a limit, in C (1 MB of
    `[? ` took 16 GB).
    """
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes += isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        line = event.start_mark.line + 1 if event.start_mark else None
        if depth > MAX_DEPTH + 1:
            raise InputError(f"nested deeper than {MAX_DEPTH}", path=path, line=line)
        if nodes > 2 * MAX_NODES + 1:  # keys and values
            raise InputError(f"more than {MAX_NODES} values", path=path, line=line)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Place, int] = {}
        self._count = 0

    def value(self, node: yaml.Node, place: Place) -> object:
        self._count += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if self._count > MAX_NODES:
            raise InputError(f"more than {MAX_NODES} values", path=self.path, line=line)
        if len(place) > MAX_DEPTH:
            raise InputError(f"nested deeper than {MAX_DEPTH}", path=self.path, line=line)
        if node.tag not in _TAGS:
            raise InputError(f"tag {node.tag} is not allowed", path=self.path, line=line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            here = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError("a key must be a plain word", path=self.path, line=here)
            key = key_node.value
            if key in found:
                where = dotted((*place, key))
                raise InputError("this key stands twice", path=self.path, line=here, key=where)
            self.lines[(*place, key)] = here
            found[key] = self.value(value_node, (*place, key))
        return found


def _scalar(node: yaml.ScalarNode) -> object:
    text: str = node.value
    if node.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) < 30 else text
    if _FLOAT.match(text):
        return float(text)
    return text


def _locate(type_: Any, data: object, place: Place, message: str) -> tuple[Place, str]:
    """Follow a failed conversion down to the value that does not fit. msgspec names dict values
    only as `[...]`, so each level is tried apart; only errors come this way.
    """
    for part, kind in _parts(type_, data):
        try:
            msgspec.convert(data[part], kind)  # type: ignore[index]  # _parts gave its keys
        except msgspec.ValidationError as error:
            return _locate(kind, data[part], (*place, part), str(error))  # type: ignore[index]
    text = message.split(" - at `", 1)[0]
    unknown = re.match(r"Object contains unknown field `(.*)`$", text)
    if unknown:
        known = ", ".join(_fields(type_))
        return (*place, unknown[1]), f"unknown key; known here: {known}"
    return place, text[0].lower() + text[1:] if text else text


def _parts(type_: Any, data: object) -> list[tuple[Any, Any]]:
    origin, args = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        kinds = [kind for kind in args if kind is not type(None)]
        return _parts(kinds[0], data) if len(kinds) == 1 else []
    if isinstance(data, dict):
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
            fields = {f.encode_name: f.type for f in msgspec.structs.fields(type_)}
            return [(key, fields[key]) for key in data if key in fields]
        if origin is dict and len(args) == 2:
            return [(key, args[1]) for key in data]
    if isinstance(data, list) and origin in (list, tuple) and args:
        return [(i, args[0]) for i in range(len(data))]
    return []


def _fields(type_: Any) -> list[str]:
    if get_origin(type_) in (Union, UnionType):
        return [name for kind in get_args(type_) for name in _fields(kind)]
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return sorted(f.encode_name for f in msgspec.structs.fields(type_))
    return []
