"""What `ipvsadm -Ln` lists, as values: services and servers, their counters, connections. Pure.

Formats: ipvsadm(8) 1.31, ipvsadm.c (print_service_entry, print_conn). Whole fields, never
substrings: 10.0.0.1:80 is not 110.0.0.1:80. A line that fits nothing is a ValueError naming it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from lvsfab.model import ForwardingMethod, IPAddress

_METHODS = {
    "masq": ForwardingMethod.NAT,
    "route": ForwardingMethod.DR,
    "local": ForwardingMethod.DR,  # the director itself is the real server: handed to its stack
    "tunnel": ForwardingMethod.TUN,
}
_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}  # without --exact


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the entry was made or zeroed (--stats): connections, packets, bytes."""

    conns: int = 0
    in_pkts: int = 0
    out_pkts: int = 0
    in_bytes: int = 0
    out_bytes: int = 0

    def __sub__(self, before: Counters) -> Counters:
        return Counters(
            self.conns - before.conns,
            self.in_pkts - before.in_pkts,
            self.out_pkts - before.out_pkts,
            self.in_bytes - before.in_bytes,
            self.out_bytes - before.out_bytes,
        )


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One `->` line. A plain listing has method, weight, active, inactive; --stats has counters."""

    address: IPAddress
    port: int
    method: ForwardingMethod | None = None
    weight: int | None = None
    active: int = 0
    inactive: int = 0
    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One service with its servers. `protocol` is tcp, udp, sctp or fwm; for fwm `fwmark` is set
    and address is None. A --stats listing has no scheduler.
    """

    protocol: str
    address: IPAddress | None
    port: int
    fwmark: int | None = None
    scheduler: str | None = None
    flags: tuple[str, ...] = ()
    persistence: int | None = None
    netmask: str | None = None
    counters: Counters | None = None
    servers: tuple[ServerEntry, ...] = ()

    @property
    def key(self) -> str:
        if self.address is None:
            return f"fwm:{self.fwmark}"
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.protocol}:{host}:{self.port}"

    def server(self, address: IPAddress, port: int) -> ServerEntry | None:
        return next((s for s in self.servers if s.address == address and s.port == port), None)


@dataclass(frozen=True, slots=True)
class Table:
    services: tuple[ServiceEntry, ...] = ()

    def service(self, protocol: str, address: IPAddress, port: int) -> ServiceEntry | None:
        return next(
            (
                s
                for s in self.services
                if s.protocol == protocol and s.address == address and s.port == port
            ),
            None,
        )

    def mark(self, fwmark: int) -> ServiceEntry | None:
        return next((s for s in self.services if s.fwmark == fwmark), None)


@dataclass(frozen=True, slots=True)
class Connection:
    """One line of `ipvsadm -Lnc`. A client port of 0 is a persistence template."""

    protocol: str
    expires: int  # s
    state: str
    client: tuple[IPAddress, int]
    virtual: tuple[IPAddress, int]
    server: tuple[IPAddress, int]


def endpoint(text: str) -> tuple[IPAddress, int]:
    """`10.0.0.1:80` or `[fd00::1]:80` as address and port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"no address and port: {text[:80]!r}")
    return ip_address(host.removeprefix("[").removesuffix("]")), int(port)


def parse_table(text: str) -> Table:
    """`ipvsadm -Ln`, with or without `--stats` and `--exact`."""
    services: list[ServiceEntry] = []
    servers: list[list[ServerEntry]] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("IP", "Prot") or words[:2] == ["->", "RemoteAddress:Port"]:
            continue
        try:
            if words[0] == "->":
                servers[-1].append(_server(words[1:]))
            else:
                services.append(_service(words))
                servers.append([])
        except (ValueError, IndexError) as error:
            raise ValueError(f"cannot read ipvsadm's line {line[:120]!r}: {error}") from None
    return Table(
        tuple(
            replace(service, servers=tuple(own))
            for service, own in zip(services, servers, strict=True)
        )
    )


def _service(words: list[str]) -> ServiceEntry:
    protocol = words[0].lower()
    address: IPAddress | None = None
    port, mark = 0, None
    if protocol == "fwm":
        mark = int(words[1])
        rest = words[3:] if words[2:3] == ["IPv6"] else words[2:]
    elif protocol in ("tcp", "udp", "sctp"):
        address, port = endpoint(words[1])
        rest = words[2:]
    else:
        raise ValueError(f"unknown protocol {words[0]!r}")
    counters = _counters(rest)
    if counters is not None:
        return ServiceEntry(protocol, address, port, mark, counters=counters)
    if not rest:
        raise ValueError("no scheduler")
    flags: list[str] = []
    persistence, netmask = None, None
    after = iter(rest[1:])
    for word in after:
        if word == "persistent":
            persistence = int(next(after, ""))
        elif word == "mask":
            netmask = next(after, "")
        elif word == "pe":
            flags.append(f"pe={next(after, '')}")
        elif word.startswith("("):
            flags.extend(flag for flag in word.strip("()").split(",") if flag)
        else:
            flags.append(word)
    return ServiceEntry(protocol, address, port, mark, rest[0], tuple(flags), persistence, netmask)


def _server(words: list[str]) -> ServerEntry:
    address, port = endpoint(words[0])
    counters = _counters(words[1:])
    if counters is not None:
        return ServerEntry(address, port, counters=counters)
    forward, weight, active, inactive = words[1:5]
    method = _METHODS.get(forward.lower().partition("-")[0])
    if method is None:
        raise ValueError(f"unknown forwarding method {forward!r}")
    return ServerEntry(address, port, method, int(weight), int(active), int(inactive))


def _counters(words: list[str]) -> Counters | None:
    if len(words) != 5 or not all(re.fullmatch(r"\d+[KMGT]?", word) for word in words):
        return None
    conns, in_pkts, out_pkts, in_bytes, out_bytes = (
        int(word.rstrip("KMGT")) * _SUFFIX[word[-1] if word[-1] in _SUFFIX else ""]
        for word in words
    )
    return Counters(conns, in_pkts, out_pkts, in_bytes, out_bytes)


def connections(text: str) -> Iterator[Connection]:
    """The entries of `ipvsadm -Lnc`, one by one: there may be a great many."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("IPVS", "pro"):
            continue
        try:
            minutes, _, seconds = words[1].partition(":")
            yield Connection(
                words[0].lower(),
                int(minutes) * 60 + int(seconds or 0),
                words[2],
                endpoint(words[3]),
                endpoint(words[4]),
                endpoint(words[5]),
            )
        except (ValueError, IndexError) as error:
            raise ValueError(f"cannot read connection {line[:120]!r}: {error}") from None


def parse_connections(text: str) -> tuple[Connection, ...]:
    return tuple(connections(text))
