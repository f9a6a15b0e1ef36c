"""How a real server keeps silent about a VIP that it holds: one word for the three ways.

- sysctl: answer ARP only for addresses of the interface it came in by, and name only addresses of
  the interface it goes out by (all.arp_ignore=1, all.arp_announce=2)
- arptables, nft: drop what asks for the VIP, and put the server's own address in place of the VIP
  in what it sends

IPv6 needs none of it: the kernel answers neighbour solicitations only for addresses of the
interface they come in by, and a VIP on lo or a tunnel is none of those (net/ipv6/ndisc.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from lvsfab.errors import InputError
from lvsfab.states import words
from lvsfab.states.arptables import ArptablesRule
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.module import Module
from lvsfab.states.nft import NftTable
from lvsfab.states.package import Package
from lvsfab.states.sysctl import Sysctl


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    vip: str
    by: Literal["sysctl", "arptables", "nft"] = "sysctl"
    dev: str | None = None
    address: str | None = None


class Arp(Composite):
    """Recipe word `arp`: vip, by; for arptables and nft also address (the server's own), and dev
    (only ARP on this device; else on any).
    """

    kind: ClassVar[str] = "arp"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        del context
        found = arguments({**args, "vip": str(args.get("vip", ""))}, _Args, self.kind)
        vip = words.address(found.vip, self.kind)
        if found.dev is not None:
            words.interface(found.dev, self.kind)
        if vip.version == 6:
            return ()
        if found.by == "sysctl":
            return wanted(
                Sysctl(name="net.ipv4.conf.all.arp_ignore", value="1"),
                Sysctl(name="net.ipv4.conf.all.arp_announce", value="2"),
            )
        if found.address is None:
            raise InputError(f"by: {found.by} needs the server's own `address`", key=self.kind)
        own = str(words.address(found.address, self.kind))
        if found.by == "arptables":
            return wanted(
                Package(name="arptables"),
                Module(name="arptable_filter"),
                Module(name="arpt_mangle"),
                ArptablesRule(chain="INPUT", destination=str(vip), device=found.dev, target="DROP"),
                ArptablesRule(
                    chain="OUTPUT",
                    source=str(vip),
                    device=found.dev,
                    target="mangle",
                    mangle_source=own,
                ),
            )
        return wanted(
            Package(name="nftables"),
            Module(name="nf_tables"),
            NftTable(
                family="arp",
                name="lvsfab_" + str(vip).replace(".", "_"),
                content=_table(str(vip), own, found.dev),
            ),
        )


def _table(vip: str, own: str, dev: str | None) -> str:
    to = f'iifname "{dev}" ' if dev else ""
    out = f'oifname "{dev}" ' if dev else ""
    return f"""\
chain input {{
	type filter hook input priority 0; policy accept;
	{to}arp daddr ip {vip} drop
}}
chain output {{
	type filter hook output priority 0; policy accept;
	{out}arp saddr ip {vip} arp saddr ip set {own}
}}"""
