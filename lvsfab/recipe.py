"""Recipe files: YAML -> `Recipe`, and a recipe with an inventory -> the resources of each host.

A recipe says what, on which role, in what order, with which parameters; `${name}` stands for a
parameter or for one of the names that `cluster.names_for` gives for a host. There is nothing
else in it: no conditions, no loops.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lvsfab import document
from lvsfab.cluster import make_cluster, names_for, needed, taking_part, types
from lvsfab.document import Document, Place
from lvsfab.errors import InputError
from lvsfab.inventory import NAME, shipped
from lvsfab.model import Cluster, ForwardingMethod, Inventory
from lvsfab.states import BUILDERS, file
from lvsfab.states.base import Context, Resource
from lvsfab.states.words import address

Type = Literal["address", "port", "integer", "flag", "choice", "text", "words", "weights"]
MAX_TEXT = file.MAX_BYTES  # of a text that names something: what a file may have
MAX_TEXTS = 128 * MAX_TEXT  # of all of them, on all hosts
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_TRUE = {"true": True, "yes": True, "on": True, "1": True}
_FALSE = {"false": False, "no": False, "off": False, "0": False}


class ParameterDoc(msgspec.Struct, forbid_unknown_fields=True):
    type: Type
    why: Annotated[str, Meta(description="one line: what it is for", min_length=8)]
    default: Any = None
    required: bool = False
    values: list[str] | None = None
    min: int | None = None
    max: int | None = None


class ClusterDoc(msgspec.Struct, forbid_unknown_fields=True):
    method: Literal["nat", "dr", "tun"]


class StepDoc(msgspec.Struct, forbid_unknown_fields=True):
    on: Annotated[str, Meta(description="a role, a group, a host's name, or all")]
    do: Annotated[list[dict[str, Any]], Meta(description="resource kind: its fields")]
    about: str = ""
    optional: Annotated[bool, Meta(description="no such host, or nothing for it, will do")] = False


class RecipeDoc(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    title: str
    steps: list[StepDoc]
    why: str = ""
    include: Annotated[list[str], Meta(description="files whose parameters it has too")] = []
    parameters: dict[str, ParameterDoc] = {}
    cluster: ClusterDoc | None = None


class _IncludeDoc(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, ParameterDoc]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file, read and checked as far as it can be without an inventory."""

    doc: Document
    raw: RecipeDoc
    parameters: Mapping[str, ParameterDoc]

    @property
    def name(self) -> str:
        return self.raw.name


