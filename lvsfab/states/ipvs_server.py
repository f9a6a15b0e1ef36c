"""A real server of a virtual service. Every field is stated on every edit: ipvsadm -e without -w
resets the weight to 1, without -m, -g or -i the forwarding method to DR.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal, Self

from msgspec.structs import replace

from lvsfab.errors import InputError
from lvsfab.model import ForwardingMethod
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, State, Way, show
from lvsfab.states.ipvs import (
    METHODS,
    check_service_key,
    cuts,
    endpoint,
    parse_rules,
    service_words,
    split_endpoint,
    thresholds,
)

_SETTLE = "0.5"  # s: above the 0.2 s after which TCP sends again what was not acknowledged
_OPTION = {method: option for option, method in METHODS.items()}
_CHECKSUM = {"--tun-nocsum": "no", "--tun-csum": "yes", "--tun-remcsum": "remote"}
_CHECKSUM_OPTION = {word: option for option, word in _CHECKSUM.items()}


class RealServerState(State, frozen=True, kw_only=True):
    """`service` is the service's key; `port` None means the service's. `weight` 0 drains. `upper`,
    `lower`: connections at which it gets no more, and gets some again (0: no such limit).
    `tun_type`, `tun_port` (gue) and `tun_checksum` (gue, gre) say how TUN wraps packets.
    """

    kind: ClassVar[str] = "real_server"
    reader: ClassVar[str] = r"""
  ipvs_rules "${1%%->*}" | grep -F -e " -r ${1##*->} " || return 0
  case $1 in
  fwm6:*) ipvsadm -L -n --thresholds -f "$ipvs_a" -6 ;;
  *) ipvs_option "$1"; ipvsadm -L -n --thresholds "$ipvs_o" "${ipvs_a%%->*}" ;;
  esac 2>/dev/null | grep -F -e "-> ${1##*->} "
  return 0
"""

    service: str
    address: str
    port: int | None = None
    method: ForwardingMethod
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tun_type: Literal["ipip", "gue", "gre"] = "ipip"
    tun_port: int = 0
    tun_checksum: Literal["no", "yes", "remote"] = "no"

    def __post_init__(self) -> None:
        protocol, vip, port = check_service_key(self.service, self.kind)
        words.address(self.address, self.kind)
        words.within(self.weight, 0, 65535, "weight", self.kind)
        words.within(self.upper, 0, 2**32 - 1, "upper", self.kind)
        words.within(self.lower, 0, 2**32 - 1, "lower", self.kind)
        if self.port is not None:
            words.port(self.port, self.kind, least=0)
        nat = self.method == ForwardingMethod.NAT
        if vip and self.port not in (None, port) and not nat:
            raise InputError(
                f"port {self.port} differs from the service's {port}; {self.method.upper()} "
                "cannot translate ports, only NAT can",
                key=self.kind,
            )
        if self.lower > self.upper and self.upper:
            raise InputError("`lower` is above `upper`", key=self.kind)
        tun = self.method == ForwardingMethod.TUN
        if not tun and (self.tun_type, self.tun_port, self.tun_checksum) != ("ipip", 0, "no"):
            raise InputError("only TUN has a tunnel's details", key=self.kind)
        if (self.tun_type == "gue") != bool(self.tun_port):
            raise InputError("gue needs `tun_port`, nothing else has it", key=self.kind)
        words.port(self.tun_port, self.kind, least=0)
        if nat and vip and (":" in vip) != (":" in self.address):
            raise InputError(f"NAT cannot change {protocol}'s IP version", key=self.kind)

    @property
    def server(self) -> str:
        """Address and port, as ipvsadm writes them."""
        _, vip, port = check_service_key(self.service, self.kind)
        own = self.port if self.port is not None else (port if vip else 0)
        return endpoint(self.address, own)

    @property
    def key(self) -> str:
        return f"{self.service}->{self.server}"

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        service, _, server = key.partition("->")
        limits = thresholds(output).get(server, (0, 0))
        for rule in parse_rules(output):
            if rule.verb != "-a" or (rule.service, rule.server) != (service, server):
                continue
            said = rule.options
            address, port = split_endpoint(server)
            method = next((METHODS[o] for o in said if o in METHODS), ForwardingMethod.DR)
            tun = method is ForwardingMethod.TUN
            kind = said.get("--tun-type", "ipip") if tun else "ipip"
            checksum = next((_CHECKSUM[o] for o in said if o in _CHECKSUM), "no")
            return cls(
                service=service,
                address=address,
                port=port,
                method=method,
                weight=int(said.get("-w") or 1),
                upper=limits[0],
                lower=limits[1],
                tun_type=kind,  # type: ignore[arg-type]
                tun_port=int(said.get("--tun-port") or 0) if kind == "gue" else 0,
                tun_checksum=checksum if tun else "no",  # type: ignore[arg-type]
            )
        return None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        found = []
        for field in ("method", "weight", "upper", "lower", "tun_type", "tun_port", "tun_checksum"):
            want = getattr(self, field)
            was = getattr(have, field) if have is not None else None
            silent = have is None and want in (0, "no") and field != "weight"
            if field == "tun_type" and self.method != ForwardingMethod.TUN and have is None:
                silent = True
            if want != was and not silent:
                found.append(Change(field, show(was), show(want)))
        return tuple(found)

    def drained(self, addresses: Collection[str]) -> Self | None:
        return replace(self, weight=0) if self.address in addresses and self.weight else None

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have, want
        return cuts(key.partition("->")[0], way)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        service, _, server = key.partition("->")
        where = (*service_words(service), "-r", server)
        if want is None:
            return (command("ipvsadm", "-d", *where),)
        moved = have is not None and have.method != want.method
        verb = "-e" if have is not None and not moved else "-a"
        argv = ["ipvsadm", verb, *where, _OPTION[want.method]]
        argv += ["-w", str(want.weight), "-x", str(want.upper), "-y", str(want.lower)]
        if want.method == ForwardingMethod.TUN:
            argv += ["--tun-type", want.tun_type]
            argv += ["--tun-port", str(want.tun_port)] if want.tun_type == "gue" else []
            argv += [_CHECKSUM_OPTION[want.tun_checksum]] if want.tun_type != "ipip" else []
        if not moved:
            return (command(*argv),)
        # A connection keeps the method it began with, and all share the kernel's one cached route
        # to the server: found for TUN it has no next hop, and DR then asks ARP for the VIP. So
        # those that are busy end first, while the server is away (expire_nodest_conn).
        settle = command("nap", _SETTLE, shown=f"sleep {_SETTLE}")
        return (command("ipvsadm", "-d", *where), settle, command(*argv))
