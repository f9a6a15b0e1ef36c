"""Which of several directors is active: asked of each, told as words. Pure.

VRRP's state is read from what it does: the active director has the addresses, the others have
not. keepalived itself is asked only whether it lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lvsfab.model import Cluster
from lvsfab.session import Record
from lvsfab.verify.verdict import Check, Status

RECORD = "director"


@dataclass(frozen=True, slots=True)
class Director:
    """One director: does it answer, does keepalived run there, which of the addresses that move
    has it.
    """

    host: str
    answers: bool = False
    runs: bool = False
    has: tuple[str, ...] = ()

    def state(self, wanted: Collection[str]) -> str:
        """active, standby, both words where it has some of the addresses only, or off."""
        if not self.answers:
            return "off"
        if not self.runs:
            return "keepalived does not run" + (", but has the VIP" if self.has else "")
        if not self.has:
            return "standby"
        return "active" if set(self.has) == set(wanted) else f"half active: {', '.join(self.has)}"


def moving(cluster: Cluster) -> tuple[str, ...]:
    """The addresses that move together."""
    gateway = cluster.keepalived.gateway if cluster.keepalived is not None else None
    return (str(cluster.service.vip), *([str(gateway)] if gateway is not None else []))


def script(cluster: Cluster) -> str:
    looks = "\n".join(
        f"  ip -o addr show to {address} | grep -q . && echo 'has {address}'"
        for address in moving(cluster)
    )
    return f"""
lv_director() {{
  [ -n "$(keepalived_pid)" ] && echo runs
{looks}
  return 0
}}
rec {RECORD} lv_director"""


def parse(host: str, record: Record | None) -> Director:
    if record is None or record.status:
        return Director(host)
    lines = record.output.splitlines()
    has = tuple(line.removeprefix("has ") for line in lines if line.startswith("has "))
    return Director(host, answers=True, runs="runs" in lines, has=has)


def settled(cluster: Cluster, found: Sequence[Director]) -> bool:
    """Whether exactly one has all of the addresses, and no other any."""
    states = [director.state(moving(cluster)) for director in found]
    return states.count("active") == 1 and not any(s.startswith("half") for s in states)


def arranged(cluster: Cluster, found: Iterable[Director], facing: Collection[str]) -> Cluster:
    """The cluster with the director that is active in its place; the others that answer are
    bystanders, those of `facing` (hosts with an interface in the VIP's network) observe.
    """
    found = tuple(found)
    first = max(found, key=lambda d: len(d.has), default=None)
    active = first.host if first is not None and first.has else cluster.director
    others = tuple(d.host for d in found if d.answers and d.host != active and d.host in facing)
    directors = set(cluster.directors)
    return replace(
        cluster,
        director=active,
        backups=tuple(name for name in cluster.directors if name != active),
        observers=(*(o for o in cluster.observers if o not in directors), *others),
    )


def told(cluster: Cluster, found: Iterable[Director]) -> str:
    wanted = moving(cluster)
    return ", ".join(f"{director.host} {director.state(wanted)}" for director in found)


def check(cluster: Cluster, found: Sequence[Director]) -> Check:
    title = "one director is active" + (", the others stand by" if cluster.backups else "")
    wanted = moving(cluster)
    states: Mapping[str, str] = {d.host: d.state(wanted) for d in found}
    fact = f"{told(cluster, found)} ({' and '.join(wanted)})"
    holders = [d.host for d in found if d.has]
    if len(holders) > 1:
        return Check(
            "directors", title, Status.FAIL, fact, tuple(holders),
            "they do not hear each other: let VRRP (IP protocol 112) through every firewall",
        )  # fmt: skip
    wrong = tuple(host for host, state in states.items() if state not in ("active", "standby"))
    if wrong or not holders:
        blamed = wrong or tuple(states)
        return Check(
            "directors", title, Status.FAIL, fact, blamed,
            f"on {', '.join(blamed)}: is it up, does keepalived run? lvsfab up puts it right",
        )  # fmt: skip
    return Check("directors", title, Status.PASS, fact)
