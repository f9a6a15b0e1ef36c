"""The judge: an observation and a cluster in, a verdict out. Pure.

The checks stand in the order in which a packet meets what they check: VIP, table, ARP, the
director, each server, the method's counters, the replies' way, the client. The first that fails
is the cause; what fails after it mostly follows from it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lvsfab.model import Cluster
from lvsfab.verify import checks_director, checks_path, checks_proof, checks_servers, room
from lvsfab.verify.case import Case
from lvsfab.verify.law import Law
from lvsfab.verify.values import Observation
from lvsfab.verify.verdict import Check, ServerRow, Status, Verdict, overall

__all__ = ["Verdict", "judge"]


def judge(
    cluster: Cluster, seen: Observation, *, seconds: float = 0.0, batch_seconds: float = 0.0
) -> Verdict:
    case = Case(cluster, seen)
    law = room.judge(
        cluster.service,
        cluster.real_servers,
        case.fresh,
        case.load,
        case.load_after,
        foreign=case.foreign,
        senders=case.senders,
    )
    if law.status is Status.FAIL and case.reused:
        law = replace(
            law,
            status=Status.UNCHECKED,
            fact=f"{law.fact}; but {len(case.reused)} requests came from ports whose connections "
            "of before may live on",
            advice="repeat it when those have expired, in some two minutes",
        )
    checks = (
        *_readable(case),
        *checks_director.checks(case),
        *checks_servers.checks(case),
        *checks_path.checks(case),
        *checks_proof.checks(case, law),
    )
    service = cluster.service
    vip = f"[{service.vip}]" if service.vip.version == 6 else str(service.vip)
    return Verdict(
        recipe=cluster.recipe,
        method=str(cluster.method),
        service=f"{service.protocol}:{vip}:{','.join(map(str, service.every_port))}",
        scheduler=str(service.scheduler),
        status=overall(checks),
        requests=seen.batch.sent,
        answered=case.answered.total(),
        held=seen.batch.held,
        rows=_rows(case, law),
        checks=checks,
        cause=next((check for check in checks if check.status is Status.FAIL), None),
        seconds=seconds,
        batch_seconds=batch_seconds,
        outcomes=checks_servers.outcomes(seen.batch),
    )


def _readable(case: Case) -> tuple[Check, ...]:
    """Only where something could not be read: what rests on it would else look as if absent."""
    unread = [
        problem
        for snapshots in (case.seen.before, case.seen.after)
        for snapshot in snapshots.values()
        for problem in snapshot.unread
    ]
    if not unread:
        return ()
    title = "every host's own words can be read"
    fact = "; ".join(dict.fromkeys(unread))
    return (Check("readable", title, Status.UNCHECKED, fact[:2000]),)


def _rows(case: Case, law: Law) -> tuple[ServerRow, ...]:
    rows = []
    # a request that followed an old connection went where that one is: expected there
    old = case.answered - Counter(name for name in case.fresh if name is not None)
    for server in case.cluster.real_servers:
        given = case.given.get(server.name)
        rows.append(
            ServerRow(
                name=server.name,
                address=f"{server.address}",
                weight=server.weight,
                expected=(
                    None if law.expected is None else law.expected[server.name] + old[server.name]
                ),
                answered=case.answered[server.name],
                conns=given.conns if given else None,
                in_pkts=given.in_pkts if given else None,
                out_pkts=given.out_pkts if given else None,
                logged=case.logged(server.name),
            )
        )
    return tuple(rows)
