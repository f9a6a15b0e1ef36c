"""Checks of the director: VIP, table, who answers for the VIP, forwarding, what arrives. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from lvsfab.errors import InputError
from lvsfab.model import Scheduler
from lvsfab.states.base import Change
from lvsfab.states.ipvs_cluster import table_of
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState
from lvsfab.verify import directors
from lvsfab.verify.case import Case
from lvsfab.verify.verdict import Check, Status


def checks(case: Case) -> Iterator[Check]:
    """In the order in which a packet meets them."""
    if case.seen.directors:
        yield directors.check(case.cluster, case.seen.directors)
    yield vip(case)
    yield table(case)
    yield owner(case)
    if not case.nat and case.vip.version == 4 and case.seen.captures:
        yield in_whose_name(case)
    if case.nat:
        yield forwarding(case)
    yield routes(case)
    yield arrive(case)


def vip(case: Case) -> Check:
    title = "the director, and no bystander, has the VIP"
    name = case.cluster.director
    if not case.director.addresses:
        return Check("vip", title, Status.UNCHECKED, f"{name}'s addresses could not be read")
    device = case.director.has_address(case.vip)
    if device is None:
        return Check(
            "vip",
            title,
            Status.FAIL,
            f"{name} does not have {case.vip} on any device",
            (name,),
            f"on {name}: ip address add {case.vip} to the device that faces the clients",
        )
    link = case.director.link(device)
    if link is not None and not link.up:
        return Check(
            "vip",
            title,
            Status.FAIL,
            f"{name} has {case.vip} on {device}, which is down",
            (name,),
            f"on {name}: ip link set {device} up",
        )
    servers = {server.name for server in case.cluster.real_servers}
    others = tuple(
        host
        for host, snapshot in case.seen.after.items()
        if host != name and host not in servers and snapshot.has_address(case.vip)
    )
    if others:
        return Check(
            "vip",
            title,
            Status.FAIL,
            f"{', '.join(others)} has {case.vip} too",
            others,
            "take it off there",
        )
    return Check("vip", title, Status.PASS, f"{name} has {case.vip} on {device}")


def table(case: Case) -> Check:
    title = "the IPVS table is the recipe's"
    name, service = case.cluster.director, case.cluster.service
    if case.director.ipvs:
        missing = "not installed" in case.director.ipvs
        return Check(
            "table",
            title,
            Status.FAIL,
            f"{name}: {case.director.ipvs}",
            (name,),
            "install ipvsadm" if missing else "modprobe ip_vs; does this kernel have it?",
        )
    if case.director.table is None:
        return Check("table", title, Status.UNCHECKED, f"{name}'s table could not be read")
    entry = case.listed
    if entry is None:
        there = ", ".join(s.key for s in case.director.table.services) or "nothing"
        return Check(
            "table",
            title,
            Status.FAIL,
            f"no service {named(case)} in it; it has {there}",
            (name,),
            "lvsfab up puts it there",
        )
    if not case.director.rules:
        return Check("table", title, Status.UNCHECKED, f"{name}'s rules could not be read")
    wrong = list(_differences(case))
    wanted = {(s.address, s.port) for s in case.cluster.real_servers}
    wrong += [
        f"{own.address}:{own.port} is in it too"
        for own in entry.servers
        if (own.address, own.port) not in wanted
    ]
    if wrong:
        return Check(
            "table", title, Status.FAIL, "; ".join(wrong), (name,), "lvsfab up puts it right"
        )
    live = ", ".join(f"{s.name} {s.weight}" for s in case.cluster.real_servers)
    return Check(
        "table",
        title,
        Status.PASS,
        f"{named(case)} {service.scheduler}, weights {live}",
    )


def named(case: Case) -> str:
    service = case.cluster.service
    ports = " and ".join(map(str, service.every_port))
    mark = f" (mark {service.mark})" if service.mark is not None else ""
    return f"{service.protocol} {case.vip} port {ports}{mark}"


def _differences(case: Case) -> Iterator[str]:
    """Every field of the service and its servers, as a run compares it."""
    service, servers = table_of(case.cluster)
    names = [server.name for server in case.cluster.real_servers]
    rules = case.director.rules
    try:
        have = VirtualServiceState.parse(service.key, rules)
        own = [RealServerState.parse(server.key, rules) for server in servers]
    except (InputError, ValueError) as error:  # no recipe could have made it
        yield f"its rules cannot be a recipe's: {error}"
        return
    if have is None:
        yield f"no service {service.key} in it"
        return
    # of a persistence engine the cluster knows nothing: a recipe may name one
    for change in replace(service, engine=have.engine).changes(have):
        yield _differs(change, service.scheduler)
    for name, wanted, found in zip(names, servers, own, strict=True):
        if found is None:
            yield f"{name} ({wanted.address} port {wanted.port}) is missing"
            continue
        for change in wanted.changes(found):
            yield f"{name} has {_differs(change, service.scheduler)}"


def _differs(change: Change, scheduler: str) -> str:
    none = ("", "0") if change.field != "weight" else ()
    have, want = ("none" if text in none else text for text in (change.have, change.want))
    said = f"{change.field.replace('_', ' ')} {have}, not {want}"
    # sh's and mh's flags by the names that people give them
    return said.replace("flag-1", f"{scheduler}-fallback").replace("flag-2", f"{scheduler}-port")


def owner(case: Case) -> Check:
    what = "ARP" if case.vip.version == 4 else "neighbour solicitation"
    title = f"one MAC answers {what} for the VIP, the director's"
    director = case.cluster.director
    if not case.seen.captures:
        return Check(
            "arp",
            title,
            Status.UNCHECKED,
            f"no host but director and real servers is in the network of {case.vip}",
            advice="name one in the inventory, the router say",
        )
    owners: dict[str, int] = {}
    for capture in case.seen.captures:
        for mac, number in capture.owners.items():
            owners[mac] = owners.get(mac, 0) + number
    places = ", ".join(capture.host for capture in case.seen.captures)
    problem = "; ".join(c.problem for c in case.seen.captures if c.problem)
    if not owners:
        if problem:
            return Check("arp", title, Status.UNCHECKED, problem)
        return Check(
            "arp",
            title,
            Status.FAIL,
            f"{places} asked who has {case.vip}: nobody answered",
            (director,),
            f"has {director} the VIP on that segment's device, and arp_ignore 0 there?",
        )
    shown = ", ".join(case.named_mac(mac) for mac in owners)
    others = [mac for mac in owners if case.host_of_mac(mac) != director]
    if others:
        blamed = tuple(dict.fromkeys(case.host_of_mac(mac) or mac for mac in others))
        return Check(
            "arp",
            title,
            Status.FAIL,
            f"asked by {places}, these answered for {case.vip}: {shown}",
            blamed,
            f"on {', '.join(blamed)}: net.ipv4.conf.all.arp_ignore=1 and "
            "net.ipv4.conf.all.arp_announce=2 before the VIP; then flush the neighbours' entries",
        )
    if problem:
        return Check("arp", title, Status.UNCHECKED, f"{shown} answered; but {problem}")
    if len(owners) > 1:
        return Check(
            "arp",
            title,
            Status.FAIL,
            f"two legs of {director} answer for {case.vip}: {shown}",
            (director,),
            f"on {director}: net.ipv4.conf.all.arp_ignore=1",
        )
    return Check("arp", title, Status.PASS, f"asked by {places}, {shown} alone answered")


def in_whose_name(case: Case) -> Check:
    title = "no real server asks by ARP in the VIP's name"
    servers = {server.name for server in case.cluster.real_servers}
    asks = [
        (case.host_of_mac(mac), target)
        for capture in case.seen.captures
        for mac, target in capture.asks
    ]
    wrong = [(host, target) for host, target in asks if host in servers]
    if wrong:
        blamed = tuple(dict.fromkeys(host for host, _ in wrong if host))
        return Check(
            "arp-announce",
            title,
            Status.FAIL,
            "; ".join(f"{host} asked who has {target}, tell {case.vip}" for host, target in wrong),
            blamed,
            f"on {', '.join(blamed)}: net.ipv4.conf.all.arp_announce=2 (clients drift off within "
            "minutes else)",
        )
    if all(capture.problem for capture in case.seen.captures):
        return Check("arp-announce", title, Status.UNCHECKED, case.seen.captures[0].problem)
    return Check(
        "arp-announce", title, Status.PASS, "no real server's ARP request had the VIP as its sender"
    )


def forwarding(case: Case) -> Check:
    title = "the director forwards, and sends no redirects"
    name = case.cluster.director
    key = "ip_forward" if case.vip.version == 4 else "forwarding6"
    sysctl = "net.ipv4.ip_forward" if case.vip.version == 4 else "net.ipv6.conf.all.forwarding"
    if key not in case.director.settings:
        return Check("forwarding", title, Status.UNCHECKED, f"{name}: {sysctl} could not be read")
    if case.director.settings[key] != 1:
        return Check(
            "forwarding",
            title,
            Status.FAIL,
            f"{sysctl} is {case.director.settings[key]} on {name}: replies end there",
            (name,),
            f"on {name}: sysctl -w {sysctl}=1",
        )
    sent = case.rise(name, "Icmp.OutRedirects")
    legs = {case.director.has_address(case.vip) or ""}
    legs |= {route.dev for what, route in case.director.routes.items() if what.startswith("rip:")}
    settings = case.director.settings
    on = [p for p in ("all", *sorted(legs - {""})) if settings.get(f"{p}/send_redirects") == 1]
    if case.vip.version == 4 and (sent > 0 or on):
        return Check(
            "forwarding",
            title,
            Status.FAIL,
            f"{name} sent {sent} ICMP redirects; send_redirects is 1 on {', '.join(on) or 'none'} "
            "(all or the device's own: either is enough)",
            (name,),
            "; ".join(f"sysctl -w net.ipv4.conf.{place}.send_redirects=0" for place in on),
        )
    return Check("forwarding", title, Status.PASS, f"{sysctl} is 1, ICMP redirects sent: {sent}")


def routes(case: Case) -> Check:
    title = "the director reaches every real server"
    name = case.cluster.director
    wrong, blamed, advice = [], [], ""
    known = 0
    for server in case.cluster.real_servers:
        route = case.director.routes.get(f"rip:{server.name}")
        if route is None:
            continue
        known += 1
        neighbour = case.director.neighbours.get(str(route.via or server.address), "")
        if route.kind == "none":
            wrong.append(f"no route to {server.name}, {server.address} ({route.text})")
            blamed.append(name)
            advice = advice or f"give {name} a route to {server.address}"
        elif case.tun and route.dev == case.cluster.tunnel_device:
            wrong.append(f"{server.address} of {server.name} leads into {route.dev} itself")
            blamed.append(name)
            advice = advice or "a real server's address is the one reached outside the tunnel"
        elif neighbour in ("FAILED", "INCOMPLETE"):
            wrong.append(f"nobody answers for {route.via or server.address} on {route.dev}")
            blamed.append(server.name)
            advice = advice or f"is {server.name} up, and that its address?"
    if wrong:
        return Check(
            "routes", title, Status.FAIL, "; ".join(wrong), tuple(dict.fromkeys(blamed)), advice
        )
    if known < len(case.cluster.real_servers):
        return Check("routes", title, Status.UNCHECKED, f"{name}'s routes could not be read")
    return Check("routes", title, Status.PASS, f"{known} routes, none into a tunnel")


def arrive(case: Case) -> Check:
    title = "the requests pass the director"
    name, batch = case.cluster.director, case.seen.batch
    if batch.problem:
        return Check("arrive", title, Status.UNCHECKED, batch.problem)
    if case.total is None:
        return Check("arrive", title, Status.UNCHECKED, f"{name} has no counters for the service")
    counted = case.total.conns
    if counted >= case.own:
        extra = f", {case.foreign} of them not ours" if case.foreign else ""
        return Check(
            "arrive",
            title,
            Status.PASS,
            f"{case.own} connections made, {counted} counted by {name}{extra}",
        )
    around = [
        server.name
        for server in case.cluster.real_servers
        if server.name in case.given and case.answered[server.name] > case.given[server.name].conns
    ]
    fact = f"{case.own} connections made, {counted} counted by {name}"
    if around:
        said = ", ".join(f"{server} answered {case.answered[server]}" for server in around)
        return Check(
            "arrive",
            title,
            Status.FAIL,
            f"{fact}; {said}: requests went past the director",
            tuple(around),
            "who answers ARP for the VIP? Flush the neighbours' entries",
        )
    return Check("arrive", title, Status.FAIL, *_nowhere(case, fact))


def _nowhere(case: Case, fact: str) -> tuple[str, tuple[str, ...], str]:
    """Fewer connections than requests, and nobody answered in the director's place."""
    director, client = case.cluster.director, case.cluster.client or ""
    hashed = case.cluster.service.scheduler in (Scheduler.SH, Scheduler.DH, Scheduler.MH)
    drained = [s.name for s in case.cluster.real_servers if s.weight == 0]
    if not case.live:
        return f"{fact}: every server has weight 0", (director,), "give one a weight"
    if hashed and drained:
        return (
            f"{fact}: the hash leads to {' or '.join(drained)}, which has weight 0",
            tuple(drained),
            "ipvsadm -b sh-fallback (or mh-fallback) chooses another",
        )
    route = case.after(client).routes.get("vip")
    if route is not None and route.kind == "none":
        return (
            f"{fact}: {client} has no route to {case.vip} ({route.text})",
            (client,),
            f"give {client} a route",
        )
    if case.after(client).neighbours.get(str(case.vip)) == "FAILED":
        return (
            f"{fact}: nobody answers {client} for {case.vip} (neighbour entry FAILED)",
            (director,),
            f"has {director} the VIP on that segment's device?",
        )
    return (
        f"{fact}: they get lost on the way to it, or in it before IPVS",
        (director,),
        (
            f"tcpdump -ni any host {case.vip} on {director}; a firewall? rp_filter there? "
            f"(TcpExtIPReversePathFilter +{case.rise(director, 'TcpExt.IPReversePathFilter')})"
        ),
    )
