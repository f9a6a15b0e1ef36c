"""What each scheduler must do with N new connections from one client. Pure.

Source: net/netfilter/ipvs/ip_vs_{rr,wrr,lc,wlc,sed,nq,ovf,fo,sh,mh,dh,lblc,lblcr}.c.
- rr, wrr go through the list in a fixed cycle that may start anywhere; wrr steps by the weights'
  greatest common divisor, so a cycle is sum(weights)/gcd long.
- lc, wlc, sed, nq, ovf look at connections that are there *now*: their law shows only with
  connections held open at once. Ties may go to either server.
- sh, mh hash the client's address: each client keeps its server, and many clients spread over the
  servers by weight (`-port`: its port too, so one client meets several; `-fallback`: clients of a
  drained server get another, where they would else be refused); dh hashes the VIP; fo takes the
  highest weight; persistence comes before any of them. lblc and lblcr: locality.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from ipaddress import ip_network

from lvsfab.model import IPAddress, Protocol, RealServer, Scheduler, VirtualService
from lvsfab.verify import chi_squared, locality
from lvsfab.verify.law import Law, Load
from lvsfab.verify.verdict import Status

HELD = {Scheduler.LC, Scheduler.WLC, Scheduler.SED, Scheduler.NQ, Scheduler.OVF} | locality.KEEPS
_ONE = {
    Scheduler.SH: "sh takes the server from the client's address",
    Scheduler.MH: "mh takes the server from the client's address",
    Scheduler.DH: "dh takes the server from the VIP",
}
_BY_CLIENT = {Scheduler.SH, Scheduler.MH}
MAX_HELD = 200  # connections open at once: each costs the client a descriptor, a server a slot
LONGEST_CYCLE = 10_000  # requests; a longer cycle is not rounded up to


def needs_held(service: VirtualService) -> bool:
    return service.scheduler in HELD and service.persistence is None


def by_port(service: VirtualService) -> bool:
    return any(flag.endswith("-port") for flag in service.flags)


def falls_back(service: VirtualService) -> bool:
    return any(flag.endswith("-fallback") for flag in service.flags)


def one_server(service: VirtualService) -> str:
    """Why one client meets one server alone; "" where it meets them all."""
    if service.persistence is not None:
        return f"persistence keeps a client with its server for {service.persistence} s"
    if service.scheduler is Scheduler.FO:
        return "fo takes the highest weight alone"
    if service.scheduler in _ONE and not by_port(service):
        return _ONE[service.scheduler]
    return ""


def cycle(service: VirtualService, servers: Sequence[RealServer]) -> dict[str, int]:
    """Connections per server in one cycle of rr or wrr."""
    weights = {s.name: s.weight for s in servers if s.weight > 0}
    if service.scheduler is Scheduler.RR or not weights:
        return dict.fromkeys(weights, 1)
    step = math.gcd(*weights.values())
    return {name: weight // step for name, weight in weights.items()}


def requests_for(
    service: VirtualService,
    servers: Sequence[RealServer],
    asked: int,
    before: Mapping[str, Load] | None = None,
) -> int:
    """How many requests to send for `asked`: whole cycles, and no more than can be held."""
    if needs_held(service):
        most = MAX_HELD
        if service.scheduler is Scheduler.OVF:  # beyond this it has no server left to give
            active = sum(load.active for load in (before or {}).values())
            room = sum(s.weight + 1 for s in servers if s.weight > 0) - active
            most = max(1, min(most, room))
        return min(asked, most)
    if service.scheduler in (Scheduler.RR, Scheduler.WRR) and not service.persistence:
        length = sum(cycle(service, servers).values())
        if 0 < length <= LONGEST_CYCLE:
            return math.ceil(asked / length) * length
    return asked


def judge(
    service: VirtualService,
    servers: Sequence[RealServer],
    answers: Sequence[str | None],
    before: Mapping[str, Load],
    *,
    foreign: int = 0,
    senders: Sequence[IPAddress] = (),
) -> Law:
    """Hold the answers (server names in order of sending; None: failed) against the law.

    `foreign`: connections in the meantime that were not ours; they take turns too. `senders`:
    the client's address behind each answer, where it sent from many.
    """
    seen = Counter(name for name in answers if name is not None)
    counts = {server.name: seen[server.name] for server in servers}
    shown = ", ".join(f"{name} {number}" for name, number in counts.items())
    drained = [s.name for s in servers if s.weight == 0 and counts[s.name]]
    live = [s for s in servers if s.weight > 0]
    if not seen:
        return Law(Status.UNCHECKED, "no request was answered: no rotation to judge")
    if drained:
        return Law(
            Status.FAIL,
            f"{shown}; weight 0 and yet answering: {', '.join(drained)}",
            advice="persistent clients stay with a drained server unless "
            "net.ipv4.vs.expire_quiescent_template=1",
        )
    if senders and (service.persistence is not None or service.scheduler in _BY_CLIENT):
        return _each_keeps(service, servers, answers, senders, shown)
    if service.persistence is not None or one_server(service):
        return _one(service, live, counts, shown)
    if service.scheduler in (Scheduler.RR, Scheduler.WRR):
        return _cyclic(service, live, answers, counts, shown, foreign)
    if by_port(service):
        return _spread(live, counts, shown)
    if service.scheduler in locality.KEEPS:
        return locality.judge(service, live, answers, counts, before, foreign)
    return _least(service, live, answers, counts, before, foreign)


def _one(
    service: VirtualService, live: Sequence[RealServer], counts: Mapping[str, int], shown: str
) -> Law:
    why = one_server(service)
    met = [name for name, number in counts.items() if number]
    total = sum(counts.values())
    if service.scheduler is Scheduler.FO and service.persistence is None:
        top = max(server.weight for server in live)
        allowed = [server.name for server in live if server.weight == top]
    else:
        allowed = [server.name for server in live]
    first = max(met, key=lambda name: counts[name])
    fits = first if first in allowed else allowed[0]
    expected = {name: total if name == fits else 0 for name in counts}
    if len(met) == 1 and first in allowed:
        return Law(Status.PASS, f"{shown}: {why}", expected)
    return Law(
        Status.FAIL,
        f"{shown}; but {why} ({' or '.join(allowed)})",
        expected,
        "compare the scheduler, its flags and -p in `ipvsadm -Ln` with the recipe's",
    )


def _each_keeps(
    service: VirtualService,
    servers: Sequence[RealServer],
    answers: Sequence[str | None],
    senders: Sequence[IPAddress],
    shown: str,
) -> Law:
    """Each client (or network of clients, by persistence's netmask) meets one server; and where
    the client's address is hashed, clients spread over the servers by their weights. A hash that
    leads to a drained server ends there, unless the scheduler may fall back on another.
    """
    live = [server for server in servers if server.weight > 0]
    drained = [server.name for server in servers if server.weight == 0]
    met: dict[str, Counter[str]] = {}
    for sender, name in zip(senders, answers, strict=True):
        if name is not None:
            met.setdefault(_client_of(service, sender), Counter())[name] += 1
    kept = {client: names.most_common(1)[0][0] for client, names in met.items()}
    expected = {server.name: 0 for server in servers}
    for client, name in kept.items():
        expected[name] = expected.get(name, 0) + met[client].total()
    moved = [client for client, names in met.items() if len(names) > 1]
    why = f"persistence of {service.persistence} s" if service.persistence else service.scheduler
    if moved:
        client = moved[0]
        went = " and ".join(sorted(met[client]))
        return Law(
            Status.FAIL,
            f"{shown}; {why} keeps a client with its server, yet {len(moved)} of {len(met)} "
            f"clients met several ({client}: {went})",
            expected,
            "compare scheduler, flags and -p in `ipvsadm -Ln` with the recipe's",
        )
    fact = f"{shown}: each of {len(met)} clients met one server alone ({why})"
    if service.persistence is not None or service.scheduler not in _BY_CLIENT:
        return Law(Status.PASS, fact, expected)
    left = len({_client_of(service, sender) for sender in senders} - set(met))
    if left and drained and not falls_back(service):
        return Law(
            Status.FAIL,
            f"{fact}; {left} more met none: {why} keeps them for {', '.join(drained)} (weight 0)",
            expected,
            f"--set scheduler_flags={service.scheduler}-fallback gives them another server",
        )
    if drained and falls_back(service):
        return Law(Status.PASS, f"{fact}, those of {', '.join(drained)} (weight 0) too", expected)
    seen = Counter(kept.values())
    given = ", ".join(f"{server.name} {seen[server.name]}" for server in live)
    weights = [server.weight for server in live]
    off = chi_squared.distance([seen[server.name] for server in live], weights)
    if off is not None and off > chi_squared.limit(len(live) - 1):
        return Law(
            Status.FAIL,
            f"{fact}; but the clients are not spread by weight: {given} (chi-squared {off:.1f})",
            expected,
            "are the weights in `ipvsadm -Ln` the recipe's?",
        )
    few = "; too few to judge their spread" if off is None else ""
    return Law(Status.PASS, f"{fact}, clients by server: {given}{few}", expected)


def _client_of(service: VirtualService, sender: IPAddress) -> str:
    if service.persistence is None or not service.netmask:
        return str(sender)
    length = service.netmask.removeprefix("/")
    return str(ip_network(f"{sender}/{length}", strict=False))


def _spread(live: Sequence[RealServer], counts: Mapping[str, int], shown: str) -> Law:
    met = sum(1 for server in live if counts[server.name])
    if met == len(live) or met > 1:
        return Law(Status.PASS, f"{shown}: hashed by source port too, {met} servers met")
    return Law(Status.FAIL, f"{shown}: source ports are to be hashed, yet one server is met")


def _cyclic(
    service: VirtualService,
    live: Sequence[RealServer],
    answers: Sequence[str | None],
    counts: Mapping[str, int],
    shown: str,
    foreign: int,
) -> Law:
    once = cycle(service, live)
    length = sum(once.values())
    whole, rest = divmod(len(answers), length)
    expected = {name: once.get(name, 0) * whole for name in counts}
    for name in answers[len(answers) - rest :] if rest else ():
        if name in once:  # a begun cycle goes to whom it goes, each no oftener than in a whole one
            expected[name] += expected[name] < once[name] * (whole + 1)
    if foreign > 0:
        return Law(
            Status.UNCHECKED,
            f"{shown}; {foreign} connections of others took turns in between",
            expected,
            "repeat it while no one else uses the service",
        )
    if len(answers) < length:
        return Law(
            Status.UNCHECKED,
            f"{shown}; {len(answers)} requests are less than one cycle of {length}",
            expected,
            f"ask for at least {length} requests",
        )
    failed = sum(1 for name in answers if name is None)
    place = _cycle_breaks_at(answers, once, length)
    if place is not None:
        return Law(
            Status.FAIL,
            f"{shown}; not the cycle of {length} ({_shares(once)}): request {place + 1} went to "
            f"{answers[place]}",
            expected,
            "is the table as the recipe says, and did all requests pass the director?",
        )
    if failed:
        return Law(
            Status.UNCHECKED,
            f"{shown}; the order is cyclic, but {failed} requests failed",
            expected,
        )
    return Law(Status.PASS, f"{shown}: {whole} cycles of {_shares(once)}, in fixed order", expected)


def _shares(once: Mapping[str, int]) -> str:
    return ":".join(str(share) for share in once.values())


def _cycle_breaks_at(
    answers: Sequence[str | None], once: Mapping[str, int], length: int
) -> int | None:
    """The first request that fits no cycle with these shares; failed ones may be any server."""
    slots: list[str | None] = [None] * length
    filled: Counter[str] = Counter()
    for index, name in enumerate(answers):
        if name is None:
            continue
        slot = slots[index % length]
        if slot is None:
            slots[index % length] = name
            filled[name] += 1
            if filled[name] > once.get(name, 0):
                return index
        elif slot != name:
            return index
    return None


def _cost(service: VirtualService, server: RealServer, active: int, inactive: int) -> Fraction:
    """The kernel's load of a server, by which the least loaded is taken."""
    if service.scheduler in (Scheduler.SED, Scheduler.NQ):
        return Fraction(active + 1, server.weight)
    overhead = active * 256 + inactive  # ip_vs_dest_conn_overhead
    return Fraction(overhead, 1 if service.scheduler is Scheduler.LC else server.weight)


def expected_held(
    service: VirtualService,
    live: Sequence[RealServer],
    number: int,
    before: Mapping[str, Load],
    seen: Mapping[str, int],
) -> dict[str, int]:
    """Give out `number` held connections as the kernel does; a tie goes to the server that was
    seen to have got more, because the order of the kernel's list cannot be read.
    """
    active = {s.name: before.get(s.name, Load()).active for s in live}
    inactive = {s.name: before.get(s.name, Load()).inactive for s in live}
    given = dict.fromkeys(active, 0)

    def rank(server: RealServer) -> tuple[Fraction, int]:
        now = active[server.name]
        cost = _cost(service, server, now, inactive[server.name])
        if service.scheduler is Scheduler.NQ and now == 0:
            cost = Fraction(-1)  # an idle server is taken at once
        if service.scheduler is Scheduler.OVF:
            cost = Fraction(-server.weight)
        return cost, given[server.name] - seen.get(server.name, 0)

    for _ in range(number):
        able = [s for s in live if not s.upper or active[s.name] + inactive[s.name] < s.upper]
        if service.scheduler is Scheduler.OVF:
            able = [s for s in able if active[s.name] <= s.weight]
        if not able:
            break
        taken = min(able, key=rank)
        active[taken.name] += 1
        given[taken.name] += 1
    return given


def _least(
    service: VirtualService,
    live: Sequence[RealServer],
    answers: Sequence[str | None],
    counts: Mapping[str, int],
    before: Mapping[str, Load],
    foreign: int,
) -> Law:
    shown = ", ".join(f"{name} {number}" for name, number in counts.items())
    given = expected_held(service, live, len(answers), before, counts)
    expected = {name: given.get(name, 0) for name in counts}
    held = "over UDP each lives on" if service.protocol is Protocol.UDP else "held open at once"
    if foreign > 0 or None in answers:
        what = f"{foreign} connections of others" if foreign > 0 else "failed requests"
        return Law(Status.UNCHECKED, f"{shown}; {what} disturb the law", expected)
    # entries that expired in the meantime may shift the balance by 256 of them to one connection
    most = max((load.inactive for load in before.values()), default=0)
    slack = math.ceil(most / 256)
    if service.scheduler in (Scheduler.SED, Scheduler.NQ, Scheduler.OVF):
        slack = 0
    off = max(abs(expected[name] - counts[name]) for name in counts)
    fact = f"{shown} of {len(answers)} connections {held}"
    if off <= slack:
        return Law(Status.PASS, f"{fact}, as {service.scheduler} gives them", expected)
    return Law(
        Status.FAIL,
        f"{fact}; {service.scheduler} gives {', '.join(f'{n} {c}' for n, c in expected.items())}",
        expected,
        "compare scheduler and weights in `ipvsadm -Ln` with the recipe's",
    )
