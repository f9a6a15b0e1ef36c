"""From inventory and parameters to the cluster a recipe describes. Pure.

Everything that can be wrong with a cluster is refused here, before any host is touched.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lvsfab.cluster_keepalived import NUMBERS, OF_KEEPALIVED, keepalived_of
from lvsfab.errors import InputError
from lvsfab.model import (
    Cluster,
    ForwardingMethod,
    Host,
    Inventory,
    IPAddress,
    Network,
    Protocol,
    RealServer,
    Scheduler,
    VirtualService,
)

_TUNNEL_DEVICES = {  # the fallback device that each tunnel module brings, by IP version
    ("ipip", 4): "tunl0",
    ("ipip", 6): "ip6tnl0",
    ("gre", 4): "gre0",
    ("gre", 6): "ip6gre0",
    ("gue", 4): "tunl0",
    ("gue", 6): "ip6tnl0",
}
# what recipes/_service.yml, _keepalived.yml and the shipped recipes say of each parameter that a
# cluster is made of; a tuple has a choice's values
TYPES: Mapping[str, str | tuple[str, ...]] = {
    **dict.fromkeys(("vip", "public", "gateway"), "address"),
    **dict.fromkeys(("port", "real_port"), "port"),
    **dict.fromkeys(("ports", "scheduler_flags"), "words"),
    **dict.fromkeys(("netmask", "sorry", "vip_on", "vrrp_password"), "text"),
    **dict.fromkeys(("ops", "full_nat", "preempt", "inhibit", "connection_sync"), "flag"),
    **dict.fromkeys(("persistence", "upper", "lower", *NUMBERS), "integer"),
    "weights": "weights",
    "protocol": tuple(Protocol),
    "scheduler": tuple(Scheduler),
    "tunnel": ("ipip", "gre", "gue"),
    "balancer": ("ipvsadm", "keepalived"),
}
_VALUES = ("vip", "port", "protocol", "scheduler")  # none of them may be left out
_FLAGS = {  # ipvsadm(8), -b; what the other schedulers are told they pass over
    Scheduler.SH: ("sh-fallback", "sh-port"),
    Scheduler.MH: ("mh-fallback", "mh-port"),
}


def needed(names: Collection[str]) -> tuple[str, ...]:
    """The parameters that a recipe with a cluster must have, if it has those of these names."""
    usual = (*_VALUES, "scheduler_flags", "weights", "persistence", "netmask", "real_port")
    return (*usual, "vip_on", *OF_KEEPALIVED) if "balancer" in names else usual


def types(names: Collection[str]) -> Mapping[str, str | tuple[str, ...]]:
    """What its parameters must be where it has them; keepalived's only where that may be told."""
    if "balancer" in names:
        return TYPES
    return {name: kind for name, kind in TYPES.items() if name not in OF_KEEPALIVED}


def taking_part(inventory: Inventory, recipe: str, on: str) -> tuple[Host, ...]:
    """The hosts that have role or group `on`, or that name, or `all`, and take part in `recipe`."""
    return tuple(
        host
        for host in inventory.hosts.values()
        if on in ("all", host.name, *host.roles, *host.groups) and _plays(host, recipe)
    )


def with_role(inventory: Inventory, recipe: str, role: str) -> tuple[Host, ...]:
    return tuple(host for host in inventory.with_role(role) if _plays(host, recipe))


def _plays(host: Host, recipe: str) -> bool:
    return not host.only or recipe in host.only


def make_cluster(
    recipe: str, method: ForwardingMethod, inventory: Inventory, parameters: Mapping[str, Any]
) -> Cluster:
    """The cluster that `recipe` with these parameters describes. InputError says what is wrong."""

    def bad(message: str, key: str, tip: str = "") -> InputError:
        return InputError(message, path=inventory.path, key=key, tip=tip)

    kept = NUMBERS if parameters.get("balancer") == "keepalived" else ()
    for name in (*_VALUES, *kept):
        if parameters[name] is None:
            raise bad(f"recipe {recipe} needs a value", f"parameters.{recipe}.{name}")
    directors = with_role(inventory, recipe, "director")
    servers = with_role(inventory, recipe, "real_server")
    if not directors:
        raise bad(f"recipe {recipe} needs a host with role `director`", "hosts")
    if not servers:
        raise bad(f"recipe {recipe} needs a host with role `real_server`", "hosts")
    director = directors[0]
    vip: IPAddress = parameters["vip"]
    network = _vip_network(inventory, director, vip)
    for backup in directors[1:]:
        _vip_network(inventory, backup, vip)
    nat = method is ForwardingMethod.NAT
    for host in inventory.hosts.values():
        # NAT's director may serve on an address of its own: no real server has to hold it too
        if host.holds(vip) and not (nat and host is director):
            raise bad(f"{vip} is {host.name}'s own address; a VIP is no host's own", "vip")
    port: int = parameters["port"]
    if port == 0 and not parameters["persistence"]:
        raise bad("port 0 (all ports) needs persistence", "port")
    ports = _more_ports(parameters, inventory)
    if parameters.get("ops") and (parameters["protocol"] != "udp" or nat):
        raise bad("one-packet scheduling is for UDP, by DR or TUN", "ops")
    _check_thresholds(parameters, inventory)
    scheduler = Scheduler(parameters["scheduler"])
    real_servers = _real_servers(method, inventory, director, servers, vip, parameters)
    keepalived = keepalived_of(method, inventory, directors, real_servers, parameters)
    tunnel = parameters.get("tunnel") or "ipip"
    client = next(iter(with_role(inventory, recipe, "client")), None)
    busy = {*(host.name for host in directors), *(server.name for server in servers)}
    observers = tuple(
        host.name
        for host in inventory.hosts.values()
        if host.name not in busy and host.interface_on(network.name) is not None
    )
    return Cluster(
        recipe=recipe,
        method=method,
        service=VirtualService(
            vip=vip,
            port=port,
            protocol=Protocol(parameters["protocol"]),
            scheduler=scheduler,
            flags=_flags(scheduler, parameters, inventory),
            persistence=parameters["persistence"],
            netmask=parameters["netmask"],
            ports=ports,
            ops=bool(parameters.get("ops")),
        ),
        real_servers=real_servers,
        director=director.name,
        client=client.name if client else None,
        observers=observers,
        vip_network=network.name,
        tunnel=tunnel,
        tunnel_device=_TUNNEL_DEVICES[tunnel, vip.version],
        full_nat=bool(parameters.get("full_nat")),
        backups=tuple(host.name for host in directors[1:]),
        keepalived=keepalived,
        public=_public(inventory, recipe, parameters),
    )


