"""Requests from many client addresses: what a hash of the source or persistence does shows only so.

The client takes free pieces of its own network for the time of the test, each by one route
(`ip route add local NET dev lo`: it answers ARP for those addresses and may send from them), so no
address is added to any device, and one deletion takes a whole piece back.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from itertools import islice

from lvsfab.model import Inventory, IPAddress, IPNetwork, Scheduler, VirtualService
from lvsfab.verify import oracles

MOST = 30  # addresses; each sends twice in the default 60 requests
# A spread over servers shows only with more: of 30 clients 3:2:1 may look like 1:1:1.
MANY = 200
_TWICE = 30  # of them, which show that a client keeps its server
_PIECE = 28  # prefix length of the pieces of the client's network: 14 addresses each


def wanted(service: VirtualService) -> bool:
    """Whether many client addresses show more than one does."""
    return bool(oracles.one_server(service))


def spread_out(service: VirtualService) -> bool:
    """Whether many client addresses meet many servers."""
    hashed = service.scheduler in (Scheduler.SH, Scheduler.MH) and not oracles.by_port(service)
    return hashed and service.persistence is None


def requests_for(service: VirtualService, pool: Sequence[IPNetwork], asked: int) -> int:
    """How many requests to send for `asked`: where clients spread, some from each address."""
    if not spread_out(service) or not pool:
        return asked
    size = sum(max(1, network.num_addresses - 2) for network in pool)
    return max(asked, min(MANY, size) + _TWICE)


def free_pieces(
    inventory: Inventory, client: str, service: VirtualService
) -> tuple[IPNetwork, ...]:
    """The last pieces of the lab client's network that no host, gateway or VIP has, as many as
    the service's law needs. None outside a lab (who else is there is not known) and for IPv6 (the
    kernel would not answer for it).
    """
    version = service.vip.version
    host = inventory.hosts.get(client)
    own = host.address(version) if host else None
    if inventory.lab is None or host is None or own is None or version == 6:
        return ()
    face = host.interface_for(own)
    network = next(a.network for a in face.addresses if a.ip == own) if face else None
    if network is None or network.prefixlen > _PIECE - 2:
        return ()
    taken: set[IPAddress] = {g for h in inventory.hosts.values() for g in h.gateways}
    for other in inventory.hosts.values():
        taken |= {address.ip for face in other.interfaces for address in face.addresses}
    for section in inventory.parameters.values():
        taken |= {vip for vip in (_address(v) for v in section.values()) if vip is not None}
    pieces: list[IPNetwork] = list(islice(network.subnets(new_prefix=_PIECE), 4096))
    # not the network's own first and last address
    free = (p for p in reversed(pieces[1:-1]) if not any(address in p for address in taken))
    most = MANY if spread_out(service) else MOST
    return tuple(islice(free, math.ceil(most / (2 ** (32 - _PIECE) - 2))))


def _address(value: object) -> IPAddress | None:
    try:
        return ipaddress.ip_address(str(value))
    except ValueError:
        return None


def addresses(
    service: VirtualService, pool: Sequence[IPNetwork], requests: int
) -> tuple[IPAddress, ...]:
    """The addresses to send from: each at least twice, so that it shows whether it is kept; where
    clients spread, some of them.
    """
    most = min(MOST, requests // 2)
    if spread_out(service):
        most = min(MANY, max(most, requests - _TWICE))
    hosts = (address for network in pool for address in network.hosts())
    return tuple(islice(hosts, max(1, most))) if pool else ()


def sources_on(pool: Sequence[IPNetwork], life: int) -> str:
    """The client has these addresses; gone after the test, or after `life` seconds by itself."""
    route = f"ip -{pool[0].version} route"
    pieces = " ".join(map(str, pool))
    return f"""
lv_sources_off() {{ # those that were taken
  for lv_piece in $lv_taken; do {route} del local "$lv_piece" dev lo >/dev/null 2>&1; done
}}
lv_sources_on() {{
  for lv_piece in {pieces}; do
    {route} add local "$lv_piece" dev lo || {{ lv_sources_off; return 1; }}
    lv_taken="$lv_taken $lv_piece"
  done
}}
lv_taken=
rec sources lv_sources_on && {{ lv_after {life} lv_sources_off; lv_sources=$lv_timer; }}
"""


SOURCES_OFF = """
[ -n "$lv_sources" ] && { lv_sources_off; kill "$lv_sources" 2>/dev/null; wait "$lv_sources"; }
lv_sources=
"""
