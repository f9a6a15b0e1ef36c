"""From what the client and the observers print to values. Pure; see observe.py."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from lvsfab.model import Cluster, IPAddress
from lvsfab.session import Record
from lvsfab.verify.observe import MAC, address, lines, printable
from lvsfab.verify.values import Answer, Batch, Capture, Probe, Transfer

_PAGE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,62}) reached at (?P<local>\S{2,45}) "
    r"port (?P<port>\d{1,5}) by (?P<peer>\S{2,45})"
)
# tcpdump's word for a frame that is not for this host (a mirror of what it sent itself)
_NOT_FOR_US = {"P", "Out"}


def parse_answer(
    code: int, status: int, connects: int, body: str, names: Collection[str]
) -> Answer:
    """One kind of outcome. Only the name of a host of the cluster counts as a server's."""
    match = _PAGE.fullmatch(body.strip())
    if match is None or match["name"] not in names:
        return Answer(code, status, connects, printable(body.strip()))
    return Answer(
        code,
        status,
        connects,
        printable(body.strip()),
        match["name"],
        address(match["local"]),
        int(match["port"]),
        address(match["peer"]),
    )


def parse_batch(
    record: Record | None, names: Collection[str], *, held: bool = False
) -> tuple[Batch, float]:
    """What the aggregation printed (client.py), and the seconds that the batch took."""
    if record is None:
        return Batch(held=held, problem="the client said nothing of its requests"), 0.0
    if record.status:
        said = printable(record.output.strip()) or f"status {record.status}"
        return Batch(held=held, problem=f"the client could not send requests: {said}"), 0.0
    try:
        return _batch(record.output, names, held=held)
    except (ValueError, IndexError, KeyError) as error:
        reason = f"could not read the client's results: {printable(str(error))}"
        return Batch(held=held, problem=reason), 0.0


def _batch(text: str, names: Collection[str], *, held: bool) -> tuple[Batch, float]:
    order: list[int] = []
    kinds: list[Answer] = []
    seconds: list[float] = []
    ports: list[int] = []
    sent, stopped, ended, took = -1, False, False, 0.0
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "sent":
            sent, stopped = int(rest.split()[0]), rest.split()[1] == "1"
        elif word == "order":
            order += [int(index) for index in rest.split()]
        elif word == "kind":
            head, _, body = rest.partition("\t")
            _, _, total, code, status, connects = head.split()
            seconds.append(float(total))
            kinds.append(parse_answer(int(code), int(status), int(connects), body, names))
        elif word == "from":
            ports += [int(port) for port in rest.split()]
        elif word == "time":
            start, end = rest.split()
            took = float(end) - float(start)
        elif word == "end":
            ended = True
    if (
        not ended
        or not sent == len(order) == len(ports)
        or any(not 0 <= i < len(kinds) for i in order)
        or not all(map(math.isfinite, (took, *seconds)))
    ):
        raise ValueError("incomplete: " + printable(text[-200:]))
    return Batch(tuple(kinds), tuple(order), tuple(seconds), tuple(ports), stopped, held), took


def parse_transfers(record: Record | None) -> tuple[tuple[Transfer, ...], str]:
    """Lines `DIRECTION SIZE CODE EXIT PORT DONE`; and what was wrong, or ""."""
    if record is None:
        return (), "the client said nothing of its transfers"
    if record.output.strip() == "not tried":
        return (), "requests failed already: larger ones were not tried"
    found = []
    try:
        for line in record.output.splitlines()[:10000]:
            if line.startswith(("down ", "up ")):
                direction, size, code, status, port, done = line.split()
                found.append(
                    Transfer(
                        direction, int(size), int(float(done)), int(code), int(status), int(port)
                    )
                )
    except (ValueError, OverflowError) as error:
        return tuple(found), f"could not read the client's transfers: {printable(str(error))}"
    if record.status or not found:
        return tuple(found), f"the client's transfers: {printable(record.output.strip()[-200:])}"
    return tuple(found), ""


def parse_probes(records: Mapping[str, Record], names: Collection[str]) -> tuple[Probe, ...]:
    found = []
    for name, record in records.items():
        if not name.startswith("probe:"):
            continue
        batch, _ = parse_batch(record, names)
        if batch.kinds:
            found.append(Probe(name.removeprefix("probe:"), batch.kinds[0]))
    return tuple(found)


def parse_capture(
    host: str, before: Mapping[str, Record], after: Mapping[str, Record], cluster: Cluster
) -> Capture:
    """The observer's captures: who answered for the VIP, who asked in its name, whence it came."""
    watch, ask = before.get("watch"), after.get("ask")
    arp, replies = after.get("arp"), after.get("replies")
    problems = []
    if watch is None or watch.status:
        said = printable(watch.output.strip()) if watch else "no answer"
        problems.append(f"{host} could not capture: {said}")
    vip = cluster.service.vip
    owners: dict[str, int] = {}
    asks: list[tuple[str, str]] = []
    if ask is not None and vip.version == 4:
        for match in re.finditer(r"reply from (\S+) \[([0-9A-Fa-f:]{17})\]", ask.output):
            if address(match[1]) == vip:
                owners[match[2].lower()] = owners.get(match[2].lower(), 0) + 1
        if not owners and not re.search(r"^Sent \d+ probe", ask.output, re.MULTILINE):
            problems.append(f"{host} could not ask who has the VIP: {printable(ask.output)}")
    for line in (lines(arp.output) if arp else ())[:1000]:
        mac = MAC.search(line)
        if mac is None:
            continue
        if _answers_for(line, vip):
            owners[mac[0]] = owners.get(mac[0], 0) + 1
        asked = re.search(r"Request who-has (\S+) .{0,80}?tell ([0-9a-f.:]+)", line)
        if asked and address(asked[2].rstrip(",")) == vip and address(asked[1]) != vip:
            asks.append((mac[0], printable(asked[1], 45)))
    counts: dict[str, int] = {}
    for line in (lines(replies.output) if replies else ())[:1000]:
        mac = MAC.search(line)
        if mac is not None and _NOT_FOR_US.isdisjoint(line.split()[:3]):
            counts[mac[0]] = counts.get(mac[0], 0) + 1
    return Capture(host, owners, tuple(dict.fromkeys(asks)), counts, "; ".join(problems))


def _answers_for(line: str, vip: IPAddress) -> bool:
    """An ARP reply or a neighbour advertisement that claims the VIP."""
    match = re.search(r"Reply (\S+) is-at ", line) or re.search(r"tgt is ([0-9a-f:.]+)", line)
    return match is not None and address(match[1].rstrip(",")) == vip
