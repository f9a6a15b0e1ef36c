"""The law of lblc and lblcr: a VIP's server, and when it is left. Pure.

Source: net/netfilter/ipvs/ip_vs_{lblc,lblcr}.c. lblc keeps one server for each destination (here
the VIP) until that has more active connections than its weight while another has fewer than half
of its own; then the least loaded of all takes its place. lblcr keeps a set, and takes the least
loaded of it; where that one is to be left, the least loaded of all joins the set.

Whom the director kept before the batch cannot be read: every answer is held against all it may
have been, and what no longer fits is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain, combinations, pairwise

from lvsfab.model import RealServer, Scheduler, VirtualService
from lvsfab.verify.law import Law, Load
from lvsfab.verify.verdict import Status

KEEPS = {Scheduler.LBLC, Scheduler.LBLCR}
MOST = 8  # servers of lblcr: it may have kept any of their 255 sets


def judge(
    service: VirtualService,
    live: Sequence[RealServer],
    answers: Sequence[str | None],
    counts: Mapping[str, int],
    before: Mapping[str, Load],
    foreign: int,
) -> Law:
    """Hold the answers (in order of opening, all connections held open) against the law."""
    shown = ", ".join(f"{name} {number}" for name, number in counts.items())
    if foreign > 0 or None in answers:
        what = f"{foreign} connections of others" if foreign > 0 else "failed requests"
        return Law(Status.UNCHECKED, f"{shown}; {what} disturb the law")
    if service.scheduler is Scheduler.LBLCR and len(live) > MOST:
        return Law(Status.UNCHECKED, f"{shown}; lblcr's law is held to {MOST} servers at most")
    names = [name for name in answers if name is not None]
    place = _breaks_at(service.scheduler, live, names, before)
    if place is not None:
        return Law(
            Status.FAIL,
            f"{shown} of {len(names)} connections held at once; {service.scheduler} would not "
            f"have given connection {place + 1} to {names[place]}",
            advice="compare scheduler and weights in `ipvsadm -Ln` with the recipe's",
        )
    moves = sum(1 for one, other in pairwise(names) if one != other)
    fact = f"{shown} of {len(names)} connections held at once: "
    if len(live) > 1 and not moves:
        fact += "none had a reason to leave the VIP's server"
    elif service.scheduler is Scheduler.LBLC:
        fact += f"the VIP's server was left {moves} times, each time with more than its weight"
    else:
        fact += f"the VIP's set had {len(set(names))} servers, the least loaded was taken"
    return Law(Status.PASS, fact, counts)


def _breaks_at(
    scheduler: Scheduler,
    live: Sequence[RealServer],
    names: Sequence[str],
    before: Mapping[str, Load],
) -> int | None:
    """The first connection that nobody who was kept explains."""
    weight = {server.name: server.weight for server in live}
    loads = {name: before.get(name, Load()) for name in weight}
    active = {name: load.active for name, load in loads.items()}
    most = 1 if scheduler is Scheduler.LBLC else len(live)
    sets = chain.from_iterable(combinations(weight, size) for size in range(1, most + 1))
    kept = {frozenset(one) for one in sets}

    def least(among: frozenset[str]) -> set[str]:
        """Who may be the least loaded: inactive connections may have ended in the meantime."""
        low = {n: Fraction(active[n] * 256, weight[n]) for n in among}
        high = min(low[n] + Fraction(loads[n].inactive, weight[n]) for n in among)
        return {name for name in among if low[name] <= high}

    for index, name in enumerate(names):
        idle = any(active[other] * 2 < weight[other] for other in weight)
        everyone = least(frozenset(weight))
        fits = set()
        for one in kept:
            for chosen in least(one):
                if not (idle and active[chosen] > weight[chosen]):
                    fits |= {one} if chosen == name else set()
                elif name in everyone:
                    fits.add(frozenset({name}) if most == 1 else one | {name})
        if not fits:
            return index
        kept = fits
        active[name] += 1
    return None
