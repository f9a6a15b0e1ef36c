"""The whole IPVS table of a recipe's cluster, as its director has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from lvsfab.errors import InputError
from lvsfab.model import Cluster, ForwardingMethod, Keepalived, VirtualService
from lvsfab.states.base import Context, Resource, State
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.file import File
from lvsfab.states.fou import FOU_PORT
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState
from lvsfab.states.keepalived import (
    PROTOCOL,
    PROTOCOL_FILE,
    KeepalivedConfig,
    checks_of,
    mode_of,
    render,
)
from lvsfab.states.let_in import LetIn
from lvsfab.states.module import Module
from lvsfab.states.nft import NftTable
from lvsfab.states.package import Package
from lvsfab.states.sebool import Sebool
from lvsfab.states.service import Service
from lvsfab.states.sysctl import Sysctl

_VRRP_GROUP = {4: "224.0.0.18", 6: "ff02::12"}


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    engine: str = ""


class IpvsTable(Composite):
    """Recipe word `ipvs`: modules, the virtual service, its real servers, from the cluster; where
    that is keepalived's, its package, configuration and service instead of the last two.
    """

    kind: ClassVar[str] = "ipvs"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        found = arguments(args, _Args, self.kind)
        cluster = context.cluster
        if cluster is None:
            raise InputError("ipvs stands only in a recipe with a cluster", key=self.kind)
        service, servers = table_of(cluster)
        service = replace(service, engine=found.engine)
        modules = [Module(name="ip_vs"), Module(name=f"ip_vs_{service.scheduler}")]
        if found.engine:
            modules.append(Module(name=f"ip_vs_pe_{found.engine}"))
        marks = _marks(cluster.service) if service.mark else ()
        keepalived = cluster.keepalived
        if keepalived is None:
            return wanted(*modules, service, *servers, *marks)
        content = render(cluster, keepalived, context, service, servers)
        # the package first: it brings the directory that the configuration stands in
        return wanted(
            *modules,
            *marks,
            Package(name="keepalived"),
            *_let_in(cluster, keepalived),
            File(path=PROTOCOL_FILE, content=PROTOCOL, mode="0644"),
            KeepalivedConfig(content=content, mode=mode_of(content)),
            *_pings(cluster),
            Sebool(name="keepalived_connect_any"),  # or its checks reach the ports of HTTP alone
            Service(name="keepalived", running=True, enabled=True),
        )


def table_of(cluster: Cluster) -> tuple[VirtualServiceState, tuple[RealServerState, ...]]:
    """What the director's table must have: the virtual service, and its servers in their order."""
    asked = cluster.service
    mark = asked.mark
    service = VirtualServiceState(
        protocol="fwmark" if mark else asked.protocol.value,
        address="" if mark else str(asked.vip),
        port=0 if mark else asked.port,
        mark=mark or 0,
        ipv6=bool(mark) and asked.vip.version == 6,
        scheduler=asked.scheduler.value,
        flags=asked.flags,
        persistence=asked.persistence or 0,
        netmask=asked.netmask or "",
        ops=asked.ops,
    )
    tun = cluster.method is ForwardingMethod.TUN
    servers = tuple(
        RealServerState(
            service=service.key,
            address=str(server.address),
            port=server.port,
            method=cluster.method,
            weight=server.weight,
            upper=server.upper,
            lower=server.lower,
            tun_type=cluster.tunnel if tun else "ipip",  # type: ignore[arg-type]
            tun_port=FOU_PORT if tun and cluster.tunnel == "gue" else 0,
        )
        for server in cluster.real_servers
    )
    return service, servers


def _let_in(cluster: Cluster, keepalived: Keepalived) -> tuple[State, ...]:
    """What directors say to each other: VRRP's group addresses (RFC 9568), the default one of IPVS
    (IP_VS_SYNC_GROUP and IP_VS_SYNC_PORT of include/net/ip_vs.h).
    """
    moved = (cluster.service.vip, keepalived.gateway)
    versions = sorted({address.version for address in moved if address is not None})
    found = [LetIn(allow="vrrp", to=_VRRP_GROUP[version]) for version in versions]
    if keepalived.connection_sync:
        found.append(LetIn(allow="udp/8848", to="224.0.0.81"))
    return tuple(found)


def _pings(cluster: Cluster) -> tuple[State, ...]:
    """Who may ping by a datagram socket: keepalived would let root in by itself, and not always put
    back what was there.
    """
    kinds = {kind for server in cluster.real_servers for kind, _ in checks_of(cluster, server.port)}
    if "PING_CHECK" not in kinds:
        return ()
    return (Sysctl(name="net.ipv4.ping_group_range", value="0 0"),)


def _marks(service: VirtualService) -> tuple[State, ...]:
    """What marks the packets of all its ports. Before -150, where verify marks its probes."""
    family: Literal["ip", "ip6"] = "ip6" if service.vip.version == 6 else "ip"
    ports = ", ".join(map(str, service.every_port))
    content = f"""\
chain prerouting {{
	type filter hook prerouting priority -151; policy accept;
	{family} daddr {service.vip} {service.protocol} dport {{ {ports} }} meta mark set {service.mark}
}}"""
    return (Module(name="nf_tables"), NftTable(family=family, name="lvsfab_mark", content=content))
