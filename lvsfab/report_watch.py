"""What was watched (`verify --for`), for people (lines) and for programs (JSON).

JSON, schema "lvsfab.watch/1": {"schema", "status": "pass"|"fail", "client", "seconds", "rate",
"requests", "answered", "lost", "servers": {name: answered}, "gap": {"since", "seconds",
"allowed"}, "directors": {"before": {name: state}, "after": {name: state}}, "why": [sentence]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lvsfab.model import Cluster
from lvsfab.verify import directors
from lvsfab.verify.directors import Director
from lvsfab.verify.watch import Watched

SCHEMA = "lvsfab.watch/1"


def failures(cluster: Cluster, found: Watched, allowed: float) -> list[str]:
    """What is not as it must be, a sentence each; none: it passed."""
    _, gap = found.longest_gap
    wrong = [found.problem] if found.problem else []
    if gap > allowed:
        wrong.append(f"nobody answered for {gap:.2f} s, {allowed:g} s are allowed")
    if cluster.keepalived is not None and not directors.settled(cluster, found.after):
        wrong.append(f"not exactly one director is active: {directors.told(cluster, found.after)}")
    return wrong


def lines(cluster: Cluster, found: Watched, allowed: float) -> list[str]:
    since, gap = found.longest_gap
    sent = len(found.requests)
    shares = ", ".join(f"{name} {number}" for name, number in found.servers.items())
    what = f"{cluster.recipe}: {cluster.asked} watched from {found.client}"
    how_many = f"answered {found.answered} of {sent} ({shares or 'by nobody'})"
    said = [
        f"{what} for {found.seconds} s, {found.rate} requests a second",
        f"{how_many}, lost {sent - found.answered}",
        f"longest gap {gap:.2f} s, from {since:.2f} s on",
    ]
    if found.after:
        said.append(f"directors before: {directors.told(cluster, found.before)}")
        said.append(f"directors after:  {directors.told(cluster, found.after)}")
    wrong = failures(cluster, found, allowed)
    return [*said, *(f"FAIL {why}" for why in wrong)] if wrong else [*said, "PASS"]


def to_dict(cluster: Cluster, found: Watched, allowed: float) -> dict[str, Any]:
    since, gap = found.longest_gap
    wrong = failures(cluster, found, allowed)

    def states(these: Sequence[Director]) -> dict[str, str]:
        return {d.host: d.state(directors.moving(cluster)) for d in these}

    return {
        "schema": SCHEMA,
        "status": "fail" if wrong else "pass",
        "client": found.client,
        "seconds": found.seconds,
        "rate": found.rate,
        "requests": len(found.requests),
        "answered": found.answered,
        "lost": len(found.requests) - found.answered,
        "servers": found.servers,
        "gap": {"since": round(since, 3), "seconds": round(gap, 3), "allowed": allowed},
        "directors": {"before": states(found.before), "after": states(found.after)},
        "why": wrong,
    }
