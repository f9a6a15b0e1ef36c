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
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lvsfab import files
from lvsfab.errors import InputError, UnreachableError
from lvsfab.transports.endpoint import Endpoint

if TYPE_CHECKING:
    import paramiko

KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
MAX_DEPTH = 16  # of Include, as OpenSSH has it
MAX_KNOWN = 64 * 1024 * 1024  # bytes of one known_hosts
CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_MATTERS = re.compile(
    r"^[^\S\n]*(hostname|port|user|identityfile|identitiesonly|proxyjump|proxycommand|hostkeyalias"
    r"|userknownhostsfile|globalknownhostsfile|connecttimeout)[\s=]",
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
    paths = map(files.home, CONFIGS)
    reading = files.Reading()
    found = [(path, reading.lines(path)) for path in paths if path.is_file()]
    return "".join("Host *\n" + _with_includes(*file, reading, 0) for file in found)


def _with_includes(path: Path, text: list[str], reading: files.Reading, depth: int) -> str:
    """The text of a file with those that it includes in their places: paramiko knows no Include."""
    lines, block = [], "Host *"
    for number, line in enumerate(text, 1):
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include" or depth == MAX_DEPTH:
            lines.append(line)
            continue
        before = len(lines)
        for pattern in rest.split():
            for file, inner in reading.included(pattern.strip('"'), path, number):
                lines.append(_with_includes(file, inner, reading, depth + 1))
        lines += [block] if len(lines) > before else []
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


@functools.cache
def for_fabric() -> Any:
    """The same without two words that fabric takes more strictly than ssh (`1m`, an agent's path)
    and need not know: we set its time limit, and no agent is forwarded.
    """
    import paramiko

    text = re.sub(r"(?im)^[ \t]*(ConnectTimeout|ForwardAgent)\b.*$", "", _config_text())
    return paramiko.SSHConfig.from_text(text)


def looked_up(host: str) -> Mapping[str, Any]:
    """What ssh_config says of this host; it is parsed only if it says anything that matters."""
    if not configures():
        return {}
    found: Mapping[str, Any] = ssh_config().lookup(host)
    _check_port(host, found.get("port", "22"))
    for hop in filter(None, found.get("proxyjump", "").split(",")):  # fabric looks these up itself
        name = hop.rpartition("@")[2]
        name, _, port = name.partition(":") if name.count(":") == 1 else (name, "", "")
        _check_port(name, port or ssh_config().lookup(name).get("port", "22"))
    return found


def _check_port(host: str, port: str) -> None:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise InputError(f"ssh_config: Port `{port}` of {host}")


def proxy_command(endpoint: Endpoint) -> str:
    """ssh_config's ProxyCommand, its %p and %r being the inventory's where that says them."""
    import paramiko

    said = {"Port": endpoint.port, "User": endpoint.user}
    first = "".join(f"  {word} {value}\n" for word, value in said.items() if value)
    whole = paramiko.SSHConfig.from_text(f"Host *\n{first}{_config_text()}")
    return str(whole.lookup(endpoint.address)["proxycommand"])


@functools.lru_cache(maxsize=64)
def private_key(path: Path) -> Any:
    import paramiko

    return paramiko.PKey.from_path(path)


def _lines(path: Path) -> list[str]:
    return files.content(path, MAX_KNOWN).decode(errors="replace").splitlines()


class Known(NamedTuple):
    """Lines of known_hosts: keys by plain names; names (hashed, patterns, negated ones) with their
    key; and the keys that are revoked, for whatever host. Names are in lower case.
    """

    plain: dict[str, list[Any]]
    others: list[tuple[tuple[str, ...], Any]]
    revoked: frozenset[bytes]

    def keys(self, name: str) -> list[Any]:
        """All that are known for a host, several of one type too, but for the revoked ones."""
        name = name.lower()
        found = [*self.plain.get(name, ())]
        found += [key for names, key in self.others if _means(names, name)]
        return [key for key in found if key.asbytes() not in self.revoked]


@functools.lru_cache(maxsize=8)
def _known_hosts(paths: tuple[Path, ...]) -> Known:
    import paramiko

    known = Known({}, [], frozenset())
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
            entry: Any = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(words[:3]))
        except (paramiko.SSHException, ValueError):  # what cannot be read is known by nobody
            continue
        if entry is None:
            continue
        names = tuple(n if n.startswith("|") else n.lower() for n in entry.hostnames)
        if all(_PLAIN.fullmatch(name) for name in names):
            for name in names:
                known.plain.setdefault(name, []).append(entry.key)
        else:
            known.others.append((names, entry.key))
    return known._replace(revoked=frozenset(revoked))


def _means(names: Sequence[str], host: str) -> bool:
    """Whether a line's names mean this host, as sshd(8) has it: a negated one excludes it."""
    if any(name.startswith("!") and _fits(name[1:], host) for name in names):
        return False
    return any(_fits(name, host) for name in names if not name.startswith("!"))


def _fits(pattern: str, host: str) -> bool:
    if pattern.startswith("|1|"):
        import paramiko

        try:
            return bool(paramiko.HostKeys.hash_host(host, pattern) == pattern)
        except (ValueError, AssertionError):  # a salt that is none
            return False
    # [ and ] stand for themselves: `[*.example.org]:2222`; fnmatch does not go back behind a star
    return fnmatchcase(host, pattern.replace("[", "[[]"))


