"""Requests from many client addresses: what a hash of the source or persistence does shows only so.

The client takes a free piece of its own network for the time of the test by one route
(`ip route add local NET dev lo`: it answers ARP for those addresses and may send from them), so no
address is added to any device, and one deletion takes all of them back.
"""

from __future__ import annotations

import ipaddress
from itertools import islice

from lvsfab.model import Inventory, IPAddress, IPNetwork, Scheduler, VirtualService
from lvsfab.verify import oracles

MOST = 30  # addresses; each sends twice in the default 60 requests
_PIECE = 27  # prefix length of the piece of the client's network: 32 addresses


def wanted(service: VirtualService) -> bool:
    """Whether many client addresses show more than one does."""
    return bool(oracles.one_server(service))


def spread_out(service: VirtualService) -> bool:
    """Whether many client addresses meet many servers."""
    hashed = service.scheduler in (Scheduler.SH, Scheduler.MH) and not oracles.by_port(service)
    return hashed and service.persistence is None


def free_piece(inventory: Inventory, client: str, version: int) -> IPNetwork | None:
    """The last piece of the lab client's network that no host, gateway or VIP has. None outside a
    lab (who else is there is not known) and for IPv6 (the kernel would not answer for it).
    """
    host = inventory.hosts.get(client)
    own = host.address(version) if host else None
    if inventory.lab is None or host is None or own is None or version == 6:
        return None
    face = host.interface_for(own)
    network = next(a.network for a in face.addresses if a.ip == own) if face else None
    if network is None or network.prefixlen > _PIECE - 2:
        return None
    taken: set[IPAddress] = {g for h in inventory.hosts.values() for g in h.gateways}
    for other in inventory.hosts.values():
        taken |= {address.ip for face in other.interfaces for address in face.addresses}
    for section in inventory.parameters.values():
        taken |= {vip for vip in (_address(v) for v in section.values()) if vip is not None}
    pieces: list[IPNetwork] = list(islice(network.subnets(new_prefix=_PIECE), 4096))
    for piece in reversed(pieces[1:-1]):  # not the network's own first and last address
        if not any(address in piece for address in taken):
            return piece
    return None


def _address(value: object) -> IPAddress | None:
    try:
        return ipaddress.ip_address(str(value))
    except ValueError:
        return None


def addresses(network: IPNetwork, requests: int) -> tuple[IPAddress, ...]:
    """The addresses to send from: each at least twice, so that it shows whether it is kept."""
    most = max(1, min(MOST, requests // 2))
    return tuple(islice(network.hosts(), most))


def sources_on(network: IPNetwork, life: int) -> str:
    """The client has these addresses; gone after the test, or after `life` seconds by itself."""
    route = f"-{network.version} route {{}} local {network} dev lo"
    return f"""
lv_sources_off() {{ ip {route.format("del")} >/dev/null 2>&1; }}
rec sources ip {route.format("add")} && {{ lv_after {life} lv_sources_off; lv_sources=$lv_timer; }}
"""


SOURCES_OFF = """
[ -n "$lv_sources" ] && { lv_sources_off; kill "$lv_sources" 2>/dev/null; wait "$lv_sources"; }
lv_sources=
"""
