"""Checks of the whole: all answered, all counted alike, the scheduler's law, sizes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lvsfab.model import Protocol
from lvsfab.verify.case import Case
from lvsfab.verify.checks_servers import outcome
from lvsfab.verify.law import Law
from lvsfab.verify.verdict import Check, Status

OUTER = {"ipip": 20, "gre": 24, "gue": 32}  # bytes before the inner IPv4 packet


def checks(case: Case, law: Law) -> Iterator[Check]:
    yield answers(case)
    yield connections(case)
    yield counts(case)
    yield Check(
        "scheduler",
        f"{case.cluster.service.scheduler} gives out connections as it must",
        law.status,
        law.fact,
        (case.cluster.director,) if law.status is Status.FAIL else (),
        law.advice,
    )
    if case.cluster.service.protocol is Protocol.TCP:
        yield sizes(case)


def answers(case: Case) -> Check:
    title = "every request is answered"
    batch = case.seen.batch
    if batch.problem:
        return Check("answers", title, Status.UNCHECKED, batch.problem)
    good = case.answered.total()
    if good == batch.sent and good:
        took = sum(batch.seconds) / good
        return Check(
            "answers", title, Status.PASS, f"{good} of {good}, in {took * 1000:.1f} ms each"
        )
    numbers = Counter(batch.order)
    bad = [
        f"{numbers[index]} {outcome(kind.code, kind.exit)}"
        + (f" ({kind.body[:60]})" if kind.exit == 0 and kind.body else "")
        for index, kind in enumerate(batch.kinds)
        if not kind.good
    ]
    early = "; the rest was not sent, after so many time-outs" if batch.stopped else ""
    blamed = tuple(case.lost)
    return Check(
        "answers",
        title,
        Status.FAIL,
        f"{good} of {batch.sent} answered; {', '.join(bad) or 'none was sent'}{early}",
        blamed,
        "an earlier check says more" if blamed else f"curl -v http://{case.vip}/ on the client",
    )


def connections(case: Case) -> Check:
    """HTTP keep-alive would make many requests of one connection: nothing rotates then."""
    title = "each request is a new connection"
    batch = case.seen.batch
    if not case.answered:
        return Check("connections", title, Status.UNCHECKED, "no request was answered")
    numbers = Counter(batch.order)
    reused = sum(numbers[i] for i, k in enumerate(batch.kinds) if k.good and k.connects != 1)
    if reused:
        return Check(
            "connections",
            title,
            Status.FAIL,
            f"{reused} of {batch.sent} requests went over a connection that was there already",
            (case.cluster.client or "",),
            "one connection per request: turn keep-alive off",
        )
    return Check("connections", title, Status.PASS, f"{batch.sent} requests, each on its own")


def counts(case: Case) -> Check:
    """Director, client and each server's own log must say the same."""
    title = "client, director and servers count the same"
    if not case.answered or case.total is None or not case.given:
        return Check("counts", title, Status.UNCHECKED, "no answers, or no counters, to compare")
    if case.foreign:
        return Check(
            "counts",
            title,
            Status.UNCHECKED,
            f"{case.foreign} connections in between were not ours",
            advice="repeat it while no one else uses the service",
        )
    if case.director.late:
        why = f"{case.cluster.director}'s counters were still behind when they were first read"
        return Check("counts", title, Status.UNCHECKED, why, advice="repeat it")
    fresh = Counter(case.fresh)
    shown, wrong, unlogged = [], [], []
    for server in case.cluster.real_servers:
        name = server.name
        if name not in case.given:
            continue
        ours = fresh[name] + case.moved[name] + case.lost[name]
        counted, logged = case.given[name].conns, case.logged(name)
        probed = sum(1 for p in case.seen.probes if p.answer.good and p.answer.server == name)
        shown.append(
            f"{name}: {ours} by the client, {counted} by the director, "
            f"{'no log' if logged is None else logged - probed} by itself"
        )
        most = ours + case.unplaced + case.under_way + case.followed[name]
        if not ours <= counted <= most:
            wrong.append(name)
        if logged is None:
            unlogged.append(name)
        elif not (case.failed or case.reused) and all(t.good for t in case.seen.transfers):
            # what was open before the batch may have ended since, and ends with a line of its own
            ended = case.load[name].active if name in case.load else 0
            wrong += [] if counted <= logged - probed <= counted + ended else [name]
    fact = "; ".join(shown)
    if case.reused:
        fact += f"; {len(case.reused)} more came from ports whose connections of before live on"
    if wrong:
        return Check(
            "counts",
            title,
            Status.FAIL,
            fact,
            tuple(dict.fromkeys(wrong)),
            "some requests went another way than through the director's service",
        )
    if unlogged:
        return Check(
            "counts",
            title,
            Status.UNCHECKED,
            fact,
            advice=f"no access log of the test page on {', '.join(unlogged)}",
        )
    return Check("counts", title, Status.PASS, fact)


def sizes(case: Case) -> Check:
    """1 MiB down and up, and sizes around the MTU."""
    title = "large answers and uploads get through"
    moved = case.seen.transfers
    if case.seen.transfers_problem or not moved:
        why = case.seen.transfers_problem or "nothing was transferred: no request was answered"
        return Check("sizes", title, Status.UNCHECKED, why)
    failed = [transfer for transfer in moved if not transfer.good]
    if not failed:
        met = ", ".join(f"{name} {number}" for name, number in sorted(case.moved.items()))
        down = sum(1 for transfer in moved if transfer.direction == "down")
        return Check(
            "sizes",
            title,
            Status.PASS,
            f"{down} answers of 1 MiB, {len(moved) - down} uploads up to 1 MiB"
            + (f" (given to: {met})" if met else ""),
        )
    names = tuple(dict.fromkeys(name for t in failed if (name := case.given_to(t.port))))
    shown = ", ".join(
        f"{t.direction} {t.size} bytes {outcome(t.code, t.exit)}"
        + (f" ({name})" if (name := case.given_to(t.port)) else "")
        for t in failed
    )
    small = [t for t in moved if t.good and t.direction == "up"]
    advice = "curl -v by hand from the client says more"
    if case.tun and any(t.direction == "up" for t in failed):
        outer = OUTER.get(case.cluster.tunnel, 20)
        stuck = [name for name, passed in case.director.pings.items() if not passed]
        advice = (
            f"requests grow by {outer} bytes in the tunnel: clamp the MSS on the real servers or "
            "raise the MTU between director and servers"
            + (f" (full-size DF pings from the director to {', '.join(stuck)} fail)" * bool(stuck))
        )
        if small:
            shown += f"; uploads up to {max(t.size for t in small)} bytes passed"
    return Check("sizes", title, Status.FAIL, shown, names, advice)
