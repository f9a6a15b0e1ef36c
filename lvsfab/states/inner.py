"""Addresses inside the tunnel: director and real servers reach each other there, say to see that
the tunnel lives. IPVS has no use for them: it is given the addresses outside, or its packets
would go into the tunnel twice.

The tunnel's device has no far end of its own; for each peer a route says which outer address
leads to it (ip-route(8): via ... onlink).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.model import Host
from lvsfab.states.address import Address
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.route import Route
from lvsfab.states.sysctl import Sysctl
from lvsfab.states.tunnel import Tunnel


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    dev: str


class Inner(Composite):
    """Recipe word `inner`: dev. Nothing on a host whose inventory gives it no `inner` address."""

    kind: ClassVar[str] = "inner"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        dev = arguments(args, _Args, self.kind).dev
        own = context.host.inner
        if own is None:
            return ()
        routes = tuple(
            Route(to=f"{peer.inner.ip}/32", via=str(outer), dev=dev, src=str(own.ip), onlink=True)
            for peer in peers(context)
            if peer.inner is not None and (outer := peer.address(4)) is not None
        )
        loose = Sysctl(name=f"net.ipv4.conf.{dev}.rp_filter", value="2")
        return (
            *Tunnel().build({"dev": dev}, context),
            *wanted(loose, Address(address=str(own), dev=dev), *routes),
        )


def peers(context: Context) -> tuple[Host, ...]:
    """The hosts at the other end of this host's tunnel: all servers, or every director, for any of
    them may be the one that sends.
    """
    cluster = context.cluster
    if cluster is None:
        return ()
    names = list(cluster.directors)
    if context.host.name in names:
        names = [server.name for server in cluster.real_servers]
    return tuple(context.inventory.hosts[name] for name in names)
