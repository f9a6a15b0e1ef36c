"""The values everything else speaks of: hosts, networks, addresses, the words of IPVS.

Frozen, without behaviour beyond questions about themselves. Files become these values in
`inventory.py`; nothing here reads, prints or connects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import NoReturn

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


FWMARK = 0x4C56  # "LV": unlike the small marks that people and routing daemons use


class ForwardingMethod(StrEnum):
    """How the director hands a packet on (ipvsadm: -m, -g, -i)."""

    NAT = "nat"
    DR = "dr"
    TUN = "tun"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class Scheduler(StrEnum):
    """ipvsadm(8), -s. The module of each is ip_vs_NAME."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    LBLC = "lblc"
    LBLCR = "lblcr"
    DH = "dh"
    SH = "sh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"
    MH = "mh"


@dataclass(frozen=True, slots=True)
class RealServer:
    """A destination of a virtual service: the host's name, the address and port (RIP:RPORT) that
    the director sends to, its weight (0 drains it). `upper`, `lower`: connections at which it gets
    no more, and below which it gets some again (0: no such limit; `lower` 0: three quarters).
    """

    name: str
    address: IPAddress
    port: int
    weight: int = 1
    upper: int = 0
    lower: int = 0


@dataclass(frozen=True, slots=True)
class VirtualService:
    """VIP:VPORT and how it is scheduled. `persistence` in seconds (None: none), `netmask` its
    granularity; `flags` are the scheduler's (ipvsadm -b), `ops`: each datagram is scheduled by
    itself (-o). With more `ports` than one it is one service for all of them: the director marks
    their packets (FWMARK).
    """

    vip: IPAddress
    port: int
    protocol: Protocol = Protocol.TCP
    scheduler: Scheduler = Scheduler.RR
    flags: tuple[str, ...] = ()
    persistence: int | None = None
    netmask: str | None = None
    ports: tuple[int, ...] = ()
    ops: bool = False

    @property
    def mark(self) -> int | None:
        """The firewall mark by which IPVS knows it; None: by address and port."""
        return FWMARK if self.ports else None

    @property
    def every_port(self) -> tuple[int, ...]:
        return (self.port, *self.ports)


@dataclass(frozen=True, slots=True)
class Keepalived:
    """What keepalived is told beyond the virtual service. `gateway`: the inside address that moves
    with the VIP; `sorry`: the real server that gets requests only while no other can; `router_id`,
    `password`, `preempt`, `advert` (s) are VRRP's; the rest are those of its checks (s) and what
    follows from them.
    """

    gateway: IPAddress | None = None
    sorry: str = ""
    router_id: int = 51
    password: str = ""
    preempt: bool = False
    advert: int = 1
    check_every: int = 6
    check_timeout: int = 3
    check_retries: int = 3
    check_delay: int = 3
    inhibit: bool = False
    connection_sync: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a recipe says is there once it is up: what verify holds against what it sees.

    `director`, `client`, `observers` are host names; an observer is a host other than director
    and real servers with an interface in the VIP's network (it sees who answers for the VIP).
    `backups`: further directors, one of which keepalived lets take over; then `director` is the
    one that should be active first, or, where somebody looked, the one that is. `public`: the
    router's address that clients know, where it forwards the port.
    `vip_network` is the network the VIP is in. `tunnel`: ipip, gre or gue (TUN alone), and
    `tunnel_device` the real servers' device that takes the packets out.
    """

    recipe: str
    method: ForwardingMethod
    service: VirtualService
    real_servers: tuple[RealServer, ...]
    director: str
    client: str | None = None
    observers: tuple[str, ...] = ()
    vip_network: str | None = None
    tunnel: str = "ipip"
    tunnel_device: str = "tunl0"
    full_nat: bool = False
    backups: tuple[str, ...] = ()
    keepalived: Keepalived | None = None
    public: IPAddress | None = None

    @property
    def asked(self) -> IPAddress:
        """The address that clients send to."""
        return self.public or self.service.vip

    @property
    def directors(self) -> tuple[str, ...]:
        return (self.director, *self.backups)

    def addresses(self, names: Collection[str]) -> set[str]:
        """The addresses of those of these hosts that are real servers."""
        return {str(server.address) for server in self.real_servers if server.name in names}


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface: its kernel name, the network (layer-2 segment) it is on."""

    name: str
    network: str
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    to: IPNetwork
    via: IPAddress


class Secret:
    """A text that is not shown: it prints as ***, and it is not pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not travel")


@dataclass(frozen=True, slots=True)
class SSHLogin:
    """How to reach a host by SSH; None or "" leaves the choice to ssh_config and its defaults."""

    host: str = ""
    port: int | None = None
    user: str = ""
    key: Path | None = None
    sudo: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the inventory. `only`: the recipes it takes part in; empty means all.
    `inner`: its address inside the tunnel, where it wants one.
    """

    name: str
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    interfaces: tuple[Interface, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    forward: bool = False
    weight: int = 1
    port: int | None = None
    only: frozenset[str] = frozenset()
    memory: int | None = None
    inner: IPInterface | None = None
    ssh: SSHLogin = field(default_factory=SSHLogin)

    def address(self, version: int = 4) -> IPAddress | None:
        """Its first address of that IP version: the one by which others reach it."""
        for interface in self.interfaces:
            for address in interface.addresses:
                if address.version == version:
                    return address.ip
        return None

    def holds(self, address: IPAddress) -> bool:
        """Whether the inventory gives it this address."""
        return any(address == own.ip for face in self.interfaces for own in face.addresses)

    def interface_on(self, network: str) -> Interface | None:
        return next((i for i in self.interfaces if i.network == network), None)

    def interface_for(self, address: IPAddress) -> Interface | None:
        """The interface whose own subnet holds `address`."""
        for interface in self.interfaces:
            if any(address in own.network for own in interface.addresses):
                return interface
        return None


@dataclass(frozen=True, slots=True)
class Network:
    """A layer-2 segment and the subnets used on it."""

    name: str
    subnets: tuple[IPNetwork, ...] = ()
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What a lab needs beyond hosts and networks. `memory` in MiB per host; `kernel` is
    auto, prebuilt or built; `backend` is auto, rootless or docker; `packages`: Debian's, beyond
    those that every lab host has.
    """

    management: IPv4Network
    memory: int = 128
    kernel: str = "auto"
    backend: str = "auto"
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole inventory file. `parameters`: recipe name (or "all") -> parameter -> value."""

    name: str
    hosts: Mapping[str, Host]
    networks: Mapping[str, Network] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    lab: LabSpec | None = None
    path: Path | None = None

    def with_role(self, role: str) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts.values() if role in host.roles)

    def network_of(self, address: IPAddress) -> Network | None:
        for network in self.networks.values():
            if any(address in subnet for subnet in network.subnets):
                return network
        return None


def mac_address(lab: str, host: str, interface: str) -> str:
    """A stable, locally administered unicast MAC for one interface of one lab host. No byte is
    above 0x7f, so that what contains it can be written as text.
    """
    digest = hashlib.sha256(f"{lab}\0{host}\0{interface}".encode()).digest()
    return "02:" + ":".join(f"{byte & 0x7F:02x}" for byte in digest[:5])
