"""From the records that hosts print to values. Pure; and never to be crashed by what they print:
what cannot be read becomes a sentence in `unread` or `problem`, and what rests on it is UNCHECKED.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Literal, TypeVar

from lvsfab.model import Cluster, IPAddress, IPInterface
from lvsfab.session import Record
from lvsfab.verify.ipvsadm import Connection, connections, parse_table
from lvsfab.verify.values import Link, RouteGet, Snapshot

T = TypeVar("T")
MAC = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b")
MAX_SHOWN = 120  # characters of what a host printed that a message quotes
MAX_LINE = 4096  # characters of a line that are matched: a host's may have 32 million
_TABLE_MISSING = {3, 4}  # statuses of lv_table: no ip_vs, no ipvsadm


def printable(text: str, most: int = MAX_SHOWN) -> str:
    """What a host printed, fit for a terminal and a log: one line, escaped, bounded."""
    kept = text[: most + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in kept)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def lines(text: str) -> list[str]:
    """What is matched against patterns that try many ends at many starts."""
    return [line[:MAX_LINE] for line in text.splitlines()]


def address(text: str) -> IPAddress | None:
    try:
        return ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def snapshot(host: str, records: Mapping[str, Record], cluster: Cluster) -> Snapshot:
    """One host's records of phase 1 or 3, read as far as they can be."""
    unread: list[str] = []
    broken = records.get("unreadable")
    if broken is not None or "links" not in records:
        words = broken.output if broken is not None else "no answer to what was asked"
        unread.append(f"{host}: {printable(words)}")

    none: dict[str, int] = {}

    def read(name: str, parse: Callable[[str], T], empty: T, *, needed: bool = True) -> T:
        record = records.get(name)
        if record is None:
            return empty
        if record.status and needed:
            unread.append(f"{host}: {name}: {printable(record.output.strip() or 'no output')}")
            return empty
        try:
            return parse(record.output) if not record.status else empty
        except (ValueError, IndexError, OverflowError) as error:
            unread.append(f"{host}: could not read {name}: {printable(str(error))}")
            return empty

    ipvs = ""
    table = stats = None
    said = records.get("table")
    if said is not None and said.status in _TABLE_MISSING:
        ipvs = printable(said.output.strip())
    elif said is not None:
        table = read("table", parse_table, None)
        stats = read("stats", parse_table, None)
    nothing: Connections = ((), {}, {})
    entries, states, ports = read("connections", parse_connections_record, nothing, needed=False)
    return Snapshot(
        host=host,
        links=read("links", parse_links, ()),
        addresses=read("addresses", parse_addresses, ()),
        settings=read("conf", parse_settings, {}),
        received=read("dev", parse_received, {}),
        counters=read("netstat", parse_counters, none)
        | read("snmp6", parse_snmp6, none, needed=False),
        routes={
            name.removeprefix("route:"): parse_route(record)
            for name, record in records.items()
            if name.startswith("route:")
        },
        neighbours=read("neighbours", parse_neighbours, {}, needed=False),
        listeners=read("listen", parse_listeners, None),
        log_lines=read("log", lambda text: int(text.split()[0]), None, needed=False),
        table=table,
        stats=stats,
        ipvs=ipvs,
        late=read("late", lambda text: text.strip() == "yes", empty=False, needed=False),
        rules=read("rules", str, "", needed=False),
        connections=entries,
        states=states,
        open_ports=ports,
        pings={
            server.name: records[f"ping:{server.name}"].status == 0
            for server in cluster.real_servers
            if f"ping:{server.name}" in records
        },
        unread=tuple(unread),
    )


def parse_links(text: str) -> tuple[Link, ...]:
    """`ip -o -d link show`."""
    found = []
    for line in lines(text):
        match = re.match(r"\d+: ([^:@\s]+)(?:@\S+)?: <([^>]*)> mtu (\d+)", line)
        if match is None:
            if line.strip():
                raise ValueError(f"no link: {line!r}")
            continue
        name, flags, mtu = match.groups()
        mac = re.search(r" link/\S+ ([0-9a-f:]{17})\b", line)
        remote = re.search(r" remote (\S+)", line)
        found.append(
            Link(
                name,
                mac[1] if mac else "",
                "UP" in flags.split(","),
                int(mtu),
                remote[1] if remote else "",
            )
        )
    if not found:
        raise ValueError("no link at all")
    return tuple(found)


