"""The VIP on a director: the address, and the device under it where that is a tunnel's.

A VIP on the director's tunl0 works while its arp_ignore is 0 (tutorials put it there); IPVS itself
needs no such device.

An IPv6 VIP is added as deprecated, or the kernel would prefer it as source address: IPVS would then
tunnel with the VIP as outer source, which a real server drops, for it holds the VIP itself
(net/ipv6/ip6_tunnel.c, ip6_tnl_rcv_ctl); and answers to the director's own checks would stay there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.address import Address
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments
from lvsfab.states.tunnel import MODULES, Tunnel


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    dev: str


class Vip(Composite):
    """Recipe word `vip`: dev. On an ordinary interface it is announced (gratuitous ARP)."""

    kind: ClassVar[str] = "vip"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        dev = arguments(args, _Args, self.kind).dev
        if context.cluster is None:
            raise InputError("vip stands only in a recipe with a cluster", key=self.kind)
        service = context.cluster.service
        if context.host.holds(service.vip):
            return ()  # NAT on an address of the director's own, which is there anyway
        if context.cluster.keepalived is not None:
            return ()  # VRRP says who has it
        cidr = str(ipaddress.ip_network(service.vip))
        below = Tunnel().build({"dev": dev}, context) if dev in MODULES else ()
        fields: dict[str, object] = {"address": cidr, "dev": dev, "announce": not below}
        if service.vip.version == 6:
            fields["deprecated"] = True
        return (*below, *Address.build(fields, context))
