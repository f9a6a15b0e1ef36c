"""Send and observe: three scripts over shells that are open. All I/O of verify is here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lvsfab.errors import CommandError, InputError, UnreachableError
from lvsfab.model import Cluster, Inventory, IPAddress, IPNetwork, Protocol
from lvsfab.session import Record, Shell, by_id
from lvsfab.verify import assemble, directors, oracles, room, scripts, sources
from lvsfab.verify import client as requests_of
from lvsfab.verify import watch as watching
from lvsfab.verify.assemble import Records
from lvsfab.verify.directors import Director
from lvsfab.verify.judge import judge
from lvsfab.verify.marks import mark_plans
from lvsfab.verify.values import Batch
from lvsfab.verify.verdict import Verdict
from lvsfab.verify.watch import Watched

PHASE_TIMEOUT = 60.0  # s for one host to say what it sees
MAX_TRANSFERS = 16  # sized requests of each kind: one per real server
MAX_PARALLEL = 32
_NO_ROOM = "the servers' thresholds leave no room for larger ones too"
SETTLE = 15.0  # s for VRRP to have chosen: three advertisements and a bit

Progress = Callable[[str], None]


def verify(
    cluster: Cluster,
    inventory: Inventory,
    shells: Mapping[str, Shell],
    *,
    requests: int = 60,
    rate: int | None = None,
    sizes: bool = True,
    pool: IPNetwork | None = None,
    progress: Progress = lambda line: None,
) -> Verdict:
    """Prove `cluster` by `requests` requests from its client (rounded up to whole cycles of rr
    and wrr; at most MAX_HELD for schedulers that need held connections, and what the servers'
    thresholds leave room for), at most `rate` a second.

    `pool`: addresses that are free and lead to the client, for it to send from in turns; without
    one a lab's client takes pieces of its network where the scheduler's law needs many clients; a
    hash of the client's address is asked by some 200.

    `shells`: an open shell for each of director, client, real servers, observers. `progress`
    gets one line per phase. InputError when a host that is needed has no shell;
    UnreachableError when a link ends.
    """
    if requests < 1:
        raise InputError(f"{requests} requests prove nothing", key="requests")
    began = time.monotonic()
    client = _client(cluster, inventory)
    cluster, found = _arranged(cluster, inventory, shells, progress)
    hosts = _hosts(cluster, shells)
    devices = _observers(cluster, inventory, hosts)
    held = oracles.needs_held(cluster.service) and cluster.service.protocol is Protocol.TCP
    pieces: tuple[IPNetwork, ...] = (pool,) if pool is not None else ()
    if pool is None and sources.wanted(cluster.service):
        pieces = sources.free_pieces(inventory, cluster.client or "", cluster.service)
    requests = sources.requests_for(cluster.service, pieces, requests)
    most = oracles.requests_for(cluster.service, cluster.real_servers, requests)
    senders = sources.addresses(cluster.service, pieces, most)
    live = tuple(server for server in cluster.real_servers if server.weight > 0)
    marks = mark_plans(live) if _some_left_out(cluster, most, senders) else ()
    each = min(len(live), MAX_TRANSFERS) if sizes else 0
    limit = requests_of.batch_timeout(most, 6 * each, len(marks), rate)
    life = int(limit + 2 * PHASE_TIMEOUT)

    def on_all(make: Callable[[str], str]) -> dict[str, Records]:
        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="verify") as threads:
            tasks = {
                host: threads.submit(_ask, shells[host], make(host), PHASE_TIMEOUT)
                for host in hosts
            }
            return {host: task.result() for host, task in tasks.items()}

    progress(f"looking at {len(hosts)} hosts")
    before = on_all(
        lambda host: scripts.before_script(
            cluster,
            host,
            client=client,
            observe_on=devices.get(host, ""),
            marks=marks,
            pool=pieces,
            life=life,
        )
    )
    probed = marks
    if not assemble.marked(before[cluster.director].get("marks")):
        probed = ()  # unmarked, a probe would only be one more request
    _must_be_taken(cluster, pieces, before[cluster.client or ""].get("sources"))
    loads = assemble.loads(cluster, before)
    number, with_sizes = room.requests_for(
        cluster.service, cluster.real_servers, requests, loads, 6 * each
    )
    senders = sources.addresses(cluster.service, pieces, number)
    among = f" (from {len(senders)} addresses)" if senders else ""
    fit = ", for no more fit below the servers' thresholds" if number < most else ""
    progress(f"{number} requests from {cluster.client} to {cluster.asked}{among}{fit}")
    token = secrets.token_hex(6)
    batch_records = _ask(
        shells[cluster.client or ""],
        requests_of.batch_script(
            cluster,
            number,
            token,
            held=held,
            transfers=each if with_sizes else 0,
            marks=probed,
            rate=rate,
            sources=senders,
        ),
        limit + PHASE_TIMEOUT,
    )
    ports = assemble.ports_to_follow(cluster, batch_records)
    lines = assemble.lines_expected(cluster, before, batch_records)
    progress("looking again")
    after = on_all(
        lambda host: scripts.after_script(
            cluster,
            host,
            client=client,
            observe_on=devices.get(host, ""),
            marks=bool(marks),
            ports=ports,
            logged=lines.get(host, 0),
        )
    )
    seen, took = assemble.observation(
        cluster,
        before,
        batch_records,
        after,
        observers=tuple(devices),
        held=held,
        no_sizes="" if sizes and with_sizes else _NO_ROOM if sizes else "left out as asked",
        sources=senders,
    )
    seen = replace(seen, directors=found)
    if not number:
        full = f"no server is sure to take a connection: {room.shown(live, loads)} (`upper`)"
        seen = replace(seen, batch=Batch(held=held, problem=full))
    return judge(cluster, seen, seconds=time.monotonic() - began, batch_seconds=took)


def watch(
    cluster: Cluster,
    inventory: Inventory,
    shells: Mapping[str, Shell],
    seconds: int,
    rate: int,
    *,
    progress: Progress = lambda line: None,
) -> Watched:
    """`rate` requests a second for so many seconds from the cluster's client; what the directors
    are before that.
    """
    _client(cluster, inventory)
    name = cluster.client or ""
    if name not in shells:
        raise InputError(f"verify needs host {name}, which is not connected", key=name)
    if cluster.service.protocol is not Protocol.TCP:
        raise InputError("only a TCP service can be watched", key="--for")
    before: tuple[Director, ...] = ()
    if cluster.keepalived is not None:
        before = look_at_directors(cluster, shells, wait=SETTLE)
        progress(f"directors: {directors.told(cluster, before)}")
    progress(f"{rate} requests a second from {name} to {cluster.asked}, for {seconds} s")
    script = watching.script(cluster, rate, seconds)
    records = _ask(shells[name], script, seconds + PHASE_TIMEOUT)
    requests, problem = watching.parse(records.get(watching.RECORD))
    return Watched(name, seconds, rate, requests, problem, before)


def look_at_directors(
    cluster: Cluster, shells: Mapping[str, Shell], *, wait: float = 0.0
) -> tuple[Director, ...]:
    """What each director does, in their order; up to `wait` s until one alone is active."""
    script = directors.script(cluster)

    def one(name: str) -> Director:
        if name not in shells:
            return Director(name)
        try:
            records = _ask(shells[name], script, PHASE_TIMEOUT)
        except UnreachableError:
            return Director(name)
        return directors.parse(name, records.get(directors.RECORD))

    def look() -> tuple[Director, ...]:
        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="verify") as pool:
            return tuple(pool.map(one, cluster.directors))

    import tenacity

    retrying = tenacity.Retrying(
        wait=tenacity.wait_fixed(0.3),
        stop=tenacity.stop_after_delay(wait),
        retry=tenacity.retry_if_result(lambda found: not directors.settled(cluster, found)),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else (),
    )
    return retrying(look)


def _arranged(
    cluster: Cluster, inventory: Inventory, shells: Mapping[str, Shell], progress: Progress
) -> tuple[Cluster, tuple[Director, ...]]:
    """The cluster with the director that is active, and what each of several does."""
    if cluster.keepalived is None:
        return cluster, ()
    progress(f"asking {', '.join(cluster.directors)} who is active")
    found = look_at_directors(cluster, shells, wait=SETTLE)
    network = cluster.vip_network or ""
    facing = [n for n, host in inventory.hosts.items() if host.interface_on(network)]
    return directors.arranged(cluster, found, facing), found


def _must_be_taken(cluster: Cluster, pool: Sequence[IPNetwork], taken: Record | None) -> None:
    if pool and (taken is None or taken.status):
        said = taken.output if taken else "no answer"
        raise InputError(
            f"{cluster.client} cannot send from {', '.join(map(str, pool))}: {said}",
            key="--sources",
        )


def _some_left_out(cluster: Cluster, number: int, senders: Sequence[IPAddress]) -> bool:
    """Whether the client's requests need not meet every server."""
    service, servers = cluster.service, cluster.real_servers
    live = [server for server in servers if server.weight > 0]
    if room.limited(live):  # a full server answers none but its own probe
        return True
    if len(live) < 2 or (len(senders) > len(live) and sources.spread_out(service)):
        return False
    if oracles.one_server(service) or oracles.needs_held(service) or oracles.by_port(service):
        return True
    return number < sum(oracles.cycle(service, servers).values())