def parse_addresses(text: str) -> tuple[tuple[str, IPInterface], ...]:
    """`ip -o addr show`: device and address; of a point-to-point one, this end."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and words[2] in ("inet", "inet6"):
            found.append((words[1], ip_interface(words[3])))
    if not found:
        raise ValueError("no address at all")
    return tuple(found)


def parse_settings(text: str) -> dict[str, int]:
    """Lines `/proc/sys/net/PATH:VALUE`."""
    found = {}
    for line in text.splitlines():
        path, _, value = line.removeprefix("/proc/sys/net/").rpartition(":")
        parts = path.split("/")
        if parts[:2] == ["ipv4", "conf"] and len(parts) == 4:
            found["/".join(parts[2:])] = int(value)
        elif path == "ipv4/ip_forward":
            found["ip_forward"] = int(value)
        elif path == "ipv6/conf/all/forwarding":
            found["forwarding6"] = int(value)
        elif path == "ipv4/vs/conn_reuse_mode":
            found["conn_reuse_mode"] = int(value)
    if not found:
        raise ValueError("no sysctl at all")
    return found


def parse_received(text: str) -> dict[str, int]:
    """/proc/net/dev: device -> packets received."""
    found = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            found[name.strip()] = int(rest.split()[1])
    return found


def parse_counters(text: str) -> dict[str, int]:
    """/proc/net/netstat and /proc/net/snmp: a line of names, then a line of values."""
    found = {}
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names[0] != values[0]:
            raise ValueError(f"names of {names[0]!r}, values of {values[0]!r}")
        group = names[0].rstrip(":")
        for name, value in zip(names[1:], values[1:], strict=True):
            found[f"{group}.{name}"] = int(value)
    return found


def parse_snmp6(text: str) -> dict[str, int]:
    """/proc/net/snmp6: a name and a value per line."""
    found = {}
    for line in text.splitlines():
        name, value = line.split()
        found[name] = int(value)
    return found


def parse_route(record: Record) -> RouteGet:
    """`ip -o route get`; its failure is an answer too (no route)."""
    text = record.output.strip()
    words = text.split()
    if record.status or not words or words[0] in ("unreachable", "blackhole", "prohibit"):
        return RouteGet("none", text=printable(text))
    after = dict(itertools.pairwise(words))
    kind: Literal["local", "unicast"] = "local" if words[0] == "local" else "unicast"
    via = after.get("via", "")
    if via in ("inet", "inet6"):  # a next hop of the other family
        via = after.get(via, "")
    return RouteGet(kind, printable(after.get("dev", ""), 16), address(via), printable(text))


def parse_neighbours(text: str) -> dict[str, str]:
    """`ip neigh show`: address -> MAC, or the state where there is none (FAILED)."""
    found = {}
    for line in text.splitlines()[:2000]:
        words = line.split()
        if len(words) < 3 or address(words[0]) is None:
            continue
        mac = MAC.search(line)
        found[words[0]] = mac[0] if mac else words[-1]
    return found


def parse_listeners(text: str) -> tuple[tuple[IPAddress, int], ...]:
    """Local address and port as /proc/net/tcp writes them: 32-bit words in host byte order
    (taken as little-endian: all that Linux runs on today but s390x).
    """
    found = []
    for line in text.splitlines():
        host, colon, port = line.strip().partition(":")
        if not colon or len(host) not in (8, 32):
            raise ValueError(f"no socket address: {line!r}")
        words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
        packed = b"".join(words)
        own: IPAddress = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
        found.append((own, int(port, 16)))
    return tuple(found)


Connections = tuple[tuple[Connection, ...], dict[tuple[str, str], int], dict[int, str]]


def parse_connections_record(text: str) -> Connections:
    """Lines `entry ...` as ipvsadm prints them, `state SERVER STATE NUMBER`, `port PORT STATE`."""
    entries: list[Connection] = []
    states: dict[tuple[str, str], int] = {}
    ports: dict[int, str] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "entry":
            entries.extend(connections(rest))
        elif word == "state":
            server, state, number = rest.split()
            states[server, state] = int(number)
        elif word == "port":
            port, state = rest.split()
            ports[int(port)] = state
    return tuple(entries), states, ports
