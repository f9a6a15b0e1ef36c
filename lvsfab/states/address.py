"""An IP address on a device.

A VIP is always /32 or /128. One that hosts share (on real servers) must not be probed for
duplicates, so a /128 is added with `nodad` unless said otherwise.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Self

import msgspec

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Others, State, UnsupportedError, Way, show
from lvsfab.states.words import interface, with_prefix

_LABEL = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
FOREVER = 4294967295  # what the kernel gives for a lifetime without end

HELPERS = r"""
announce_address() { # DEV ADDRESS: gratuitous ARP, both forms, in the background, 3 s at most
  has arping || { echo "arping is missing: neighbours are not told of $2"; return 0; }
  for a_form in -U -A; do
    arping -q "$a_form" -c 2 -w 3 -I "$1" "$2" </dev/null >/dev/null 2>&1 &
  done
}
"""


class Address(State, frozen=True, kw_only=True):
    """`address` has its prefix length. `deprecated` (IPv6): never chosen as a source address.
    `announce`: tell the neighbours by gratuitous ARP (IPv4) when it is added. `words` and
    `lifetime` are only ever read: everything else that `ip address add` was told.
    """

    kind: ClassVar[str] = "address"
    read_only: ClassVar[frozenset[str]] = frozenset({"words", "lifetime"})
    reader: ClassVar[str] = r"""
  { has_link "${1#*@}" && ip -j address show dev "${1#*@}" 2>/dev/null; } ||
    ip -j address show dev lo 2>&1 >/dev/null | sed 's/^/unsupported /'
  return 0
