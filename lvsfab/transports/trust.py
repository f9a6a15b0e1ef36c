"""What one process reads once, however many hosts it reaches: ~/.ssh/config, known_hosts, keys.

A connection that reads them anew costs more than its key exchange once known_hosts has some
hundred lines.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import shlex
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvsfab.errors import UnreachableError
from lvsfab.transports.endpoint import Endpoint

if TYPE_CHECKING:
    import paramiko

KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
MAX_DEPTH = 16  # of Include, as OpenSSH has it
CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_MATTERS = re.compile(
    r"^\s*(hostname|port|user|identityfile|identitiesonly|proxyjump|proxycommand|hostkeyalias"
    r"|userknownhostsfile|globalknownhostsfile)[\s=]",
    re.IGNORECASE | re.MULTILINE,
)
_PLAIN = re.compile(r"[^*?!|]+")


_loading = threading.Lock()


def load_paramiko() -> Any:
    """paramiko, without invoke where nobody needs that: it is there for `Match exec` in
    ssh_config alone and takes a third of the time that paramiko takes to load.
    """
    with _loading:
        if "paramiko" not in sys.modules and "invoke" not in sys.modules and not configures():
            sys.modules["invoke"] = None  # type: ignore[assignment]  # an ImportError
            try:
                return import_module("paramiko")
            finally:
                del sys.modules["invoke"]
    return import_module("paramiko")


@functools.cache
def _config_text() -> str:
    paths = (Path(name).expanduser() for name in CONFIGS)
    return "".join("Host *\n" + _with_includes(path, 0) for path in paths)


def _with_includes(path: Path, depth: int) -> str:
    """The text of a file with those that it includes in their places: paramiko knows no Include."""
    lines, block = [], "Host *"
    text = path.read_text(errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include" or depth == MAX_DEPTH:
            lines.append(line)
            continue
        for pattern in rest.split():
            there = path.parent / Path(pattern.strip('"')).expanduser()
            lines += [_with_includes(f, depth + 1) for f in sorted(there.parent.glob(there.name))]
        lines.append(block)
    return "\n".join([*lines, ""])


@functools.cache
def configures() -> bool:
    """Whether ssh_config says how any host is reached (a distribution's own does not)."""
    return _MATTERS.search(_config_text()) is not None


@functools.cache
def ssh_config() -> Any:
    """The user's and the system's ssh_config, as paramiko reads them (first value wins)."""
    import paramiko  # heavy: only when a host is reached

    return paramiko.SSHConfig.from_text(_config_text())


def looked_up(host: str) -> Mapping[str, Any]:
    """What ssh_config says of this host; it is parsed only if it says anything that matters."""
    if not configures():
        return {}
    found: Mapping[str, Any] = ssh_config().lookup(host)
    return found


@functools.lru_cache(maxsize=64)
def private_key(path: Path) -> Any:
    import paramiko

    return paramiko.PKey.from_path(path)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


@functools.lru_cache(maxsize=8)
def _known_hosts(paths: tuple[Path, ...]) -> tuple[dict[str, list[Any]], Any, frozenset[bytes]]:
    """Lines of known_hosts: those of plain names by name; hashed and patterned ones apart; and
    the keys that are revoked, for whatever host.
    """
    import paramiko

    plain: dict[str, list[Any]] = {}
    others = paramiko.HostKeys()
    revoked = set()
    lines = [line for path in paths if path.is_file() for line in _lines(path)]
    for line in lines:
        words = line.split()
        if words[:1] == ["@revoked"] and len(words) > 3:
            with suppress(ValueError):
                revoked.add(base64.b64decode(words[3]))
        if not words or words[0][0] in "#@":  # authorities are not asked: their hosts are unknown
            continue
        try:
            entry: Any = paramiko.hostkeys.HostKeyEntry.from_line(line)
        except (paramiko.SSHException, ValueError):  # what cannot be read is known by nobody
            continue
        if entry is None:
            continue
        for name in entry.hostnames:
            if _PLAIN.fullmatch(name):
                plain.setdefault(name, []).append(entry)
        if not all(_PLAIN.fullmatch(name) for name in entry.hostnames):
            others._entries.append(entry)  # type: ignore[attr-defined]
    return plain, others, frozenset(revoked)


def trust(
    client: paramiko.SSHClient,
    endpoint: Endpoint,
    host: str,
    port: int,
    config: Mapping[str, Any],
) -> str:
    """Give `client` the keys that are known for `host`, and have it refuse any other. `config`:
    what ssh_config says of it. Returns what known_hosts calls it.
    """
    import paramiko

    by_hand = (
        f"ssh {endpoint.user}@{endpoint.address}" if endpoint.user else f"ssh {endpoint.address}"
    )
    by_hand += f" -p {endpoint.port}" if endpoint.port else ""

    class Refuse(paramiko.MissingHostKeyPolicy):
        def missing_host_key(
            self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
        ) -> None:
            del client
            if key.asbytes() in revoked:
                text = f"the host key {fingerprint(key)} of {hostname} is revoked in known_hosts"
                raise UnreachableError(endpoint.name, text)
            if known:  # of another type
                raise paramiko.BadHostKeyException(host, key, known[0])
            raise UnreachableError(
                endpoint.name,
                f"unknown host key {fingerprint(key)} for {hostname}",
                tip="compare it with what the host itself says (`ssh-keygen -lf FILE` on each "
                f"/etc/ssh/ssh_host_*_key.pub); accept it by logging in: `{by_hand}`",
            )

    client.set_missing_host_key_policy(Refuse())
    name = host if port == 22 else f"[{host}]:{port}"  # as known_hosts has it (sshd(8))
    alias: str = config.get("hostkeyalias", name)
    keys = client.get_host_keys()
    revoked: frozenset[bytes] = frozenset()
    known: list[Any] = []
    if endpoint.host_key:
        kind, _, text = endpoint.host_key.partition(" ")
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text.split()[0]))
        keys.add(name, kind, key)
        return alias
    plain, others, revoked = _known_hosts(tuple(Path(f).expanduser() for f in _known_files(config)))
    found = [entry.key for entry in plain.get(alias, ())]
    found += [key for _, key in (others.lookup(alias) or {}).items()]
    known += [key for key in found if key.asbytes() not in revoked]
    for key in known:
        keys.add(name, key.get_name(), key)
    return alias


def _known_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The known_hosts files that ssh_config names for a host, else the usual ones."""
    user, system = config.get("userknownhostsfile"), config.get("globalknownhostsfile")
    return (*shlex.split(user or KNOWN_HOSTS[0]), *shlex.split(system or KNOWN_HOSTS[1]))


def agent_allowed(config: Mapping[str, Any]) -> bool:
    """Where ssh_config names a key, the agent may hold it, unless `IdentitiesOnly` says no."""
    return str(config.get("identitiesonly", "no")).lower() not in ("yes", "true")


def fingerprint(key: paramiko.PKey) -> str:
    """As `ssh-keygen -l` prints it: type and SHA256 of the public key."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"
