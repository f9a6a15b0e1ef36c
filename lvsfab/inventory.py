"""Inventory files: YAML -> `model.Inventory`. Errors name file, line and key.

The shapes of the file are the Structs below (also exported as JSON schema for editors); what
they cannot say (addresses, references between sections) is checked in `_Reading`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from lvsfab import document
from lvsfab.document import Document, Place
from lvsfab.errors import InputError
from lvsfab.files import home
from lvsfab.model import (
    Host,
    Interface,
    Inventory,
    IPAddress,
    IPInterface,
    LabSpec,
    Network,
    Route,
    SSHLogin,
)

T = TypeVar("T")

NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$")
_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62})$")
LOGIN = re.compile(r"[A-Za-z0-9_.:%@][A-Za-z0-9_.:%@-]*")  # a user, or where a host is reached
_DEVICE = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
ROLES = ("client", "router", "director", "real_server")
MAX_WEIGHT = 65535  # net/netfilter/ipvs/ip_vs_ctl.c takes an int; ipvsadm(8) allows 0 to 65535

Words = list[str]


class InterfaceDoc(msgspec.Struct, forbid_unknown_fields=True):
    network: Annotated[str, Meta(description="the layer-2 segment it is on")]
    addresses: Annotated[Words, Meta(description="with prefix length, IPv4 and IPv6")] = []


class SSHDoc(msgspec.Struct, forbid_unknown_fields=True):
    host: Annotated[str, Meta(description="name or address to connect to, or ssh_config alias")] = (
        ""
    )
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    user: str = ""
    key: Annotated[str, Meta(description="private key file")] = ""
    sudo: Annotated[bool, Meta(description="become root by sudo")] = False


class HostDoc(msgspec.Struct, forbid_unknown_fields=True):
    roles: list[Literal["client", "router", "director", "real_server"]] = []
    groups: Words = []
    interfaces: dict[str, InterfaceDoc] = {}
    gateways: Annotated[Words, Meta(description="default routes: one IPv4, one IPv6")] = []
    routes: Annotated[dict[str, str], Meta(description="network: next hop")] = {}
    forward: Annotated[bool, Meta(description="the lab boots it as a router")] = False
    weight: Annotated[int, Meta(ge=0, le=MAX_WEIGHT)] = 1
    port: Annotated[int, Meta(ge=1, le=65535, description="its own port, NAT only")] | None = None
    only: Annotated[Words, Meta(description="recipes it takes part in; none given: all")] = []
    memory: Annotated[int, Meta(ge=48, le=65536, description="MiB, in a lab")] | None = None
    inner: Annotated[str, Meta(description="IPv4 address with prefix inside the tunnel")] = ""
    ssh: SSHDoc = msgspec.field(default_factory=SSHDoc)


class NetworkDoc(msgspec.Struct, forbid_unknown_fields=True):
    subnets: Words = []
    mtu: Annotated[int, Meta(ge=576, le=65535)] = 1500


class LabDoc(msgspec.Struct, forbid_unknown_fields=True):
    management: Annotated[str, Meta(description="IPv4 network for SSH alone")]
    memory: Annotated[int, Meta(ge=48, le=65536, description="MiB for each host")] = 128
    kernel: Literal["auto", "prebuilt", "built"] = "auto"
    backend: Literal["auto", "rootless", "docker"] = "auto"
    packages: Annotated[
        Words, Meta(description="of Debian's, on every host, beside the usual")
    ] = []


class InventoryDoc(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    hosts: dict[str, HostDoc]
    networks: dict[str, NetworkDoc] = {}
    parameters: Annotated[
        dict[str, dict[str, Any]], Meta(description="recipe name, or all: parameter: value")
    ] = {}
    lab: LabDoc | None = None


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of an inventory file, for editors."""
    return msgspec.json.schema(InventoryDoc)


