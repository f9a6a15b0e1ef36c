"""Why one real server got connections and did not answer: facts found there, in the order in
which a packet meets them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lvsfab.model import RealServer
from lvsfab.verify.case import Case
from lvsfab.verify.marks import test_port
from lvsfab.verify.values import Snapshot

ANY = ("", "any", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
STRICT = 1  # rp_filter: Documentation/networking/ip-sysctl.rst
REVERSE_PATH = "TcpExt.IPReversePathFilter"


class Reason(NamedTuple):
    """What was found, and what to do about it."""

    fact: str
    advice: str


def reason(case: Case, server: RealServer) -> Reason:
    """The first reason; where none is found, what is left."""
    return next(reasons(case, server), _unknown(case, server))


def reasons(case: Case, server: RealServer) -> Iterator[Reason]:
    host = case.seen.after.get(server.name)
    if host is None or not host.links:
        yield Reason(f"{server.name} itself could not be read", f"look at {server.name}")
        return
    if case.tun:
        yield from _tunnel(case, server, host)
    yield from _reverse_path(case, server, host)
    if not case.nat:
        yield from _vip(case, server, host)
    yield from _listener(case, server, host)
    yield from _way_back(case, server, host)


def _tunnel(case: Case, server: RealServer, host: Snapshot) -> Iterator[Reason]:
    device, kind = case.cluster.tunnel_device, case.cluster.tunnel
    link = host.link(device)
    if link is None:
        yield Reason(
            f"{server.name} has no {device}: nothing there takes the packets out of the tunnel",
            f"on {server.name}: modprobe {kind}",
        )
        return
    if not link.up:
        yield Reason(f"{device} is down on {server.name}", f"ip link set {device} up")
    ends = {str(own.ip) for _, own in case.director.addresses}
    if link.remote not in ANY and link.remote not in ends:
        yield Reason(
            f"{device} on {server.name} takes packets from {link.remote} alone, which is not the "
            "director",
            f"ip tunnel change {device} remote any",
        )


def _reverse_path(case: Case, server: RealServer, host: Snapshot) -> Iterator[Reason]:
    dropped = case.rise(server.name, REVERSE_PATH)
    if dropped <= 0:
        return
    if case.tun:
        devices = [case.cluster.tunnel_device]
    else:
        devices = [link.name for link in host.links if link.name != "lo" and link.up]
    strict = [device for device in devices if host.in_effect(device, "rp_filter") == STRICT]
    if not strict:
        return
    own = {device: host.settings.get(f"{device}/rp_filter") for device in strict}
    common = host.settings.get("all/rp_filter")
    shown = ", ".join(f"conf.{device} {value}" for device, value in own.items())
    places = ["all"] if common == STRICT else []
    places += [device for device, value in own.items() if value == STRICT]
    advice = " ".join(f"net.ipv4.conf.{place}.rp_filter=2" for place in places)
    yield Reason(
        f"{server.name} dropped {dropped} packets by its reverse-path check "
        f"(TcpExtIPReversePathFilter +{dropped}): rp_filter in effect on {', '.join(strict)} is 1, "
        f"strict (conf.all {common}, {shown}; the larger counts)",
        f"on {server.name}: sysctl -w {advice}",
    )


def _vip(case: Case, server: RealServer, host: Snapshot) -> Iterator[Reason]:
    route = host.routes.get("vip")
    if route is not None and route.kind != "local":
        bits = 32 if case.vip.version == 4 else 128
        device = case.cluster.tunnel_device if case.tun else "lo"
        yield Reason(
            f"{server.name} does not take {case.vip} for its own "
            f"(ip route get: {route.text or 'no route'})",
            f"on {server.name}: ip address add {case.vip}/{bits} dev {device}",
        )


def _listener(case: Case, server: RealServer, host: Snapshot) -> Iterator[Reason]:
    if host.listeners is None:
        return
    port = server.port or test_port(case.cluster)
    wanted = server.address if case.nat else case.vip
    there = [own for own, own_port in host.listeners if own_port == port]
    if not any(own == wanted or own.is_unspecified for own in there):
        where = ", ".join(map(str, there))
        yield Reason(
            f"nobody listens on {wanted} port {port} on {server.name}"
            + (f" (only on {where})" if where else ""),
            f"start the service on {server.name}",
        )


def _way_back(case: Case, server: RealServer, host: Snapshot) -> Iterator[Reason]:
    route = host.routes.get("client")
    if route is None:
        return
    if route.kind == "none":
        yield Reason(
            f"{server.name} has no route back to the client ({route.text})",
            f"give {server.name} a default route"
            + (f" via {case.cluster.director}" if case.nat else " via its router"),
        )
        return
    if not case.nat:
        return
    if route.via is None:
        yield Reason(
            f"{server.name} reaches the client straight by {route.dev}: its replies pass the "
            "director by, which alone can put the VIP back in",
            "a client in the real servers' own network needs full NAT",
        )
    elif case.director.has_address(route.via) is None:
        yield Reason(
            f"{server.name} sends its replies to the client via "
            f"{case.named_address(route.via)}, not via the director, which alone can put the VIP "
            "back in",
            f"on {server.name}: default route via the director's inside address",
        )


def _unknown(case: Case, server: RealServer) -> Reason:
    waiting = sum(
        number
        for (place, state), number in case.director.states.items()
        if state == "SYN_RECV" and place.rsplit(":", 1)[0].strip("[]") == str(server.address)
    )
    shown = f"; the director has {waiting} entries in SYN_RECV for it" if waiting else ""
    return Reason(
        f"no reason found in its devices, routes, reverse-path check and listeners{shown}",
        f"look for a firewall on {server.name} and on the way: "
        f"tcpdump -ni any host {case.vip} on {server.name}",
    )
