"""Checks of each real server apart: given connections, or singled out, does it answer? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lvsfab.model import RealServer
from lvsfab.verify import diagnose
from lvsfab.verify.case import Case
from lvsfab.verify.ipvsadm import Counters
from lvsfab.verify.values import Batch, Probe
from lvsfab.verify.verdict import Check, Status


def checks(case: Case) -> Iterator[Check]:
    """One per server that may get connections: of a drained one (weight 0) none is expected."""
    for server in case.live:
        yield apart(case, server)


def apart(case: Case, server: RealServer) -> Check:
    id_, title = f"server:{server.name}", f"{server.name} answers what it is given"
    answered, lost = case.answered[server.name], case.lost[server.name]
    counted = case.given.get(server.name)
    probe = next((p for p in case.seen.probes if p.server == server.name), None)
    if case.seen.batch.problem and probe is None:
        return Check(id_, title, Status.UNCHECKED, case.seen.batch.problem)
    if lost > 0:
        why = _strange_answer(case) or diagnose.reason(case, server)
        return Check(
            id_,
            title,
            Status.FAIL,
            f"{answered} of {answered + lost} requests given to it were answered: {why.fact}",
            (server.name,),
            why.advice,
        )
    if answered:
        return Check(id_, title, Status.PASS, f"it answered all {answered} requests given to it")
    if probe is not None:
        return _probed(case, server, probe, id_, title)
    if counted is None:
        return Check(
            id_, title, Status.UNCHECKED, f"the director has no counters for {server.name}"
        )
    return _not_asked(case, id_, title, counted)


def _strange_answer(case: Case) -> diagnose.Reason | None:
    """Where every failure is an answer after all: it is not the test page's."""
    bad = [kind for kind in case.seen.batch.kinds if not kind.good]
    if not bad or any(kind.exit for kind in bad):
        return None
    return diagnose.Reason(
        f"the answer is not the test page's ({outcome(bad[0].code, 0)}: {bad[0].body[:60]})",
        "what else listens there? `lvsfab up` starts the test page",
    )


def _not_asked(case: Case, id_: str, title: str, counted: Counters) -> Check:
    if case.total is not None and case.total.conns == 0:
        return Check(id_, title, Status.UNCHECKED, "no request came by the director at all")
    how = case.seen.marks_problem or "it was not singled out by a firewall mark either"
    return Check(
        id_,
        title,
        Status.UNCHECKED,
        f"the scheduler gave it {counted.conns} connections; {how}",
        advice="nft or iptables on the director, or requests from other clients, would prove it",
    )


def _probed(case: Case, server: RealServer, probe: Probe, id_: str, title: str) -> Check:
    answer = probe.answer
    if answer.good and answer.server == server.name:
        return Check(
            id_,
            title,
            Status.PASS,
            f"the scheduler gave it none; singled out by a firewall mark ({case.seen.marks}) it "
            "answered",
        )
    if answer.good:
        return Check(
            id_,
            title,
            Status.UNCHECKED,
            f"singled out by a firewall mark, yet {answer.server} answered: the client's port or "
            "address changes on the way",
        )
    why = diagnose.reason(case, server)
    return Check(
        id_,
        title,
        Status.FAIL,
        f"singled out by a firewall mark it did not answer ({outcome(answer.code, answer.exit)}): "
        f"{why.fact}",
        (server.name,),
        why.advice,
    )


def outcomes(batch: Batch) -> dict[str, int]:
    """How many requests ended how; the sum is the number of requests sent."""
    words = ["answered" if k.good else outcome(k.code, k.exit) for k in batch.kinds]
    return dict(Counter(words[index] for index in batch.order))


def outcome(code: int, status: int) -> str:
    """An HTTP status and curl's exit status, in words."""
    words = {7: "refused or unreachable", 28: "timed out", 52: "empty answer", 56: "cut off"}
    if status:
        return words.get(status, f"curl exit status {status}")
    return f"HTTP {code}" if code != 200 else "no page of ours"
