"""What keepalived is told of a cluster, and what it cannot do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lvsfab.errors import InputError
from lvsfab.model import ForwardingMethod, Host, Inventory, IPAddress, Keepalived, RealServer

NUMBERS = ("vrrp_id", "advert", "check_every", "check_timeout", "check_retries", "check_delay")
_AS_GIVEN = (*NUMBERS[1:], "preempt", "inhibit", "connection_sync")
OF_KEEPALIVED = (*_AS_GIVEN, "vrrp_id", "gateway", "vrrp_password")


def keepalived_of(
    method: ForwardingMethod,
    inventory: Inventory,
    directors: tuple[Host, ...],
    servers: tuple[RealServer, ...],
    parameters: Mapping[str, Any],
) -> Keepalived | None:
    """None: the director's table is made by ipvsadm. InputError says what keepalived refuses."""

    def bad(message: str, key: str, tip: str = "") -> InputError:
        return InputError(message, path=inventory.path, key=key, tip=tip)

    if parameters.get("balancer") != "keepalived":
        if len(directors) > 1:
            names = ", ".join(host.name for host in directors)
            raise bad(
                f"directors {names} would all hold the VIP: several need keepalived",
                "hosts",
                "--set balancer=keepalived, or leave one of them out with `only`",
            )
        return None
    vip: IPAddress = parameters["vip"]
    gateway: IPAddress | None = parameters["gateway"]
    password = parameters["vrrp_password"] or ""
    nat = method is ForwardingMethod.NAT
    if parameters["vip_on"]:
        # gratuitous ARP goes out by the device that has the VIP: neighbours would not hear of it
        raise bad("VRRP announces the VIP on the device in its network alone", "vip_on")
    sorry = parameters.get("sorry") or ""
    if sorry and not any(server.weight for server in servers if server.name != sorry):
        raise bad(
            "with a sorry server keepalived takes drained ones out, and ends their connections",
            "weights",
            "leave one with a weight, or do without the sorry server",
        )
    if not re.fullmatch(r"[A-Za-z0-9._+-]{0,8}", password):
        raise bad("a VRRP password has at most 8 letters, digits or ._+-", "vrrp_password")
    if password and vip.version == 6:
        raise bad("VRRP for IPv6 (version 3) knows no password", "vrrp_password")
    if nat and len(directors) > 1 and gateway is None:
        raise bad("NAT with several directors needs the servers' gateway: `gateway`", "gateway")
    wrong = _wrong_gateway(gateway, method, vip, directors) if gateway is not None else ""
    if wrong:
        raise bad(wrong, "gateway")
    return Keepalived(
        gateway=gateway,
        sorry=sorry,
        router_id=parameters["vrrp_id"],
        password=password,
        **{name: parameters[name] for name in _AS_GIVEN},
    )


def _wrong_gateway(
    gateway: IPAddress, method: ForwardingMethod, vip: IPAddress, directors: tuple[Host, ...]
) -> str:
    """Why servers cannot have it, in words; "": they can."""
    if method is not ForwardingMethod.NAT:
        return f"{method.upper()}'s real servers answer past the director"
    if gateway.version != vip.version:
        return f"{gateway} is no way back for the answers of {vip}"
    for host in directors:
        if host.interface_for(gateway) is None or host.holds(gateway):
            return f"{gateway} must be in a network of {host.name}, and not its own"
    return ""