def _more_ports(parameters: Mapping[str, Any], inventory: Inventory) -> tuple[int, ...]:
    """The ports beyond the first that belong to the service."""
    found = []
    for word in parameters.get("ports") or ():
        if not re.fullmatch("[0-9]{1,5}", word) or not 1 <= int(word) <= 65535:
            raise InputError(f"`{word}` is no port", path=inventory.path, key="ports")
        found.append(int(word))
    first: int = parameters["port"]
    if found and (not first or len({first, *found}) <= len(found)):
        raise InputError("`port` and `ports` name each port once", path=inventory.path, key="ports")
    if found and parameters["protocol"] != "tcp":
        raise InputError("several ports are for TCP", path=inventory.path, key="ports")
    return tuple(found)


def _flags(
    scheduler: Scheduler, parameters: Mapping[str, Any], inventory: Inventory
) -> tuple[str, ...]:
    """The scheduler's flags: each must be one of its own, others have none."""
    known = _FLAGS.get(scheduler, ())
    flags = tuple(parameters["scheduler_flags"] or ())
    for flag in flags:
        if flag not in known:
            raise InputError(
                f"`{flag}` is no flag of scheduler {scheduler}; it has: "
                f"{', '.join(known) or 'none'}",
                path=inventory.path,
                key="scheduler_flags",
            )
    return flags


def _check_thresholds(parameters: Mapping[str, Any], inventory: Inventory) -> None:
    upper, lower = parameters.get("upper") or 0, parameters.get("lower") or 0
    if lower and not upper:
        raise InputError(
            f"`lower` {lower} without `upper`: no server is ever full",
            path=inventory.path,
            key="lower",
        )
    if lower > upper:
        raise InputError(
            f"`lower` is above `upper` ({lower} and {upper})", path=inventory.path, key="lower"
        )


def _public(inventory: Inventory, recipe: str, parameters: Mapping[str, Any]) -> IPAddress | None:
    public: IPAddress | None = parameters.get("public")
    if public is None:
        return None
    routers = with_role(inventory, recipe, "router")
    if len(routers) != 1 or not routers[0].holds(public):
        names = ", ".join(host.name for host in routers) or "none"
        raise InputError(
            f"{public} must be an address of the one router (here: {names})",
            path=inventory.path,
            key="public",
        )
    if public.version != 4 or parameters["vip"].version != 4:
        raise InputError("only IPv4 is forwarded", path=inventory.path, key="public")
    if not parameters["port"]:
        raise InputError(
            f"port 0 would forward every port of {public}, the router's own SSH too",
            path=inventory.path,
            key="public",
            tip="name the ports: `port`, and further ones in `ports`",
        )
    return public


def _vip_network(inventory: Inventory, director: Host, vip: IPAddress) -> Network:
    network = inventory.network_of(vip)
    if network is None:
        known = ", ".join(
            f"{n.name} {'/'.join(map(str, n.subnets))}" for n in inventory.networks.values()
        )
        raise InputError(
            f"VIP {vip} is outside every network ({known})", path=inventory.path, key="vip"
        )
    if director.interface_on(network.name) is None:
        raise InputError(
            f"VIP {vip} is in network {network.name}, where director {director.name} has no "
            "interface",
            path=inventory.path,
            key="vip",
        )
    return network