@dataclass(frozen=True, slots=True)
class Phase:
    """Resources by host; the hosts of one phase are worked on at the same time."""

    on: str
    resources: Mapping[str, tuple[Resource, ...]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A recipe for an inventory: what `up` brings about. `hosts`: all that take part."""

    recipe: Recipe
    inventory: Inventory
    parameters: Mapping[str, Any]
    phases: tuple[Phase, ...]
    cluster: Cluster | None

    @property
    def hosts(self) -> tuple[str, ...]:
        found = dict.fromkeys(host for phase in self.phases for host in phase.resources)
        return tuple(name for name in self.inventory.hosts if name in found)

    def resources(self, host: str) -> tuple[Resource, ...]:
        return tuple(r for phase in self.phases for r in phase.resources.get(host, ()))

    def behind(self, hosts: Collection[str]) -> set[str]:
        """The addresses by which a director may send to these hosts, by this recipe or another."""
        faces = (face for host in hosts for face in self.inventory.hosts[host].interfaces)
        found = {str(own.ip) for face in faces for own in face.addresses}
        return found | (self.cluster.addresses(hosts) if self.cluster is not None else set())


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a recipe file, for editors."""
    return msgspec.json.schema(RecipeDoc)


def find(what: str) -> Path:
    """The file that a recipe's name means: a path, or the name of one in recipes/."""
    if "/" in what or what.endswith((".yml", ".yaml")):
        return Path(what)
    path = shipped("recipes", f"{what}.yml") if NAME.match(what) else None
    if path is None:
        raise InputError(f"no recipe `{what}`", tip=f"there are: {', '.join(known())}")
    return path


def known() -> tuple[str, ...]:
    """Names of the recipes shipped and of those in the working directory."""
    folders = [Path("recipes")]
    some = shipped("recipes", "nat.yml")
    if some is not None:
        folders.append(some.parent)
    names = {p.stem for f in folders if f.is_dir() for p in f.glob("*.yml") if p.stem[0] != "_"}
    return tuple(sorted(names))


def load(path: Path) -> Recipe:
    """Read and check a recipe file and what it includes. InputError with file, line and key."""
    return read(document.load(path))


def read(doc: Document) -> Recipe:
    raw = doc.convert(RecipeDoc)
    if not NAME.fullmatch(raw.name):
        raise doc.error(("name",), f"`{raw.name}` is not a name ({NAME.pattern})")
    parameters: dict[str, ParameterDoc] = {}
    for i, name in enumerate(raw.include):
        path = doc.path.parent / f"{name}.yml"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not path.is_file():
            raise doc.error(("include", i), f"no file `{name}.yml` beside this one")
        parameters |= document.load(path).convert(_IncludeDoc).parameters
    parameters |= raw.parameters
    for i, step in enumerate(raw.steps):
        for j, line in enumerate(step.do):
            place: Place = ("steps", i, "do", j)
            if len(line) != 1:
                raise doc.error(place, "one resource kind a line")
            (kind,) = line
            if kind not in BUILDERS:
                known_kinds = ", ".join(sorted(BUILDERS))
                raise doc.error((*place, kind), f"unknown resource kind; known: {known_kinds}")
            if not isinstance(line[kind], dict):
                raise doc.error((*place, kind), "expected `name: value` pairs")
    if raw.cluster is not None:
        _check_cluster(doc, parameters)
    return Recipe(doc, raw, parameters)


def _check_cluster(doc: Document, parameters: Mapping[str, ParameterDoc]) -> None:
    """What a cluster is made of is what its code, and keepalived.conf, takes unseen."""
    for name in needed(parameters):
        if name not in parameters:
            tip = "include: [_service, _keepalived]"
            raise doc.error(("cluster",), f"a cluster needs a parameter `{name}`", tip=tip)
    expected = types(parameters)
    for name, spec in parameters.items():
        kind = expected.get(name, spec.type)
        if isinstance(kind, tuple):
            good = spec.type == "choice" and set(spec.values or ()) <= set(kind)
        else:
            good = spec.type == kind
        if not good:
            said = kind if isinstance(kind, str) else f"choice, of: {', '.join(kind)}"
            raise doc.error(("parameters", name), f"a cluster's `{name}` is of type {said}")


def resolve(recipe: Recipe, inventory: Inventory, sets: Mapping[str, str]) -> dict[str, Any]:
    """The parameters' values: default, then the inventory's for all, its for this recipe, --set."""
    values = {name: spec.default for name, spec in recipe.parameters.items()}
    given = inventory.parameters
    for section in ("all", recipe.name):
        for name, value in given.get(section, {}).items():
            if name in recipe.parameters:
                where = f"parameters.{section}.{name}"
                values[name] = _value(recipe.parameters[name], value, inventory.path, where)
            elif section != "all":
                raise _unknown(recipe, name, inventory.path, f"parameters.{section}.{name}")
    for name, text in sets.items():
        if name not in recipe.parameters:
            raise _unknown(recipe, name, None, f"--set {name}")
        values[name] = _value(recipe.parameters[name], text, None, f"--set {name}")
    for name, spec in recipe.parameters.items():
        if spec.required and values[name] is None:
            raise InputError(
                f"recipe {recipe.name} needs `{name}` ({spec.why})",
                path=inventory.path,
                key=f"parameters.{recipe.name}.{name}",
                tip=f"give it in the inventory, or as --set {name}=...",
            )
        if values[name] is not None:
            values[name] = _value(spec, values[name], recipe.doc.path, f"parameters.{name}")
    return values


def _unknown(recipe: Recipe, name: str, path: Path | None, key: str) -> InputError:
    known_names = ", ".join(sorted(recipe.parameters))
    return InputError(
        f"recipe {recipe.name} has no parameter `{name}`; it has: {known_names}", path=path, key=key
    )


def _value(spec: ParameterDoc, value: Any, path: Path | None, key: str) -> Any:
    """`value` as the parameter's type; text from the command line and YAML values alike."""

    def bad(expected: str) -> InputError:
        return InputError(f"`{value}` is not {expected}", path=path, key=key)

    text = str(value)
    if spec.type == "flag":
        word = text.lower()
        if word not in _TRUE and word not in _FALSE:
            raise bad("true or false")
        return word in _TRUE
    if spec.type in ("integer", "port"):
        low, high = (1, 65535) if spec.type == "port" else (spec.min, spec.max)
        low = spec.min if spec.min is not None else low
        try:
            number = int(text)
        except ValueError:
            raise bad("a whole number") from None
        if (low is not None and number < low) or (high is not None and number > high):
            raise bad(f"between {low} and {high}")
        return number
    if spec.type == "address":
        try:
            return address(text, spec.type)
        except InputError:  # with a device, too: it may be any text, and stays with the address
            raise bad("an IP address") from None
    if spec.type == "choice":
        if text not in (spec.values or []):
            raise bad(f"one of: {', '.join(spec.values or [])}")
        return text
    if spec.type == "words":
        words = value if isinstance(value, list | tuple) else text.replace(",", " ").split()
        return tuple(str(word) for word in words)
    if spec.type == "weights":
        return _weights(value, bad)
    if len(text) > 400 or not text.isprintable():
        raise bad("one line of text")
    return text


def _weights(value: Any, bad: Any) -> dict[str, int]:
    pairs = (
        value.items()
        if isinstance(value, dict)
        else (pair.rpartition(":")[::2] for pair in str(value).split(",") if pair)
    )
    weights = {}
    for name, number in pairs:
        if not name or not re.fullmatch(r"[0-9]{1,5}", str(number)) or int(number) > 65535:
            raise bad("HOST:WEIGHT,... with weights from 0 to 65535")
        weights[str(name)] = int(number)
    return weights


def compile_recipe(recipe: Recipe, inventory: Inventory, sets: Mapping[str, str]) -> Compiled:
    """What the recipe means for the inventory. Pure; every bad input is an InputError here."""
    parameters = resolve(recipe, inventory, sets)
    cluster = None
    if recipe.raw.cluster is not None:
        method = ForwardingMethod(recipe.raw.cluster.method)
        cluster = make_cluster(recipe.name, method, inventory, parameters)
    phases = []
    room = _Room(MAX_TEXTS)
    stated: dict[str, dict[str, Resource]] = {}
    for i, step in enumerate(recipe.raw.steps):
        hosts = taking_part(inventory, recipe.name, step.on)
        if not hosts and not step.optional:
            raise recipe.doc.error(
                ("steps", i, "on"),
                f"no host of the inventory is `{step.on}`",
                tip=f"give a host that role in {inventory.path or 'the inventory'}",
            )
        resources = {}
        for host in hosts:
            names = {**parameters, **names_for(inventory, host, cluster, parameters)}
            context = Context(inventory, host, parameters, cluster)
            built = tuple(
                resource
                for j, line in enumerate(step.do)
                for resource in _build(
                    recipe.doc, ("steps", i, "do", j), line, names, context, room
                )
                if _new(
                    resource, stated.setdefault(host.name, {}), recipe.doc, ("steps", i, "do", j)
                )
            )
            if built or not step.optional:  # else it may as well be away
                resources[host.name] = built
        phases.append(Phase(step.on, resources))
    return Compiled(recipe, inventory, parameters, tuple(phases), cluster)


def _new(resource: Resource, stated: dict[str, Resource], doc: Document, place: Place) -> bool:
    """False for what the recipe said of this host before; InputError where it said otherwise."""
    before = stated.setdefault(resource.id, resource)
    if before != resource:
        raise doc.error(place, f"{resource.id} is wanted twice, and not the same")
    return before is resource


@dataclass(slots=True)
class _Room:
    """What texts made of parameters may still come to: a long parameter may be named often."""

    left: int


def _build(
    doc: Document,
    place: Place,
    line: Mapping[str, Any],
    names: Mapping[str, Any],
    context: Context,
    room: _Room,
) -> tuple[Resource, ...]:
    ((kind, args),) = line.items()
    values = {
        key: substitute(value, names, doc, (*place, kind, key), room) for key, value in args.items()
    }
    values = {key: value for key, value in values.items() if value is not None}
    try:
        return tuple(BUILDERS[kind].build(values, context))
    except InputError as error:
        if error.path is not None:
            raise
        at = doc.error((*place, kind), f"{error.message} (for host {context.host.name})")
        raise at from None


def substitute(
    value: Any, names: Mapping[str, Any], doc: Document, place: Place, room: _Room
) -> Any:
    """`value` with each `${name}` replaced; a value that is one reference keeps its type."""
    if isinstance(value, list):
        return [substitute(v, names, doc, (*place, i), room) for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {k: substitute(v, names, doc, (*place, k), room) for k, v in value.items()}
    if not isinstance(value, str):
        return value

    def named(name: str) -> Any:
        if name not in names:
            known_names = ", ".join(sorted(names))
            raise doc.error(place, f"unknown name `${{{name}}}`; known: {known_names}")
        return names[name]

    whole = _REFERENCE.fullmatch(value)
    if whole:
        found = named(whole[1])
        is_address = isinstance(found, ipaddress.IPv4Address | ipaddress.IPv6Address)
        return str(found) if is_address else found
    length = len(value)
    room.left -= length if "${" in value else 0

    def text(match: re.Match[str]) -> str:
        nonlocal length
        found = str(named(match[1]))
        length += len(found)
        room.left -= len(found)
        if length > MAX_TEXT or room.left < 0:
            raise doc.error(
                place,
                f"too long with its parameters ({MAX_TEXT} characters; {MAX_TEXTS} in all texts)",
            )
        return found

    return _REFERENCE.sub(text, value)