"""

    address: str
    dev: str
    label: str | None = None
    scope: str | None = None
    deprecated: bool | None = None
    nodad: bool | None = None
    announce: bool | None = None
    words: tuple[str, ...] | None = None
    lifetime: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        own = with_prefix(self.address, self.kind)
        interface(self.dev, self.kind)
        if self.label is not None and self.words is None:
            if own.version == 6:
                raise InputError("an IPv6 address has no label", key=self.kind)
            if not self.label.startswith(self.dev) or not _LABEL.fullmatch(self.label):
                raise InputError(
                    f"a label starts with its device, {self.dev}, and has at most 15 characters",
                    key=self.kind,
                )
        if self.scope is not None and not self.scope.isalnum():
            raise InputError(f"`{self.scope}` is no scope", key=self.kind)

    @property
    def key(self) -> str:
        return f"{with_prefix(self.address, self.kind).ip}@{self.dev}"

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        if not output.strip():
            return None
        ip, _, dev = key.partition("@")
        try:
            links = msgspec.json.decode(output, type=list[_Shown])
        except msgspec.DecodeError:
            said = output.removeprefix("unsupported ").strip()[:200]
            raise UnsupportedError(f"`ip -j` of iproute2 is needed; it said: {said}") from None
        found = [
            info
            for link in links
            if link.ifname == dev
            for info in link.addr_info
            if info.get("local") == ip
        ]
        if not found:
            return None
        # With several prefix lengths the longest is the VIP's.
        info = max(found, key=lambda i: int(i.get("prefixlen", 0)))
        four = info.get("family") == "inet"
        return cls(
            address=f"{ip}/{info.get('prefixlen')}",
            dev=dev,
            label=str(info.get("label", dev)) if four else None,
            scope=str(info.get("scope", "global")),
            deprecated=None if four else bool(info.get("deprecated")),
            words=_words(info, dev),
            lifetime=_lifetime(info),
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        found = []
        for field in ("address", "label", "scope", "deprecated", "words"):
            want = getattr(self, field)
            was = getattr(have, field) if have is not None else None
            if field == "address" and have is not None:
                same = with_prefix(self.address, self.kind) == with_prefix(str(was), self.kind)
            else:
                same = want is None or (have is not None and want == was)
            if not same:
                found.append(Change(field, show(was), show(want)))
        return tuple(found)

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        ip, _, dev = key.partition("@")
        if have is not None and dev in way.devices:  # below: what a tunnel is sent from
            return f"an address of {dev} goes, a device that leads to this controller"
        if ip_address(ip) in (way.local, way.peer, way.via):
            return f"{ip} is on the way to this controller"
        if want is not None:
            network = ip_network(want.address, strict=False)
            if network.version == way.peer.version and network.prefixlen >= way.prefix:
                for end in (way.peer, way.via):
                    if end is not None and end in network:
                        return f"{network} on {dev} leads away from {end}"
        return ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        steps = []
        if have is not None:
            peer = have.words[:2] if have.words and have.words[0] == "peer" else ()
            gone = have.address.partition("/")[0] if peer else have.address
            steps.append(command("ip", "address", "del", gone, *peer, "dev", have.dev))
        if want is not None:
            steps.append(command("ip", "address", "add", *want._added()))
            own = with_prefix(want.address, cls.kind)
            if want.announce and own.version == 4:
                ip = str(own.ip)
                shown = f"arping -U -c 2 -I {want.dev} {ip} &"
                steps.append(command("announce_address", want.dev, ip, shown=shown))
        return tuple(steps)

    @classmethod
    def places(cls, key: str) -> tuple[str, str] | None:
        ip, _, dev = key.partition("@")
        return ip, dev

    @property
    def shared(self) -> str:  # one that has no network of its own
        face = with_prefix(self.address, self.kind)
        return str(face.ip) if face.network.prefixlen == face.max_prefixlen else ""

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or not want.changes(have):
            return ""
        return f"{have.address} is on {have.dev} already, otherwise than the recipe has it"

    def _added(self) -> tuple[str, ...]:
        own = with_prefix(self.address, self.kind)
        if self.words is not None:
            peer = bool(self.words) and self.words[0] == "peer"
            first = str(own.ip) if peer else self.address
            return (first, *self.words, "dev", self.dev, *(self.lifetime or ()))
        words = [str(own)]
        if self.scope is not None:
            words += ["scope", self.scope]
        if self.label is not None:
            words += ["label", self.label]
        words += ["dev", self.dev]
        if own.version == 6:
            vip = own.network.prefixlen == own.max_prefixlen
            if self.nodad or (self.nodad is None and vip):
                words += ["nodad"]
            if self.deprecated:
                words += ["preferred_lft", "0"]
        return tuple(words)


class _Shown(msgspec.Struct):
    """What `ip -j address` (iproute2) says of a device, as far as it matters here."""

    ifname: str = ""
    addr_info: list[dict[str, Any]] = []


def _words(info: dict[str, Any], dev: str) -> tuple[str, ...]:
    """What `ip address add` needs to make this address again, but for device and lifetimes."""
    words: list[str] = []
    if "address" in info:
        words += ["peer", f"{info['address']}/{info.get('prefixlen')}"]
    for name, word in (("broadcast", "brd"), ("anycast", "any"), ("metric", "metric")):
        if name in info:
            words += [word, str(info[name])]
    words += ["scope", str(info.get("scope", "global"))]
    if info.get("family") == "inet" and info.get("label", dev) != dev:
        words += ["label", str(info["label"])]
    if info.get("protocol") not in (None, "kernel_lo", "kernel_ra", "kernel_ll"):
        words += ["proto", str(info["protocol"])]
    words += [w for w in ("nodad", "home", "mngtmpaddr", "noprefixroute", "autojoin") if w in info]
    return tuple(words)


def _lifetime(info: dict[str, Any]) -> tuple[str, ...]:
    valid = info.get("valid_life_time", FOREVER)
    preferred = info.get("preferred_life_time", FOREVER)
    if valid == FOREVER and preferred == FOREVER:
        return ()
    text = "forever" if valid == FOREVER else str(valid)
    return (
        "valid_lft",
        text,
        "preferred_lft",
        "forever" if preferred == FOREVER else str(preferred),
    )
