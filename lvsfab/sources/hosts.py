"""Hosts by name alone, and what turns any source's hosts and groups into an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lvsfab.errors import InputError
from lvsfab.files import home
from lvsfab.inventory import LOGIN, ROLES
from lvsfab.model import Host, Inventory, SSHLogin

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251})")
PORT = re.compile(r"[0-9]{1,5}")
_ONE = re.compile(
    r"^(?:(?P<user>[A-Za-z0-9_.-]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.%a-z0-9]+)\]|(?P<host>[^:@\[\]]+))"
    r"(?::(?P<port>[0-9]{1,5}))?$"
)


def from_list(text: str) -> Inventory:
    """`[user@]host[:port],...`, as -H takes it; an IPv6 address stands in brackets."""
    logins: dict[str, SSHLogin] = {}
    for word in filter(None, re.split(r"[,\s]+", text)):
        match = _ONE.match(word)
        if match is None:
            raise InputError(f"`{word}` is no [user@]host[:port]", key="-H")
        name = match["host"] or match["six"]
        port = int(match["port"]) if match["port"] else None
        logins[_unique(name, port, logins)] = SSHLogin(
            host=name, port=port, user=match["user"] or ""
        )
    return make("hosts", logins, {}, None, key="-H")


def _unique(name: str, port: int | None, taken: Mapping[str, SSHLogin]) -> str:
    plain = name.replace(":", "-").replace("%", "-")
    return f"{plain}-{port}" if plain in taken else plain


def make(
    name: str,
    logins: Mapping[str, SSHLogin],
    groups: Mapping[str, Iterable[str]],
    path: Path | None,
    *,
    key: str = "",
) -> Inventory:
    """An inventory of hosts that are only known by login and group. A group that is named like
    a role (director, real_server, client, router) gives that role.
    """
    of: dict[str, set[str]] = {}
    for group, members in groups.items():
        for member in members:
            of.setdefault(member, set()).add(group)
    hosts = {}
    for host, login in logins.items():
        if not _HOST.fullmatch(host):
            raise InputError(f"`{host}` is no host name", path=path, key=key)
        if login.port is not None and not 0 < login.port < 65536:
            raise InputError(f"{host}: port {login.port}", path=path, key=key)
        for what, text in (("address", login.host), ("user name", login.user)):
            if text and not LOGIN.fullmatch(text):
                raise InputError(f"{host}: `{text}` is no {what}", path=path, key=key)
        mine = frozenset(of.get(host, ()))
        hosts[host] = Host(host, roles=mine & set(ROLES), groups=mine, ssh=login)
    if not hosts:
        raise InputError("no hosts", path=path, key=key)
    return Inventory(_plain(name), hosts, path=path)


def key_file(text: str, host: str, path: Path) -> Path:
    try:
        return home(text)
    except InputError as error:
        raise InputError(f"{host}: key {error.message}", path=path) from None


def _plain(name: str) -> str:
    """A name that may be a directory's on hosts (the journal's)."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:60] or "inventory"