def _client(cluster: Cluster, inventory: Inventory) -> IPAddress | None:
    if cluster.client is None:
        raise InputError(
            "no host has the role `client`: nobody to send requests",
            path=inventory.path,
            key="hosts",
            tip="give a host that is neither director nor real server `roles: [client]`",
        )
    host = inventory.hosts.get(cluster.client)
    return host.address(cluster.service.vip.version) if host else None


def _hosts(cluster: Cluster, shells: Mapping[str, Shell]) -> tuple[str, ...]:
    needed = dict.fromkeys(
        (
            cluster.director,
            cluster.client or "",
            *(server.name for server in cluster.real_servers),
            *cluster.observers,
        )
    )
    for name in needed:
        if name not in shells:
            raise InputError(f"verify needs host {name}, which is not connected", key=name)
    return tuple(needed)


def _observers(cluster: Cluster, inventory: Inventory, hosts: tuple[str, ...]) -> dict[str, str]:
    """Host -> the device by which it is in the VIP's network."""
    found = {}
    for name in cluster.observers:
        host = inventory.hosts.get(name)
        face = host.interface_on(cluster.vip_network or "") if host else None
        if name in hosts and face is not None:
            found[name] = face.name
    return found


def _ask(shell: Shell, script: str, timeout: float) -> Records:
    """One script's records. An answer that cannot be read leaves them out: the judge says so."""
    try:
        return by_id(shell.run(script, timeout=timeout, what="what verify looks for"))
    except CommandError as error:
        return {"unreadable": Record("unreadable", 1, str(error))}
