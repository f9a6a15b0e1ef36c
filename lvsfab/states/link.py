"""A network device: there or not, up or down, its MTU and, for a tunnel, its ends.

The kernel makes some devices by itself as soon as their module is loaded (tunl0 with ipip): those
are never added or deleted here, only set. An undo deletes none but what was absent before.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

import msgspec

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Others, State, UnsupportedError, Way, changes
from lvsfab.states.words import address, interface, port, within

# net/ipv4/ipip.c, ip_gre.c, ip_vti.c; net/ipv6/ip6_tunnel.c, sit.c, ip6_gre.c, ip6_vti.c
FALLBACK = {
    "tunl0": "ipip",
    "gre0": "gre",
    "gretap0": "gretap",
    "erspan0": "erspan",
    "ip_vti0": "vti",
    "ip6tnl0": "ip6tnl",
    "sit0": "sit",
    "ip6gre0": "ip6gre",
    "ip6_vti0": "vti6",
}
_TUNNELS = {"ipip", "gre", "ip6tnl", "sit", "ip6gre"}
_ANY = {None, "", "any", "0.0.0.0", "::"}  # noqa: S104  (an address, nothing is bound to it)


class Link(State, frozen=True, kw_only=True):
    """`type` None: an existing device. `mtu` in bytes. `local`, `remote`: a tunnel's own and far
    address ("any": whichever). `mode` of an ip6tnl: ip6ip6, ipip6 or any. `encap` gue or fou with
    `encap_port`: the UDP port to which the device *sends*; to receive see kind `fou`.
    """

    kind: ClassVar[str] = "link"
    reader: ClassVar[str] = r"""
  { has_link "$1" && ip -j -d link show dev "$1" 2>/dev/null; } ||
    ip -j link show dev lo 2>&1 >/dev/null | sed 's/^/unsupported /'
  return 0
"""

    name: str
    type: str | None = None
    up: bool | None = None
    mtu: int | None = None
    local: str | None = None
    remote: str | None = None
    mode: str | None = None
    encap: str | None = None
    encap_port: int | None = None

    def __post_init__(self) -> None:
        interface(self.name, self.kind)
        if self.mtu is not None:
            within(self.mtu, 68, 2**31 - 1, "mtu", self.kind)
        for end in (self.local, self.remote):
            if end not in _ANY:
                address(str(end), self.kind)
        if self.type is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.type):
            raise InputError(f"`{self.type}` is no link type", key=self.kind)
        if self.mode not in (None, "ip6ip6", "ipip6", "any"):
            raise InputError(f"`{self.mode}` is none of ip6ip6, ipip6, any", key=self.kind)
        if self.encap not in (None, "none", "fou", "gue"):
            raise InputError(f"`{self.encap}` is none of fou, gue, none", key=self.kind)
        if self.encap_port is not None:
            port(self.encap_port, self.kind, least=0)
        made = FALLBACK.get(self.name)
        if made is not None and self.type not in (None, made):
            raise InputError(f"{self.name} is always of type {made}", key=self.kind)

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        if not output.strip():
            return None
        try:
            found = msgspec.json.decode(output, type=list[_Shown])
        except msgspec.DecodeError:
            said = output.removeprefix("unsupported ").strip()[:200]
            raise UnsupportedError(f"`ip -j` of iproute2 is needed; it said: {said}") from None
        shown = next((link for link in found if link.ifname == key), None)
        if shown is None:
            return None
        info = shown.linkinfo.info_data or {}
        tunnel = shown.linkinfo.info_kind in _TUNNELS
        tunnelled = info.get("encap")
        encap: dict[str, Any] = tunnelled if isinstance(tunnelled, dict) else {}
        return cls(
            name=key,
            type=shown.linkinfo.info_kind,
            up="UP" in shown.flags,
            mtu=shown.mtu,
            local=_end(info.get("local")) if tunnel else None,
            remote=_end(info.get("remote")) if tunnel else None,
            mode=_MODES.get(str(info.get("proto"))) if tunnel else None,
            encap=str(encap.get("type", "none")) if tunnel else None,
            encap_port=encap.get("dport") if tunnel else None,
        )

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or want.type is None or have.type == want.type:
            return ""
        return f"there is a device of that name, of type {have.type or 'none'}"

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        only_up = want is not None and want.up and {c.field for c in changes(want, have)} == {"up"}
        if key not in way.devices or only_up:
            return ""
        if key != way.dev:
            return f"{key} is below {way.dev}, the device that leads to this controller"
        return f"{key} is the device that leads to this controller"

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            if key in FALLBACK:  # it goes with its module
                return (command("ip", "link", "set", "dev", key, "down"),)
            return (command("ip", "link", "del", "dev", key),)
        steps = []
        made = have
        if key not in FALLBACK and want.type is not None:
            if have is not None and have.type not in (None, want.type):
                steps.append(command("ip", "link", "del", "dev", key))
                made = None
            details = want._details(made)
            if made is None:
                steps.append(command("ip", "link", "add", "name", key, "type", want.type, *details))
            elif details:
                steps.append(command("ip", "link", "set", "dev", key, "type", want.type, *details))
        if want.mtu is not None and (made is None or made.mtu != want.mtu):
            steps.append(command("ip", "link", "set", "dev", key, "mtu", str(want.mtu)))
        if want.up is not None and (made is None or made.up != want.up):
            steps.append(command("ip", "link", "set", "dev", key, "up" if want.up else "down"))
        return tuple(steps)

    def _details(self, have: Self | None) -> tuple[str, ...]:
        """What follows `type KIND`: every detail, once one of them differs."""
        if self.type not in _TUNNELS:
            return ()
        said = (self.local, self.remote, self.mode, self.encap, self.encap_port)
        if have is not None and all(
            want is None or want == was
            for want, was in zip(
                said,
                (have.local, have.remote, have.mode, have.encap, have.encap_port),
                strict=True,
            )
        ):
            return ()
        local = self.local or (have.local if have else None) or "any"
        remote = self.remote or (have.remote if have else None) or "any"
        words = ["local", local, "remote", remote]
        if self.type == "ip6tnl":
            words = ["mode", self.mode or (have.mode if have else None) or "any", *words]
        if self.encap in ("fou", "gue"):
            words += ["encap", self.encap, "encap-sport", "auto"]
            words += ["encap-dport", str(self.encap_port or 0)]
        elif self.encap == "none" and have is not None and have.encap not in (None, "none"):
            words += ["noencap"]
        return tuple(words)


class _Info(msgspec.Struct):
    info_kind: str | None = None
    info_data: dict[str, Any] | None = None


class _Shown(msgspec.Struct):
    """What `ip -j -d link` (iproute2) says of a device, as far as it matters here."""

    ifname: str = ""
    flags: list[str] = []
    mtu: int = 0
    linkinfo: _Info = msgspec.field(default_factory=_Info)


_MODES = {"ip6ip6": "ip6ip6", "ipip6": "ipip6", "any": "any"}


def _end(value: object) -> str:
    return "any" if value in _ANY else str(value)
