"""Recorded runs of verify on real kernels (the default lab's hosts), and ways to spoil them.

tests/data/verify/NAME.json: phase -> host -> record -> [exit status, output]; `batch` is the
client's. Of /proc/net/netstat and snmp only TcpExt and Icmp were kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lvsfab.model import Cluster, ForwardingMethod, IPAddress, RealServer, Scheduler, VirtualService
from lvsfab.session import Record
from lvsfab.verify import judge
from lvsfab.verify.assemble import observation
from lvsfab.verify.verdict import Check, Verdict

DATA = Path(__file__).parents[2] / "data" / "verify"
ADDRESSES = {"rs1": "192.168.10.1", "rs2": "192.168.10.2", "rs3": "198.51.100.22"}
Run = dict[str, Any]


def cluster(method: str, scheduler: Scheduler = Scheduler.RR, **weights: int) -> Cluster:
    """The default lab's cluster by this method."""
    names = ("rs1", "rs2", "rs3") if method == "tun" else ("rs1", "rs2")
    nat = method == "nat"
    return Cluster(
        recipe=method,
        method=ForwardingMethod(method),
        service=VirtualService(
            ip_address("10.1.1.100" if nat else "192.168.10.100"), 80, scheduler=scheduler
        ),
        real_servers=tuple(
            RealServer(name, ip_address(ADDRESSES[name]), 80, weights.get(name, 1))
            for name in names
        ),
        director="director",
        client="client",
        observers=("router",),
        vip_network="front" if nat else "inner",
    )


def load(name: str) -> Run:
    run: Run = json.loads((DATA / f"{name}.json").read_text())
    return run


def verdict(
    run: Run, wanted: Cluster, *, held: bool = False, sources: tuple[IPAddress, ...] = ()
) -> Verdict:
    def records(found: dict[str, list[Any]]) -> dict[str, Record]:
        return {name: Record(name, said[0], said[1]) for name, said in found.items()}

    seen, took = observation(
        wanted,
        {host: records(found) for host, found in run["before"].items()},
        records(run["batch"]),
        {host: records(found) for host, found in run["after"].items()},
        observers=wanted.observers,
        held=held,
        sources=sources,
    )
    return judge(wanted, seen, batch_seconds=took)


def check(found: Verdict, id_: str) -> Check:
    return next(each for each in found.checks if each.id == id_)


def edit(run: Run, host: str, record: str, change: Callable[[str], str], *phases: str) -> None:
    """Change what a host printed; a change that changes nothing is a mistake of the test."""
    for phase in phases or ("before", "after"):
        said = run[phase][host][record]
        text = change(said[1])
        assert text != said[1], f"{host} {record} in {phase} has no such thing"
        said[1] = text


def fail(run: Run, server: str) -> None:
    """Every request that `server` answered timed out instead."""
    batch = run["batch"]["batch"]
    text = re.sub(rf"200 0 1\t{server} reached.*", "000 28 1\t", batch[1])
    assert text != batch[1]
    batch[1] = text


def risen(counter: str, by: int) -> Callable[[str], str]:
    """A counter of /proc/net/netstat or snmp, so much larger."""
    group, name = counter.split(".")

    def change(text: str) -> str:
        lines = text.splitlines()
        for names, values in zip(range(0, len(lines), 2), range(1, len(lines), 2), strict=True):
            if lines[names].startswith(f"{group}:"):
                place = lines[names].split().index(name)
                words = lines[values].split()
                words[place] = str(int(words[place]) + by)
                lines[values] = " ".join(words)
        return "\n".join(lines) + "\n"

    return change