def shipped(folder: str, name: str) -> Path | None:
    """`folder/name` of the working directory, else the one shipped with lvsfab."""
    own = Path(folder) / name
    if own.is_file():
        return own
    packaged = resources.files("lvsfab") / "data" / folder / name
    checkout = Path(__file__).parent.parent / folder / name
    for path in (Path(str(packaged)), checkout):
        if path.is_file():
            return path
    return None


def find(what: str) -> Path:
    """The file that `-i WHAT` means: a path, or the name of one in inventory/."""
    if "/" in what or what.endswith((".yml", ".yaml")):
        return Path(what)
    path = shipped("inventory", f"{what}.yml") if NAME.match(what) else None
    if path is None:
        raise InputError(f"no inventory `{what}`", tip="give a path, or inventory/NAME.yml")
    return path


def load(path: Path) -> Inventory:
    """Read and check an inventory file. InputError with file, line and key."""
    return read(document.load(path))


def read(doc: Document) -> Inventory:
    return _Reading(doc, doc.convert(InventoryDoc)).inventory()


class _Reading:
    """One pass over one document; every complaint knows its place."""

    def __init__(self, doc: Document, raw: InventoryDoc) -> None:
        self._doc = doc
        self._raw = raw
        self._taken: dict[IPAddress, str] = {}

    def inventory(self) -> Inventory:
        raw = self._raw
        self._name(("name",), raw.name, NAME)
        networks = {
            name: self._network(("networks", name), name, net) for name, net in raw.networks.items()
        }
        hosts = {
            name: self._host(("hosts", name), name, host, networks)
            for name, host in raw.hosts.items()
        }
        if not hosts:
            raise self._doc.error(("hosts",), "no hosts")
        lab = self._lab(networks) if raw.lab is not None else None
        return Inventory(raw.name, hosts, networks, raw.parameters, lab, self._doc.path)

    def _network(self, place: Place, name: str, raw: NetworkDoc) -> Network:
        self._name(place, name, NAME)
        subnets = tuple(
            self._parse((*place, "subnets", i), text, ipaddress.ip_network, "a network")
            for i, text in enumerate(raw.subnets)
        )
        return Network(name, subnets, raw.mtu)

    def _host(self, place: Place, name: str, raw: HostDoc, networks: Mapping[str, Network]) -> Host:
        self._name(place, name, _HOST)
        for i, group in enumerate(raw.groups):
            self._name((*place, "groups", i), group, _HOST)
        interfaces = tuple(
            self._interface((*place, "interfaces", dev), name, dev, face, networks)
            for dev, face in raw.interfaces.items()
        )
        gateways = tuple(
            self._parse((*place, "gateways", i), text, ipaddress.ip_address, "an address")
            for i, text in enumerate(raw.gateways)
        )
        if len({gateway.version for gateway in gateways}) < len(gateways):
            raise self._doc.error((*place, "gateways"), "one default route for each IP version")
        host = Host(
            name=name,
            roles=frozenset(raw.roles),
            groups=frozenset(raw.groups),
            interfaces=interfaces,
            gateways=gateways,
            routes=tuple(
                self._route((*place, "routes", to), to, via) for to, via in raw.routes.items()
            ),
            forward=raw.forward,
            weight=raw.weight,
            port=raw.port,
            only=frozenset(raw.only),
            memory=raw.memory,
            inner=self._inner(place, name, raw.inner) if raw.inner else None,
            ssh=SSHLogin(
                host=raw.ssh.host,
                port=raw.ssh.port,
                user=raw.ssh.user,
                key=self._key((*place, "ssh", "key"), raw.ssh.key) if raw.ssh.key else None,
                sudo=raw.ssh.sudo,
            ),
        )
        for i, gateway in enumerate(gateways):
            if host.interface_for(gateway) is None:
                raise self._doc.error(
                    (*place, "gateways", i), f"{gateway} is in none of {name}'s networks"
                )
        for key, text in (("host", raw.ssh.host), ("user", raw.ssh.user)):
            if text and not LOGIN.fullmatch(text):
                raise self._doc.error((*place, "ssh", key), f"`{text}` is no {key} name")
        return host

    def _inner(self, place: Place, host: str, text: str) -> IPInterface:
        here = (*place, "inner")
        address = self._parse(here, text, ipaddress.IPv4Interface, "an IPv4 address with prefix")
        if "/" not in text:
            raise self._doc.error(here, f"`{text}` needs a prefix length, as in {text}/24")
        self._take(here, address.ip, host)
        return address

    def _key(self, place: Place, text: str) -> Path:
        try:
            return home(text)
        except InputError as error:
            raise self._doc.error(place, error.message) from None

    def _route(self, place: Place, to: str, via: str) -> Route:
        return Route(
            self._parse(place, to, ipaddress.ip_network, "a network"),
            self._parse(place, via, ipaddress.ip_address, "an address"),
        )

    def _interface(
        self,
        place: Place,
        host: str,
        name: str,
        raw: InterfaceDoc,
        networks: Mapping[str, Network],
    ) -> Interface:
        self._name(place, name, _DEVICE)
        if raw.network not in networks:
            known = ", ".join(networks) or "none"
            raise self._doc.error(
                (*place, "network"), f"unknown network `{raw.network}`; known: {known}"
            )
        addresses: list[IPInterface] = []
        for i, text in enumerate(raw.addresses):
            here = (*place, "addresses", i)
            if "/" not in text:
                raise self._doc.error(here, f"`{text}` needs a prefix length, as in {text}/24")
            address = self._parse(here, text, ipaddress.ip_interface, "an address with prefix")
            subnets = networks[raw.network].subnets
            if subnets and not any(address.ip in subnet for subnet in subnets):
                raise self._doc.error(here, f"{address.ip} is not in network {raw.network}")
            self._take(here, address.ip, host)
            addresses.append(address)
        return Interface(name, raw.network, tuple(addresses))

    def _take(self, place: Place, address: IPAddress, host: str) -> None:
        if address in self._taken:
            raise self._doc.error(place, f"{address} is {self._taken[address]}'s already")
        self._taken[address] = host

    def _lab(self, networks: Mapping[str, Network]) -> LabSpec:
        raw = self._raw.lab
        assert raw is not None  # noqa: S101 - the caller looked
        place: Place = ("lab", "management")
        management = self._parse(place, raw.management, ipaddress.IPv4Network, "an IPv4 network")
        if management.num_addresses < len(self._raw.hosts) + 12:
            raise self._doc.error(place, f"{management} has too few addresses for the hosts")
        for network in networks.values():
            for subnet in network.subnets:
                if subnet.version == 4 and subnet.overlaps(management):
                    raise self._doc.error(place, f"overlaps network {network.name} ({subnet})")
        for name, host in self._raw.hosts.items():
            if "mgmt" in host.interfaces:
                raise self._doc.error(
                    ("hosts", name, "interfaces", "mgmt"), "the lab has an interface `mgmt` itself"
                )
        for number, package in enumerate(raw.packages):
            if not _PACKAGE.fullmatch(package):
                raise self._doc.error(
                    ("lab", "packages", number), f"`{package}` is no name of a Debian package"
                )
        packages = tuple(sorted(set(raw.packages)))
        return LabSpec(management, raw.memory, raw.kernel, raw.backend, packages)

    def _name(self, place: Place, name: str, pattern: re.Pattern[str]) -> None:
        if not pattern.match(name) or "\n" in name:
            raise self._doc.error(place, f"`{name}` is not a name ({pattern.pattern})")

    def _parse(self, place: Place, text: str, parse: Callable[[str], T], what: str) -> T:
        if "%" in text:  # the scope of an IPv6 address may be any text, and stays in it
            raise self._doc.error(place, f"`{text}` is not {what}: name the device apart from it")
        try:
            return parse(text)
        except ValueError as error:
            raise self._doc.error(place, f"`{text}` is not {what}: {error}") from None
