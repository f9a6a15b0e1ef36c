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
from pathlib import Path
from typing import Any

from lvsfab.document import Document
from lvsfab.errors import InputError
from lvsfab.model import Inventory, SSHLogin
from lvsfab.sources.hosts import make

PROGRAM_TIMEOUT = 60.0  # s for an executable inventory
MAX_HOSTS = 100_000
_RANGE = re.compile(r"^(.*?)\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\](.*)$")


@dataclass(slots=True)
class Groups:
    """What a source says, before it is resolved: variables of hosts and of groups, members,
    children.
    """

    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def host(self, group: str, pattern: str, variables: Mapping[str, Any]) -> None:
        pattern, port = split_port(pattern)
        said = {"ansible_port": port} if port else {}
        for name in expand(pattern):
            self.hosts.setdefault(name, {}).update({**said, **variables})
            self.members.setdefault(group, []).append(name)
            if len(self.hosts) > MAX_HOSTS:
                raise InputError(f"more than {MAX_HOSTS} hosts")

    def inventory(self, name: str, path: Path) -> Inventory:
        groups = {
            group: dict.fromkeys(self._all(group, ()))
            for group in {**self.members, **self.children, **self.variables}
        }
        groups["all"] = dict.fromkeys(self.hosts)
        # a child's variables win over its parents': parents hold more hosts
        order = sorted(groups, key=lambda g: (g != "all", -len(groups[g])))
        logins = {}
        for host, own in self.hosts.items():
            values: dict[str, Any] = {}
            for group in order:
                if host in groups[group]:
                    values |= self.variables.get(group, {})
            logins[host] = _login(host, values | own, path)
        kept = {g: hosts for g, hosts in groups.items() if g not in ("all", "ungrouped")}
        return make(name, logins, kept, path)

    def _all(self, group: str, above: tuple[str, ...]) -> Iterator[str]:
        if group in above:
            raise InputError(f"group {group} is a child of itself")
        yield from self.members.get(group, ())
        for child in self.children.get(group, ()):
            yield from self._all(child, (*above, group))


def split_port(pattern: str) -> tuple[str, str]:
    """`web[01:03]:2222` -> pattern, port; none where the colon is a range's or an address's."""
    head, _, port = pattern.rpartition(":")
    if port.isdecimal() and head and ":" not in re.sub(r"\[[^]]*\]", "", head):
        return head, port
    return pattern, ""


def expand(pattern: str) -> Iterator[str]:
    """`web[01:03].x` -> web01.x, web02.x, web03.x; ranges of letters and steps too."""
    match = _RANGE.match(pattern)
    if match is None:
        yield pattern
        return
    head, first, last, step, tail = match.groups()
    if first.isdigit() and last.isdigit():
        numbers = range(int(first), int(last) + 1, int(step or 1) or 1)
        if len(numbers) > MAX_HOSTS:
            raise InputError(f"`{pattern}` is more than {MAX_HOSTS} hosts")
        middle = [str(n).zfill(len(first)) for n in numbers]
    else:
        middle = [chr(n) for n in range(ord(first), ord(last) + 1, int(step or 1) or 1)]
    for each in middle:
        yield from expand(f"{head}{each}{tail}")


def _login(host: str, values: Mapping[str, Any], path: Path) -> SSHLogin:
    def text(*names: str) -> str:
        for name in names:
            if values.get(name) not in (None, ""):
                return str(values[name])
        return ""

    port = text("ansible_port", "ansible_ssh_port")
    if port and not port.isdigit():
        raise InputError(f"{host}: ansible_port `{port}` is no number", path=path)
    key = text("ansible_ssh_private_key_file", "ansible_private_key_file")
    for found in (port, key, address := text("ansible_host", "ansible_ssh_host")):
        if "{{" in found:
            raise InputError(f"{host}: `{found}` is a template; lvsfab reads values", path=path)
    return SSHLogin(
        host=address or host,
        port=int(port) if port else None,
        user=text("ansible_user", "ansible_ssh_user"),
        key=Path(key).expanduser() if key else None,
        sudo=text("ansible_become").lower() in ("true", "yes", "1"),
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
            found.host(group, host, variables or {})
        for child, inner in (body.get("children") or {}).items():
            found.children.setdefault(group, []).append(child)
            walk(child, inner, (*place, "children", child), depth + 1)

    for group, body in doc.data.items():
        walk(group, body, (group,), 0)
    return found.inventory(doc.path.stem, doc.path)


def from_ini(path: Path) -> Inventory:
    found, group, part = Groups(), "ungrouped", ""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    for number, raw in enumerate(lines, 1):
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
    known = meta.get("hostvars", {}) if isinstance(meta, dict) else None
    found = Groups()
    for group, body in data.items():
        if isinstance(body, list):
            body = {"hosts": body}  # noqa: PLW2901 - the old, short form
        if not isinstance(body, dict):
            raise InputError(f"group {group}: expected an object or a list", path=path)
        found.members.setdefault(group, [])
        found.children[group] = [str(child) for child in body.get("children", ())]
        found.variables[group] = dict(body.get("vars", {}))
        for host in body.get("hosts", ()):
            found.host(group, str(host), {})
    for host in found.hosts:
        more = known.get(host, {}) if known is not None else _asked(path, "--host", host)
        found.hosts[host].update(more if isinstance(more, dict) else {})
    for host, variables in (known or {}).items():
        if host not in found.hosts:
            found.host("ungrouped", str(host), variables)
    return found.inventory(path.stem, path)


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
    except ValueError as error:
        raise InputError(f"printed no JSON: {error}", path=path) from None
    if not isinstance(data, dict):
        raise InputError("printed JSON that is no object", path=path)
    return data
