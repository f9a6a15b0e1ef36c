"""Full NAT: the director puts its own address in place of the client's too, so that a server's
reply comes back through it whatever the server's routes, also to a client in the servers' network.

IPVS hands its packets to connection tracking (net.ipv4.vs.conntrack) and changes what a reply must
look like; what the client asked for stays readable there (`ct original`), so nothing but requests
to the VIP is touched (net/netfilter/ipvs/ip_vs_nfct.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.module import Module
from lvsfab.states.nft import NftTable
from lvsfab.states.sysctl import Sysctl

_MODULES = ("nf_conntrack", "nf_nat", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq")


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    wanted: bool


class FullNat(Composite):
    """Recipe word `full_nat`: wanted. Stands after ip_vs is loaded."""

    kind: ClassVar[str] = "full_nat"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        found = arguments(args, _Args, self.kind)
        if context.cluster is None:
            raise InputError("full_nat stands only in a recipe with a cluster", key=self.kind)
        if not found.wanted:
            return ()
        service = context.cluster.service
        family = "ip6" if service.vip.version == 6 else "ip"
        ports = ", ".join(map(str, service.every_port))
        port = f" ct original proto-dst {{ {ports} }}" if service.port else ""
        rule = f"ct original {family} daddr {service.vip} meta l4proto {service.protocol}{port}"
        content = f"""\
chain postrouting {{
	type nat hook postrouting priority 100; policy accept;
	{rule} masquerade
}}"""
        return wanted(
            Sysctl(name="net.ipv4.vs.conntrack", value="1"),
            *(Module(name=name) for name in _MODULES),
            NftTable(family=family, name="lvsfab_full_nat", content=content),  # type: ignore[arg-type]
        )
