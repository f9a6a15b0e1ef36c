"""Checks of the forwarding method: counters, tunnel, addresses seen, the replies' way. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lvsfab.verify.case import Case
from lvsfab.verify.ipvsadm import Counters
from lvsfab.verify.verdict import Check, Status

OWN_ERRORS = ("Icmp.OutDestUnreachs", "Icmp6OutPktTooBigs", "Icmp6OutDestUnreachs")


def checks(case: Case) -> Iterator[Check]:
    yield method(case)
    yield tunnel(case)
    yield addresses(case)
    yield replies(case)


def method(case: Case) -> Check:
    """NAT: replies are counted on their way back. DR, TUN: none comes by the director."""
    title = "the director's packets are those of " + case.cluster.method.upper()
    total, name = case.total, case.cluster.director
    if total is None or not total.in_pkts:
        return Check("method", title, Status.UNCHECKED, "no packet of the service was counted")
    fact = f"{total.in_pkts} packets in, {total.out_pkts} out"
    if case.nat and total.out_pkts == 0:
        blamed = tuple(host for host, count in case.given.items() if count.conns) or (name,)
        return Check(
            "method",
            title,
            Status.FAIL,
            f"{fact}: no reply comes back through {name}",
            blamed,
            "the real servers' way back must lead through the director, and it must forward",
        )
    # ICMP errors pass IPVS's output too: the director's own "fragmentation needed", and those of a
    # server that takes no tunnel packets, two a failed request at most
    own = sum(max(0, case.rise(name, counter)) for counter in OWN_ERRORS)
    if not case.nat and total.out_pkts > own + 2 * case.failed:
        return Check(
            "method",
            title,
            Status.FAIL,
            f"{fact}: replies come back through {name}",
            (name,),
            "compare the forwarding method in `ipvsadm -Ln` with the recipe's",
        )
    if not case.nat and total.out_pkts:
        fact += "; those are ICMP errors, not replies"
    return Check("method", title, Status.PASS, fact)


def tunnel(case: Case) -> Check:
    """TUN: what the director sends comes out of each server's device. Else: nothing does."""
    device = case.cluster.tunnel_device
    rises = {host: case.received(host, device) for host, count in case.given.items() if count.conns}
    sent = {host: case.given[host].in_pkts for host in rises}
    if not case.tun:
        title = "nothing goes through a tunnel"
        if not rises:
            return Check("tunnel", title, Status.UNCHECKED, "no server was given a connection")
        used = {host: rise for host, rise in rises.items() if rise}
        shown = ", ".join(f"{host} {rise}" for host, rise in used.items())
        if used:
            return Check(
                "tunnel",
                title,
                Status.FAIL,
                f"packets out of {device}: {shown}",
                (case.cluster.director,),
                "compare the forwarding method in `ipvsadm -Ln` with the recipe's",
            )
        return Check("tunnel", title, Status.PASS, f"no packet came out of a {device}")
    title = f"the requests come out of the tunnel ({device})"
    if not rises:
        return Check("tunnel", title, Status.UNCHECKED, "no server was given a connection")
    shown = ", ".join(
        f"{host} {'no ' + device if rise is None else rise} of {sent[host]} sent"
        for host, rise in rises.items()
    )
    # Segments are cut and merged on the way (GSO, GRO): packets do not compare one to one, but
    # each connection's SYN is a packet of its own.
    short = tuple(host for host, rise in rises.items() if (rise or 0) < case.given[host].conns)
    if short:
        return Check(
            "tunnel",
            title,
            Status.FAIL,
            f"packets out of {device}: {shown}",
            short,
            f"is {device} there, up, and its remote any? Do packets of the tunnel get there?",
        )
    return Check("tunnel", title, Status.PASS, f"packets out of {device}: {shown}")


def addresses(case: Case) -> Check:
    """The address each server took for its own, and the peer that it saw."""
    title = "each server sees the right addresses"
    servers = {server.name: server for server in case.cluster.real_servers}
    directors = {own.ip for _, own in case.director.addresses}
    peers = directors if case.cluster.full_nat else case.client_addresses
    good = [kind for kind in case.seen.batch.kinds if kind.good]
    if not good:
        return Check("addresses", title, Status.UNCHECKED, "no request was answered")
    if not peers:
        return Check("addresses", title, Status.UNCHECKED, "the client's addresses are not known")
    wrong: list[str] = []
    blamed: list[str] = []
    service = case.cluster.service
    for kind in good:
        server = servers[kind.server or ""]
        local = server.address if case.nat else case.vip
        ports = [p for p in ([server.port] if server.port else service.every_port) if p]
        if kind.local != local or (ports and kind.port not in ports):
            wrong.append(
                f"{server.name} was reached at {kind.local} port {kind.port}, not {local} "
                f"port {' or '.join(map(str, ports))}"
            )
            blamed.append(server.name)
        if kind.peer not in peers:
            who = "the director" if case.cluster.full_nat else "the client"
            wrong.append(f"{server.name} saw {kind.peer} for its peer, not {who}")
            blamed.append(server.name)
    if wrong:
        return Check(
            "addresses",
            title,
            Status.FAIL,
            "; ".join(dict.fromkeys(wrong)),
            tuple(dict.fromkeys(blamed)),
            "is another method at work, or does something rewrite addresses on the way?",
        )
    own = "its own address" if case.nat else f"the VIP {case.vip}"
    met = sorted({str(kind.peer) for kind in good})
    seen = ", ".join(met) if len(met) < 4 else f"{len(met)} addresses of the client"
    return Check(
        "addresses", title, Status.PASS, f"each was reached at {own}, by {seen}, as it must be"
    )


def replies(case: Case) -> Check:
    """From whose MAC the VIP's replies come. Where none passes an observer: the counters."""
    director = case.cluster.director
    title = f"replies come {'back through' if case.nat else 'past'} the director"
    macs: dict[str, int] = {}
    for capture in case.seen.captures:
        for mac, number in capture.replies.items():
            macs[mac] = macs.get(mac, 0) + number
    if not case.answered:
        return Check("replies", title, Status.UNCHECKED, "no request was answered")
    places = ", ".join(capture.host for capture in case.seen.captures) or "no observer"
    if not macs:
        return _by_counters(case, title, places)
    shown = ", ".join(f"{number} from {case.named_mac(mac)}" for mac, number in macs.items())
    hosts = {case.host_of_mac(mac) for mac in macs}
    servers = {server.name for server in case.cluster.real_servers}
    fact = f"replies seen on {places}: {shown}"
    if case.nat and hosts & servers:
        return Check(
            "replies",
            title,
            Status.FAIL,
            f"{fact}: they pass the director by",
            tuple(sorted(host for host in hosts & servers if host)),
            "the real servers' default route must lead to the director",
        )
    if not case.nat and director in hosts:
        return Check(
            "replies",
            title,
            Status.FAIL,
            f"{fact}: they go through the director",
            (director,),
            "the real servers' default route must lead to their router, not to the director",
        )
    return Check("replies", title, Status.PASS, fact)


def _by_counters(case: Case, title: str, places: str) -> Check:
    total = case.total or Counters()
    if not total.in_pkts:
        return Check("replies", title, Status.UNCHECKED, f"none passed {places}, none was counted")
    fact = f"no reply passed {places}; the director's counters say {total.out_pkts} packets out"
    right = bool(total.out_pkts) if case.nat else method(case).status is Status.PASS
    status = Status.PASS if right else Status.FAIL
    return Check("replies", title, status, fact, () if right else (case.cluster.director,))
