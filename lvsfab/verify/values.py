"""What verify saw, as values: each host before and after, the client's batch, the captures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lvsfab.model import IPAddress, IPInterface
from lvsfab.verify.directors import Director
from lvsfab.verify.ipvsadm import Connection, Table


@dataclass(frozen=True, slots=True)
class Link:
    """A device: `remote` is a tunnel's far end ("" or "any": any)."""

    name: str
    mac: str
    up: bool
    mtu: int
    remote: str = ""


@dataclass(frozen=True, slots=True)
class RouteGet:
    """What `ip route get` answered. `kind`: local, unicast, or none (no route; `text` says why)."""

    kind: Literal["local", "unicast", "none"]
    dev: str = ""
    via: IPAddress | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One host at one moment.

    `settings`: DEVICE/NAME -> value for net.ipv4.conf, and `ip_forward`, `forwarding6`.
    `received`: device -> packets. `counters`: `TcpExt.IPReversePathFilter` and the like.
    `log_lines`: lines in the test page's access log. `table`, `stats`: the director's IPVS
    table; `ipvs` says why there is none; `rules` has what those do not list, as ipvsadm writes it
    (details of tunnels, thresholds); `late`: counters were behind before the batch. `unread`:
    what could not be read, as sentences.
    """

    host: str
    links: tuple[Link, ...] = ()
    addresses: tuple[tuple[str, IPInterface], ...] = ()
    settings: Mapping[str, int] = field(default_factory=dict)
    received: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[str, RouteGet] = field(default_factory=dict)
    neighbours: Mapping[str, str] = field(default_factory=dict)  # address -> MAC or state
    listeners: tuple[tuple[IPAddress, int], ...] | None = None
    log_lines: int | None = None
    table: Table | None = None
    stats: Table | None = None
    ipvs: str = ""
    rules: str = ""
    late: bool = False
    connections: tuple[Connection, ...] = ()
    states: Mapping[tuple[str, str], int] = field(default_factory=dict)  # server, state -> number
    open_ports: Mapping[int, str] = field(default_factory=dict)  # client's port -> entry's state
    pings: Mapping[str, bool] = field(default_factory=dict)  # server -> a full-size DF ping passed
    unread: tuple[str, ...] = ()

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def has_address(self, address: IPAddress) -> str | None:
        """The device that holds it."""
        return next((dev for dev, own in self.addresses if own.ip == address), None)

    def in_effect(self, device: str, name: str) -> int | None:
        """rp_filter, arp_ignore, arp_announce: the larger of conf.all's and the device's."""
        values = [self.settings.get(f"{place}/{name}") for place in ("all", device)]
        known = [value for value in values if value is not None]
        return max(known) if known else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One kind of outcome of a request. `exit` is curl's exit status (7 refused, 28 timed out);
    `server` is who the answer says it is from, None where it says nothing readable.
    """

    code: int
    exit: int
    connects: int
    body: str
    server: str | None = None
    local: IPAddress | None = None
    port: int | None = None
    peer: IPAddress | None = None

    @property
    def good(self) -> bool:
        return self.exit == 0 and 200 <= self.code < 300 and self.server is not None


@dataclass(frozen=True, slots=True)
class Batch:
    """The client's requests. `order` gives for each request, in order, its kind's index in
    `kinds`, `ports` its port; `stopped`: ended early, after too many failures; `seconds` per
    kind, summed.
    """

    kinds: tuple[Answer, ...] = ()
    order: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    ports: tuple[int, ...] = ()
    stopped: bool = False
    held: bool = False
    problem: str = ""

    @property
    def sent(self) -> int:
        return len(self.order)

    def answers(self) -> tuple[str | None, ...]:
        """Who answered each request, in order; None: no good answer."""
        names = [kind.server if kind.good else None for kind in self.kinds]
        return tuple(names[index] for index in self.order)

    @property
    def failed_ports(self) -> tuple[int, ...]:
        return tuple(
            port for port, name in zip(self.ports, self.answers(), strict=True) if name is None
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """One sized request: `direction` down or up, bytes wanted and done, client's port."""

    direction: str
    size: int
    done: int
    code: int
    exit: int
    port: int

    @property
    def good(self) -> bool:
        return self.exit == 0 and 200 <= self.code < 300 and self.done >= self.size


@dataclass(frozen=True, slots=True)
class Probe:
    """One request that the director was told (firewall mark) to give to `server`."""

    server: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Capture:
    """What an observer saw arrive. `owners`: MACs that answered for the VIP (arping and capture);
    `asks`: (MAC, address asked for) of ARP requests sent in the VIP's name; `replies`: MAC ->
    number of the VIP's replies that came from it; `arping`: MAC -> answers, None: not asked.
    """

    host: str
    owners: Mapping[str, int] = field(default_factory=dict)
    asks: tuple[tuple[str, str], ...] = ()
    replies: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """All of it. `marks`: how servers were singled out (nft, iptables), or "" and why not.
    `sources`: the client addresses that took turns in sending; none: it sent from its own.
    `directors`: what each of several does.
    """

    before: Mapping[str, Snapshot]
    after: Mapping[str, Snapshot]
    batch: Batch
    transfers: tuple[Transfer, ...] = ()
    probes: tuple[Probe, ...] = ()
    captures: tuple[Capture, ...] = ()
    marks: str = ""
    marks_problem: str = ""
    transfers_problem: str = ""
    sources: tuple[IPAddress, ...] = ()
    directors: tuple[Director, ...] = ()