class Trusted(NamedTuple):
    """`name`: what known_hosts calls a host; `transport`: what paramiko is to connect with."""

    name: str
    transport: Callable[..., Any]


def trust(
    client: paramiko.SSHClient,
    endpoint: Endpoint,
    host: str,
    port: int,
    config: Mapping[str, Any],
) -> Trusted:
    """Have `client` take the keys that are known for `host`, and refuse any other. `config`: what
    ssh_config says of it.
    """
    import paramiko

    from lvsfab.transports.bounded import BoundedPackets

    by_hand = (
        f"ssh {endpoint.user}@{endpoint.address}" if endpoint.user else f"ssh {endpoint.address}"
    )
    by_hand += f" -p {endpoint.port}" if endpoint.port else ""
    name = host if port == 22 else f"[{host}]:{port}"  # as known_hosts has it (sshd(8))
    alias: str = config.get("hostkeyalias", name)
    without_port: list[Any] = []
    revoked: frozenset[bytes] = frozenset()
    if endpoint.host_key:
        kind, _, text = endpoint.host_key.partition(" ")
        known = [paramiko.PKey.from_type_string(kind, base64.b64decode(text.split()[0]))]
    else:
        found = _known_hosts(tuple(map(files.home, _known_files(config))))
        known, revoked = found.keys(alias), found.revoked
        if not known and alias == name:  # as ssh does: the host's key at whatever port
            without_port = found.keys(host)

    class Judge(paramiko.MissingHostKeyPolicy):
        """Asked of every key: paramiko's own table has room for but one key of each type."""

        def missing_host_key(
            self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
        ) -> None:
            del client, hostname
            if key.asbytes() in revoked:
                text = f"the host key {fingerprint(key)} of {name} is revoked in known_hosts"
                raise UnreachableError(endpoint.name, text)
            if key in known or key in without_port:
                return
            if known:
                same = [k for k in known if k.get_name() == key.get_name()]
                raise paramiko.BadHostKeyException(host, key, (same or known)[0])
            raise UnreachableError(
                endpoint.name,
                f"unknown host key {fingerprint(key)} for {name}",
                tip="compare it with what the host itself says (`ssh-keygen -lf FILE` on each "
                f"/etc/ssh/ssh_host_*_key.pub); accept it by logging in: `{by_hand}`",
            )

    client.set_missing_host_key_policy(Judge())
    kinds = {key.get_name() for key in known or without_port}

    def transport(sock: Any, **options: Any) -> Any:
        """A host with keys of several types is asked for one that is known."""
        made = paramiko.Transport(sock, packetizer_class=BoundedPackets, **options)
        offered = made.get_security_options()
        offered.key_types = tuple(
            sorted(offered.key_types, key=lambda kind: _key_type(kind) not in kinds)
        )
        return made

    return Trusted(alias, transport)


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _known_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The known_hosts files that ssh_config names for a host, else the usual ones."""
    found: list[str] = []
    words = ("UserKnownHostsFile", "GlobalKnownHostsFile")
    for word, usual in zip(words, KNOWN_HOSTS, strict=True):
        said = config.get(word.lower()) or usual
        try:
            found += shlex.split(said)
        except ValueError as error:
            raise InputError(f"ssh_config: {word} {said}: {error}") from None
    return tuple(found)


def key_options(key: Path | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """What paramiko is to log in with: the inventory's `key`, else those that ssh_config names
    (the agent is asked for one that is locked, and for no other), else what it finds by itself.
    """
    named = [key] if key is not None else [Path(name) for name in config.get("identityfile", ())]
    if not named:
        return {}
    ready, rest = [], []
    for file in named:
        _bounded(file)
        found = _opened(file) or _of_agent(file)
        ready += found[:1]
        if ready[1:] or (not found and (file.is_file() or file == key)):  # paramiko says why not
            rest.append(str(file))
    options: dict[str, Any] = {"allow_agent": False, "look_for_keys": False, "key_filename": rest}
    return options | ({"pkey": ready[0]} if ready else {})


def _bounded(file: Path) -> None:
    """Paramiko reads whatever it is told to the end, which a device has not got."""
    with suppress(OSError, ValueError):  # not there, as it says itself
        found = file.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > files.MAX_BYTES:
            raise InputError("is no private key", path=file)


def _opened(file: Path) -> list[Any]:
    import paramiko
    from paramiko.pkey import UnknownKeyType

    try:
        return [private_key(file)]
    except (OSError, ValueError, TypeError, paramiko.SSHException, UnknownKeyType):
        return []  # it is locked (a TypeError), or none


def _of_agent(file: Path) -> list[Any]:
    """The agent's key whose public part stands beside `file`, or in it."""
    import paramiko

    public = file if file.suffix == ".pub" else file.with_name(f"{file.name}.pub")
    try:
        blob = base64.b64decode(files.content(public).split()[1])
    except (InputError, ValueError, LookupError):
        return []
    # an agent of its own: threads cannot share its socket
    return [key for key in paramiko.Agent().get_keys() if key.asbytes() == blob]


def connect_timeout(config: Mapping[str, Any], usual: float) -> float:
    """`ConnectTimeout` of ssh_config (`10`, `30s`, `1m`), in seconds; else the usual one."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([sm]?)", str(config.get("connecttimeout", "")).lower())
    return float(match[1]) * (60 if match[2] == "m" else 1) if match else usual


def fingerprint(key: paramiko.PKey) -> str:
    """As `ssh-keygen -l` prints it: type and SHA256 of the public key."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"
