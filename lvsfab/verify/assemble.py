"""All hosts' records of a run into one observation. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lvsfab.model import Cluster, IPAddress, Protocol
from lvsfab.session import Record
from lvsfab.verify.case import Case
from lvsfab.verify.law import Load
from lvsfab.verify.observe import printable, snapshot
from lvsfab.verify.observe_client import parse_batch, parse_capture, parse_probes, parse_transfers
from lvsfab.verify.values import Batch, Observation, Transfer

Records = Mapping[str, Record]


def observation(
    cluster: Cluster,
    before: Mapping[str, Records],
    batch: Records,
    after: Mapping[str, Records],
    *,
    observers: tuple[str, ...],
    held: bool = False,
    no_sizes: str = "",
    sources: tuple[IPAddress, ...] = (),
) -> tuple[Observation, float]:
    """What was seen, and the seconds that the batch took. `before` and `after` by host, `batch`
    the client's; `observers` are the hosts that captured; `no_sizes` says why there are no sized
    requests; `sources` as in Observation.
    """
    names = frozenset(server.name for server in cluster.real_servers)
    requests, took = parse_batch(batch.get("batch"), names, held=held)
    transfers: tuple[Transfer, ...] = ()
    trouble = no_sizes
    if not no_sizes and cluster.service.protocol is Protocol.TCP:
        transfers, trouble = parse_transfers(batch.get("transfers"))
    said = before[cluster.director].get("marks")
    how = marked(said)
    seen = Observation(
        before={host: snapshot(host, records, cluster) for host, records in before.items()},
        after={host: snapshot(host, records, cluster) for host, records in after.items()},
        batch=requests,
        transfers=transfers,
        transfers_problem=trouble,
        probes=parse_probes(batch, names) if how else (),
        captures=tuple(
            parse_capture(host, before[host], after[host], cluster) for host in observers
        ),
        marks=how,
        sources=sources,
        marks_problem="" if said is None or how else printable(said.output.strip()),
    )
    return seen, took


def loads(cluster: Cluster, before: Mapping[str, Records]) -> Mapping[str, Load]:
    """The servers' connections as the director listed them."""
    name = cluster.director
    found = snapshot(name, before[name], cluster)
    return Case(cluster, Observation({name: found}, {}, Batch())).load


def ports_to_follow(cluster: Cluster, batch: Records) -> tuple[int, ...]:
    """The client's ports whose connections the director is to show: failed and sized ones."""
    names = frozenset(server.name for server in cluster.real_servers)
    requests, _ = parse_batch(batch.get("batch"), names)
    transfers, _ = parse_transfers(batch.get("transfers"))
    return (*requests.failed_ports, *(transfer.port for transfer in transfers))


def lines_expected(
    cluster: Cluster, before: Mapping[str, Records], batch: Records
) -> Mapping[str, int]:
    """Server -> lines that its log comes to at least: sized requests make more."""
    names = frozenset(server.name for server in cluster.real_servers)
    requests, _ = parse_batch(batch.get("batch"), names)
    answered = Counter(requests.answers())
    probes = parse_probes(batch, names)
    answered.update(p.answer.server for p in probes if p.answer.good)
    was = {name: snapshot(name, before[name], cluster).log_lines for name in names}
    return {name: (was[name] or 0) + answered[name] for name in names}


def marked(record: Record | None) -> str:
    """How servers were singled out (nft, iptables); "" when they were not."""
    if record is None or record.status:
        return ""
    words = record.output.split()
    return words[-1] if words[-2:-1] == ["how"] and words[-1] in ("nft", "iptables") else ""