def _real_servers(
    method: ForwardingMethod,
    inventory: Inventory,
    director: Host,
    servers: tuple[Host, ...],
    vip: IPAddress,
    parameters: Mapping[str, Any],
) -> tuple[RealServer, ...]:
    port: int = parameters["port"]
    weights: Mapping[str, int] = parameters["weights"] or {}
    names = [host.name for host in servers]
    for name in weights:
        if name not in names:
            raise InputError(f"`{name}` is no real server here: {', '.join(names)}", key="weights")
    own = {face.network for face in director.interfaces}
    found: list[RealServer] = []
    for host in servers:
        key = f"hosts.{host.name}"
        address = host.address(vip.version)
        if address is None:
            raise InputError(
                f"{host.name} has no IPv{vip.version} address, the VIP {vip} is one",
                path=inventory.path,
                key=key,
            )
        if method is not ForwardingMethod.TUN and not own & {f.network for f in host.interfaces}:
            raise InputError(
                f"{host.name} shares no network with director {director.name}; {method.upper()} "
                "needs that",
                path=inventory.path,
                key=key,
                tip=f"give {host.name} `only: [tun]`, or put it into the director's network",
            )
        real_port = host.port or parameters["real_port"] or port
        if real_port != port and method is not ForwardingMethod.NAT:
            raise InputError(
                f"{host.name}: real-server port {real_port} differs from the service's {port}; "
                f"{method.upper()} cannot translate ports, only NAT can",
                path=inventory.path,
                key=f"{key}.port" if host.port else "real_port",
            )
        if parameters.get("ports"):  # what is marked keeps its port
            if real_port != port:
                raise InputError(
                    f"{host.name}: several ports cannot be translated to {real_port}",
                    path=inventory.path,
                    key="ports",
                )
            real_port = 0
        weight = weights.get(host.name, host.weight)
        upper, lower = parameters.get("upper") or 0, parameters.get("lower") or 0
        found.append(RealServer(host.name, address, real_port, weight, upper, lower))
    places = [(server.address, server.port) for server in found]
    for server in found:
        if places.count((server.address, server.port)) > 1:
            raise InputError(
                f"real server {server.address}:{server.port} is there twice",
                path=inventory.path,
                key=f"hosts.{server.name}",
            )
    return _with_sorry(tuple(found), parameters.get("sorry"), inventory)


def _with_sorry(
    servers: tuple[RealServer, ...], sorry: str | None, inventory: Inventory
) -> tuple[RealServer, ...]:
    """The sorry server has weight 1 when all others have 0, else 0: as they are wanted. When they
    die, keepalived alone sees it and brings it in.
    """
    if not sorry:
        return servers
    if sorry not in [server.name for server in servers]:
        raise InputError(
            f"sorry server `{sorry}` is none of the real servers", path=inventory.path, key="sorry"
        )
    needed = not any(server.weight for server in servers if server.name != sorry)
    return tuple(  # without thresholds: nobody could take what is too much for it
        replace(s, weight=int(needed), upper=0, lower=0) if s.name == sorry else s for s in servers
    )


def names_for(
    inventory: Inventory, host: Host, cluster: Cluster | None, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The names a recipe may use for one host, beside its parameters:

    host.name, and where the recipe has a cluster: host.address, host.device, host.gateway,
    host.port; director.address (as this host reaches it), director.gateway (the same, or the
    address that moves between directors), director.device (the leg towards the real servers);
    vip_cidr (VIP/32 or /128), vip_device (where the director holds it), vip_leg
    (the director's interface in the VIP's network), tunnel_device. A name without a value on this
    host is None.
    """
    names: dict[str, Any] = {"host.name": host.name}
    if cluster is None:
        return names
    vip = cluster.service.vip
    version = vip.version
    address = host.address(version)
    device = host.interface_for(address) if address is not None else None
    first = inventory.hosts[cluster.director]
    director = host if host.name in cluster.backups else first
    shared = next(
        (f for f in director.interfaces if device is not None and f.network == device.network), None
    )
    inside = director.interface_for(cluster.real_servers[0].address)
    on_shared = [a.ip for a in (shared.addresses if shared else ()) if a.version == version]
    server = next((s for s in cluster.real_servers if s.name == host.name), None)
    vip_face = director.interface_on(cluster.vip_network or "")
    names |= {
        "host.address": str(address) if address else None,
        "host.device": device.name if device else None,
        "host.gateway": next((str(g) for g in host.gateways if g.version == version), None),
        "host.port": (server.port if server else 0) or cluster.service.port,
        "director.address": str(on_shared[0]) if on_shared else None,
        "director.gateway": _gateway(cluster, on_shared),
        "director.device": inside.name if inside else None,
        "vip_cidr": str(ipaddress.ip_network(vip)),
        "vip_device": parameters.get("vip_on") or (vip_face.name if vip_face else None),
        "vip_leg": vip_face.name if vip_face else None,
        "tunnel_device": cluster.tunnel_device,
    }
    return names


def _gateway(cluster: Cluster, addresses: list[IPAddress]) -> str | None:
    if cluster.keepalived is not None and cluster.keepalived.gateway is not None:
        return str(cluster.keepalived.gateway)
    return str(addresses[0]) if addresses else None
