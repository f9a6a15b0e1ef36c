"""What a host's firewall must let in for LVS-TUN: the service, the tunnel's packets, and pings
inside the tunnel. It is opened for that and stays as it is otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.fou import FOU_PORT
from lvsfab.states.inner import peers
from lvsfab.states.opening import Opening

_OUTER = {"ipip": "ip protocol 4", "gre": "ip protocol 47", "gue": f"udp dport {FOU_PORT}"}


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    dev: str
    chain: str = ""


class Firewall(Composite):
    """Recipe word `firewall`: chain (FAMILY/TABLE/CHAIN of nft; "" opens nothing), dev."""

    kind: ClassVar[str] = "firewall"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        found = arguments(args, _Args, self.kind)
        cluster = context.cluster
        if cluster is None:
            raise InputError("firewall stands only in a recipe with a cluster", key=self.kind)
        if not found.chain:
            return ()
        if cluster.service.vip.version == 6:
            raise InputError("the firewall is opened for IPv4 alone", key=self.kind)
        service = cluster.service
        ports = ", ".join(map(str, service.every_port))
        matches = [f"{service.protocol} dport {{ {ports} }}" if service.port else
                   f"ip daddr {service.vip}"]  # fmt: skip
        director = context.host.name in cluster.directors
        if not director or context.host.inner is not None:
            own = [a.ip for p in peers(context) for f in p.interfaces for a in f.addresses]
            outer = ", ".join(str(address) for address in own if address.version == 4)
            plain = "ip protocol 4" if director else _OUTER[cluster.tunnel]
            matches.append(f"ip saddr {{ {outer} }} {plain}")
        if context.host.inner is not None:
            matches.append(f'iifname "{found.dev}" icmp type echo-request')
        return wanted(*(Opening(chain=found.chain, match=match) for match in matches))
