"""A router that forwards the ports of a service at a public address to the VIP, and puts the public
address back into what the real servers answer past the director (nftables, connection tracking).
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

_MODULES = ("nf_conntrack", "nf_nat", "nf_tables", "nft_chain_nat", "nft_nat")


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    address: str | None = None


class Public(Composite):
    """Recipe word `public`: address, one of the router's own; without it, nothing is forwarded."""

    kind: ClassVar[str] = "public"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        address = arguments(args, _Args, self.kind).address
        if context.cluster is None:
            raise InputError("public stands only in a recipe with a cluster", key=self.kind)
        if address is None:
            return ()
        service = context.cluster.service
        ports = ", ".join(map(str, service.every_port))
        content = f"""\
chain prerouting {{
	type nat hook prerouting priority -100; policy accept;
	ip daddr {address} {service.protocol} dport {{ {ports} }} dnat to {service.vip}
}}"""
        return wanted(
            *(Module(name=name) for name in _MODULES),
            NftTable(family="ip", name="lvsfab_public", content=content),
        )
