"""How many connections servers with thresholds still take, and what their law is. Pure.

Source: ip_vs_bind_dest and ip_vs_unbind_dest (net/netfilter/ipvs/ip_vs_conn.c). A server whose
connections, active and inactive, come to `upper` gets no more until fewer than `lower` are left
(without a `lower`: fewer than three quarters of `upper`). A closed one is inactive, and counts, for
some two minutes. Whether a server between the two still waits, the kernel tells nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

from lvsfab.model import IPAddress, RealServer, Scheduler, VirtualService
from lvsfab.verify import locality, oracles
from lvsfab.verify.law import Law, Load
from lvsfab.verify.verdict import Status

_REFUSE = {Scheduler.SH, Scheduler.MH, Scheduler.DH}  # a full server's clients get no other


class State(Enum):
    OPEN = auto()
    PERHAPS = auto()
    FULL = auto()


def limited(servers: Sequence[RealServer]) -> bool:
    return any(server.upper for server in servers if server.weight > 0)


def state(server: RealServer, load: Load) -> State:
    """Whether a server gets new connections, as far as its numbers tell."""
    if not server.upper or load.total * 4 < (server.lower * 4 or server.upper * 3):
        return State.OPEN
    return State.FULL if load.total >= server.upper else State.PERHAPS


def shown(servers: Sequence[RealServer], before: Mapping[str, Load]) -> str:
    """The servers that are full, or may be."""
    return ", ".join(
        f"{s.name} {before.get(s.name, Load()).total} of {s.upper}"
        for s in servers
        if s.weight > 0 and state(s, before.get(s.name, Load())) is not State.OPEN
    )


def capacity(
    service: VirtualService, servers: Sequence[RealServer], before: Mapping[str, Load]
) -> int | None:
    """How many new connections are sure to be taken, with no server filled on the way where its
    law would not show then. None: any number.
    """
    live = [server for server in servers if server.weight > 0]
    if not limited(live):
        return None
    able = [s for s in live if state(s, before.get(s.name, Load())) is State.OPEN]
    if not able or (service.scheduler in _REFUSE and len(able) < len(live)):
        return 0
    free = {s.name: s.upper - before.get(s.name, Load()).total for s in able if s.upper}
    if not free:
        return None
    if oracles.needs_held(service) and service.scheduler not in locality.KEEPS:
        return sum(free.values()) if len(free) == len(able) else None
    least = min(free.values())
    if service.scheduler in (Scheduler.RR, Scheduler.WRR) and service.persistence is None:
        once = oracles.cycle(service, able)
        return max(least, min(free[s] // once[s] for s in free) * sum(once.values()))
    return least


def requests_for(
    service: VirtualService,
    servers: Sequence[RealServer],
    asked: int,
    before: Mapping[str, Load],
    transfers: int,
) -> tuple[int, bool]:
    """How many requests to send for `asked`, and whether so many sized ones may follow."""
    wanted = oracles.requests_for(service, servers, asked, before)
    most = capacity(service, servers, before)
    if most is None or wanted + transfers <= most:
        return wanted, True
    cyclic = service.scheduler in (Scheduler.RR, Scheduler.WRR) and service.persistence is None
    able = [s for s in servers if state(s, before.get(s.name, Load())) is State.OPEN]
    cycle = sum(oracles.cycle(service, able).values()) if cyclic else 1
    for spare, sized in ((transfers, True), (0, False)):
        number = min(wanted, most - spare)
        number -= number % cycle if number > cycle else 0
        if number >= (cycle if sized else 0):
            return number, sized
    return 0, False


def judge(
    service: VirtualService,
    servers: Sequence[RealServer],
    answers: Sequence[str | None],
    before: Mapping[str, Load],
    after: Mapping[str, Load],
    *,
    foreign: int = 0,
    senders: Sequence[IPAddress] = (),
) -> Law:
    """The scheduler's law among the servers that take connections, and the thresholds' own."""
    met = Counter(answers)
    waiting = [
        s
        for s in servers
        if s.weight > 0 and state(s, before.get(s.name, Load())) is not State.OPEN
    ]
    out = {s.name for s in waiting if not met[s.name]}
    among = [replace(s, weight=0) if s.name in out else s for s in servers]
    law = oracles.judge(service, among, answers, before, foreign=foreign, senders=senders)
    # persistent clients come to a full server too
    over = [
        f"{s.name} has {after[s.name].total} connections, its upper threshold is {s.upper}"
        for s in servers
        if s.upper
        and s.name in after
        and after[s.name].total > s.upper >= before.get(s.name, Load()).total
        and service.persistence is None
    ]
    if over:
        return replace(law, status=Status.FAIL, fact=f"{law.fact}; {', '.join(over)}")
    if not waiting:
        return law
    fact = f"{law.fact}; at its threshold or below it since: {shown(waiting, before)}"
    if law.status is not Status.FAIL:
        return replace(law, fact=fact)
    return replace(
        law,
        status=Status.UNCHECKED,
        fact=f"{fact}: such a server comes back as its connections end",
        advice="repeat it when those have expired, in some two minutes",
    )
