"""Ansible's inventories, as far as they say which hosts there are and how to log in: YAML, INI,
and what an executable prints (--list, and --host NAME where that has no _meta).

Hosts, groups, children, ranges (`web[01:20]`), ports (`web1:2222`) and these variables, of hosts
and of groups:
ansible_host, ansible_port, ansible_user, ansible_ssh_private_key_file, ansible_become.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from lvsfab.document import Document
from lvsfab.errors import InputError
from lvsfab.files import content, lines
from lvsfab.model import Inventory, SSHLogin
from lvsfab.sources.hosts import PORT, key_file, make

PROGRAM_TIMEOUT = 60.0  # s for an executable inventory
MAX_HOSTS = 100_000
MAX_MEMBERS = 500_000  # of all groups together, those of their children too
MAX_NAME = 253  # a host's, as DNS has it
_RANGE = re.compile(r"^(.*?)\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\](.*)$")
_PORT = ("ansible_port", "ansible_ssh_port")
_KEY = ("ansible_ssh_private_key_file", "ansible_private_key_file")
_ADDRESS = ("ansible_host", "ansible_ssh_host")
_USER = ("ansible_user", "ansible_ssh_user")
_SUDO = ("ansible_become",)
_READ = frozenset((*_PORT, *_KEY, *_ADDRESS, *_USER, *_SUDO))  # of variables without number
_JSON: Mapping[type, str] = {dict: "object", list: "list"}

T = TypeVar("T")


@dataclass(slots=True)
class Groups:
    """What a source says, before it is resolved: variables of hosts and of groups, members,
    children.
    """

    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    _count: int = 0

    def host(self, group: str, pattern: str, variables: Mapping[str, Any]) -> None:
        pattern, port = split_port(pattern)
        said = {"ansible_port": port} if port else {}
        said |= {name: variables[name] for name in _READ & variables.keys()}
        for name in expand(pattern):
            self.hosts.setdefault(name, {}).update(said)
            self.members.setdefault(group, []).append(name)
            self._counted(1)
            if len(self.hosts) > MAX_HOSTS:
                raise InputError(f"more than {MAX_HOSTS} hosts")

    def _counted(self, members: int) -> None:
        self._count += members
        if self._count > MAX_MEMBERS:
            raise InputError(f"the groups have more than {MAX_MEMBERS} members together")

    def inventory(self, name: str, path: Path) -> Inventory:
        try:
            groups = self._groups()
        except InputError as error:
            raise InputError(error.message, path=path) from None
        groups["all"] = dict.fromkeys(self.hosts)
        values: dict[str, dict[str, Any]] = {host: {} for host in self.hosts}
        # a child's variables win over its parents': parents hold more hosts
        for group in sorted(groups, key=lambda g: (g != "all", -len(groups[g]))):
            said = self.variables.get(group, {})
            said = {word: said[word] for word in _READ & said.keys()}
            for host in groups[group] if said else ():
                values[host] |= said
        logins = {host: _login(host, values[host] | own, path) for host, own in self.hosts.items()}
        kept = {g: hosts for g, hosts in groups.items() if g not in ("all", "ungrouped")}
        return make(name, logins, kept, path)

    def _groups(self) -> dict[str, dict[str, None]]:
        """The hosts of each group, with those of its children."""
        names = {**self.members, **self.children, **self.variables}
        children = {group: dict.fromkeys(self.children.get(group, ())) for group in names}
        found: dict[str, dict[str, None]] = {}
        try:
            for group in TopologicalSorter(children).static_order():  # children first
                found[group] = dict.fromkeys(self.members.get(group, ()))
                for child in children.get(group, ()):
                    found[group] |= found[child]
                    self._counted(len(found[child]))
        except CycleError as error:
            raise InputError(f"group {error.args[1][0]} is a child of itself") from None
        return {group: found[group] for group in names}


def split_port(pattern: str) -> tuple[str, str]:
    """`web[01:03]:2222` -> pattern, port; none where the colon is a range's or an address's."""
    head, _, port = pattern.rpartition(":")
    if port.isdecimal() and head and ":" not in re.sub(r"\[[^][]*\]", "", head):
        return head, port
    return pattern, ""


def expand(pattern: str) -> Iterator[str]:
    """`web[01:03].x` -> web01.x, web02.x, web03.x; ranges of letters and steps too."""
    if len(pattern) > MAX_NAME:
        raise InputError(f"`{pattern[:60]}...` is longer than a host's name ({MAX_NAME})")
    match = _RANGE.match(pattern)
    if match is None:
        yield pattern
        return
    head, first, last, step, tail = match.groups()
    numeric = first.isdigit()
    if numeric != last.isdigit():
        raise InputError(f"`{pattern}`: a range is of numbers or of letters")
    low, high = (int(first), int(last)) if numeric else (ord(first), ord(last))
    by = int(step or 1) or 1
    if (high - low) // by >= MAX_HOSTS:
        raise InputError(f"`{pattern}` is more than {MAX_HOSTS} hosts")
    for n in range(low, high + 1, by):
        each = str(n).zfill(len(first)) if numeric else chr(n)
        yield from expand(f"{head}{each}{tail}")


def _login(host: str, values: Mapping[str, Any], path: Path) -> SSHLogin:
    def text(*names: str) -> str:
        for name in names:
            if values.get(name) not in (None, ""):
                return str(values[name])
        return ""

    port = text(*_PORT)
    if port and not PORT.fullmatch(port):
        raise InputError(f"{host}: ansible_port `{port}` is no port", path=path)
    key = text(*_KEY)
    for found in (port, key, address := text(*_ADDRESS)):
        if "{{" in found:
            raise InputError(f"{host}: `{found}` is a template; lvsfab reads values", path=path)
    return SSHLogin(
        host=address or host,
        port=int(port) if port else None,
        user=text(*_USER),
        key=key_file(key, host, path) if key else None,
        sudo=text(*_SUDO).lower() in ("true", "yes", "1"),
    )


def from_yaml(doc: Document) -> Inventory:
    found = Groups()

    def walk(group: str, body: Any, place: tuple[str | int, ...], depth: int) -> None:
        if body is None:
            body = {}
        if not isinstance(body, dict) or depth > 20:
            raise doc.error(place, "expected hosts, children, vars")
        for key in body:
            if key not in ("hosts", "children", "vars"):
                raise doc.error((*place, key), "expected hosts, children, vars")
        for part in ("hosts", "children", "vars"):
            if not isinstance(body.get(part) or {}, dict):
                raise doc.error((*place, part), "expected `name:` entries")
        found.members.setdefault(group, [])
        found.variables.setdefault(group, {}).update(body.get("vars") or {})
        for host, variables in (body.get("hosts") or {}).items():
            if not isinstance(variables or {}, dict):
                raise doc.error((*place, "hosts", host), "expected `name: value` pairs")
            try:
                found.host(group, host, variables or {})
            except InputError as error:
                raise doc.error((*place, "hosts", host), error.message) from None
        for child, inner in (body.get("children") or {}).items():
            found.children.setdefault(group, []).append(child)
            walk(child, inner, (*place, "children", child), depth + 1)

    for group, body in doc.data.items():
        walk(group, body, (group,), 0)
    return found.inventory(doc.path.stem, doc.path)


def from_ini(path: Path) -> Inventory:
    found, group, part = Groups(), "ungrouped", ""
    try:
        text = content(path, given=True).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", path=path) from None
    for number, raw in enumerate(lines(text, path), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        head = re.fullmatch(r"\[([A-Za-z0-9_.-]+)(?::(vars|children))?\]\s*(?:#.*)?", line)
        try:
            if head:
                group, part = head[1], head[2] or ""
                found.members.setdefault(group, [])
            elif part == "vars":
                name, value = _pair(line)
                found.variables.setdefault(group, {})[name] = value.strip("\"'")
            elif part == "children":
                found.children.setdefault(group, []).append(line.split("#")[0].strip())
            else:
                host, *pairs = shlex.split(line, comments=True)
                found.host(group, host, dict(_pair(pair) for pair in pairs))
        except (InputError, ValueError) as error:
            raise InputError(str(error), path=path, line=number) from None
    return found.inventory(path.stem, path)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"`{text}`: expected NAME=VALUE")
    return name.strip(), value.strip()


def from_program(path: Path) -> Inventory:
    """Run an executable inventory (no shell, its own standard input closed)."""
    data = _asked(path, "--list")
    meta = data.pop("_meta", None)
    known = _part(meta, "hostvars", dict, "_meta", path) if isinstance(meta, dict) else None
    found = Groups()
    for group, body in data.items():
        if isinstance(body, list):
            body = {"hosts": body}  # noqa: PLW2901 - the old, short form
        if not isinstance(body, dict):
            raise InputError(f"group {group}: expected an object or a list", path=path)
        found.members.setdefault(group, [])
        children = _part(body, "children", list, f"group {group}", path)
        found.children[group] = [str(child) for child in children]
        found.variables[group] = _part(body, "vars", dict, f"group {group}", path)
        for host in _part(body, "hosts", list, f"group {group}", path):
            _add(found, group, str(host), {}, path)
    for host in found.hosts:
        more = known.get(host, {}) if known is not None else _asked(path, "--host", host)
        found.hosts[host].update(more if isinstance(more, dict) else {})
    for host, variables in (known or {}).items():
        if host not in found.hosts:
            _add(found, "ungrouped", host, variables if isinstance(variables, dict) else {}, path)
    return found.inventory(path.stem, path)


def _add(found: Groups, group: str, host: str, said: Mapping[str, Any], path: Path) -> None:
    try:
        found.host(group, host, said)
    except InputError as error:
        raise InputError(error.message, path=path, key=f"group {group}") from None


def _part(body: Mapping[str, Any], name: str, kind: type[T], where: str, path: Path) -> T:
    found = body.get(name)
    if found is None:
        return kind()
    if not isinstance(found, kind):
        raise InputError(f"{where}: `{name}` is no {_JSON[kind]}", path=path)
    return found


def _asked(path: Path, *argv: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [str(path.absolute()), *argv],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"cannot be run: {error}", path=path, tip="an Ansible INI file must not be executable"
        ) from None
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip()[-300:]
        raise InputError(f"ended with status {done.returncode}: {told}", path=path)
    try:
        data = json.loads(done.stdout)
    except (ValueError, RecursionError) as error:
        raise InputError(f"printed no JSON: {error}", path=path) from None
    if not isinstance(data, dict):
        raise InputError("printed JSON that is no object", path=path)
    return data
