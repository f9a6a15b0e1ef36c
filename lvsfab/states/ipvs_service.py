"""A virtual service of IPVS on the director. Every field is stated on every edit: what ipvsadm -E
is not told, it resets.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from typing import ClassVar, Literal, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, Others, Resource, State, Way, show
from lvsfab.states.ipvs import (
    canonical_flags,
    check_service_key,
    cuts,
    endpoint,
    parse_rules,
    service_words,
)
from lvsfab.states.ipvs_server import RealServerState

MAX_PERSISTENCE = 31 * 24 * 60 * 60  # s; ipvsadm refuses more than MAX_TIMEOUT, 31 days


class VirtualServiceState(State, frozen=True, kw_only=True):
    """By `protocol`, `address`, `port` (0: all ports), or by firewall `mark` (`ipv6` says of
    which packets). `persistence` in seconds, 0 for none; `netmask` its granularity (IPv4: a mask;
    IPv6: a prefix length), "" for each client. `flags` are the scheduler's (ipvsadm -b), `engine`
    a persistence engine (--pe), `ops` one-packet scheduling (UDP). `servers` is only ever read.
    """

    kind: ClassVar[str] = "virtual_service"
    read_only: ClassVar[frozenset[str]] = frozenset({"servers"})
    reader: ClassVar[str] = r"""
  ipvs_rules "$1"
  return 0
"""

    protocol: Literal["tcp", "udp", "sctp", "fwmark"] = "tcp"
    address: str = ""
    port: int = 0
    mark: int = 0
    ipv6: bool = False
    scheduler: str = "wlc"
    flags: tuple[str, ...] = ()
    persistence: int = 0
    netmask: str = ""
    engine: str = ""
    ops: bool = False
    servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        six = self.ipv6
        if self.protocol == "fwmark":
            words.within(self.mark, 1, 2**32 - 1, "mark", self.kind)
            if self.address or self.port:
                raise InputError("a firewall mark has no address and no port", key=self.kind)
        else:
            six = words.address(self.address, self.kind).version == 6
            words.port(self.port, self.kind, least=0)
            if self.mark:
                raise InputError("`mark` needs `protocol: fwmark`", key=self.kind)
            if self.port == 0 and not self.persistence:
                raise InputError("port 0 (all ports) needs persistence", key=self.kind)
        for word in (self.scheduler, *self.flags, *((self.engine,) if self.engine else ())):
            words.name(word, self.kind)
        words.within(self.persistence, 0, MAX_PERSISTENCE, "persistence", self.kind)
        if self.netmask and not _is_mask(self.netmask, six):
            raise InputError(
                f"`{self.netmask}` is no {'prefix length' if six else 'netmask'}", key=self.kind
            )
        if self.netmask and not self.persistence:
            raise InputError("a netmask is persistence's: say how many seconds", key=self.kind)
        if self.ops and self.protocol in ("tcp", "sctp"):
            raise InputError("ops (one packet) is for UDP", key=self.kind)

    @property
    def key(self) -> str:
        if self.protocol == "fwmark":
            return f"{'fwm6' if self.ipv6 else 'fwm'}:{self.mark}"
        return f"{self.protocol}:{endpoint(self.address, self.port)}"

    @property
    def mask(self) -> str:
        """The netmask as it is given to programs; "" for each client."""
        return str(self._plain("netmask"))

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        rules = parse_rules(output)
        for rule in rules:
            if rule.verb != "-A" or rule.service != key:
                continue
            protocol, address, port = check_service_key(key, cls.kind)
            said = rule.options
            mark = protocol.startswith("fwm")
            return cls(
                protocol="fwmark" if mark else protocol,  # type: ignore[arg-type]
                address=address,
                port=0 if mark else port,
                mark=port if mark else 0,
                ipv6=protocol == "fwm6",
                scheduler=said.get("-s") or "wlc",
                flags=canonical_flags(said.get("-b", "").split(",")),
                persistence=int(said.get("-p") or 0),
                netmask=said.get("-M", ""),
                engine=said.get("--pe") or said.get("pe") or "",
                ops="-o" in said or "ops" in said,
                servers=tuple(r.server for r in rules if r.verb == "-a" and r.service == key),
            )
        return None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        found = []
        for field in ("scheduler", "flags", "persistence", "netmask", "engine", "ops"):
            want = self._plain(field)
            was = have._plain(field) if have is not None else None
            if want != was and (have is not None or want):
                found.append(Change(field, show(was), show(want)))
        return tuple(found)

    def _plain(self, field: str) -> object:
        """A field as it is compared: one of several ways to write the same is chosen."""
        value = getattr(self, field)
        if field == "flags":
            return canonical_flags(value)
        if field == "netmask":
            return "" if value in ("255.255.255.255", "128") else _mask(value)
        return value

    def members(self, key: str) -> tuple[Resource, ...]:
        return tuple(Resource(RealServerState, f"{key}->{server}", None) for server in self.servers)

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or not (want.changes(have) or have.servers):
            return ""
        return f"there is such a service ({have.scheduler}, to {', '.join(have.servers) or 'none'})"

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have, want
        return cuts(key, way)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            return (command("ipvsadm", "-D", *service_words(key)),)
        argv = ["ipvsadm", "-A" if have is None else "-E", *service_words(key)]
        argv += ["-s", want.scheduler]
        if want.persistence:
            argv += ["-p", str(want.persistence)]
            argv += ["-M", want.mask] if want.mask else []
        argv += ["-b", ",".join(canonical_flags(want.flags))] if want.flags else []
        argv += ["--pe", want.engine] if want.engine else []
        argv += ["-o"] if want.ops else []
        return (command(*argv),)


def _is_mask(text: str, six: bool) -> bool:
    if six:
        return text.isascii() and text.isdecimal() and 1 <= int(text) <= 128
    return re.fullmatch(r"[0-9.]+", _mask(text)) is not None


def _mask(text: str) -> str:
    """`24` and `/24` are 255.255.255.0; an IPv6 prefix length over 32 stays."""
    plain = text.removeprefix("/")
    try:
        if "." in plain or int(plain) <= 32:
            return str(IPv4Network(f"0.0.0.0/{plain}").netmask)
    except ValueError:
        return ""
    return plain
