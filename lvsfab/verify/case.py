"""What the checks ask of an observation: what rose, whose MAC, where a connection went. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lvsfab.model import Cluster, ForwardingMethod, IPAddress, RealServer
from lvsfab.verify.ipvsadm import Counters, ServiceEntry, Table
from lvsfab.verify.law import Load
from lvsfab.verify.marks import test_port
from lvsfab.verify.values import Observation, Snapshot

# curl's account of a request is written when the next one has ended: when it is killed, that one,
# the next, and one that has just begun stay unsaid.
UNDER_WAY = 3


@dataclass(frozen=True)
class Case:
    """A cluster, and what was seen of it."""

    cluster: Cluster
    seen: Observation

    @property
    def nat(self) -> bool:
        return self.cluster.method is ForwardingMethod.NAT

    @property
    def tun(self) -> bool:
        return self.cluster.method is ForwardingMethod.TUN

    @property
    def vip(self) -> IPAddress:
        return self.cluster.service.vip

    @property
    def live(self) -> tuple[RealServer, ...]:
        """The servers that may get new connections."""
        return tuple(s for s in self.cluster.real_servers if s.weight > 0)

    @cached_property
    def director(self) -> Snapshot:
        """The director after the batch (or as far as it is known)."""
        name = self.cluster.director
        return self.seen.after.get(name) or self.seen.before.get(name) or Snapshot(name)

    def after(self, host: str) -> Snapshot:
        return self.seen.after.get(host) or Snapshot(host)

    def _service(self, table: Table | None) -> ServiceEntry | None:
        service = self.cluster.service
        if table is None:
            return None
        if service.mark is not None:
            return table.mark(service.mark)
        return table.service(service.protocol, service.vip, service.port)

    @cached_property
    def listed(self) -> ServiceEntry | None:
        """The service as the director's table has it after the batch."""
        return self._service(self.director.table)

    @cached_property
    def total(self) -> Counters | None:
        """What the service's counters rose by. None: there are none."""
        before = self._service(self._before(self.cluster.director).stats)
        after = self._service(self.director.stats)
        if after is None or after.counters is None:
            return None
        return after.counters - ((before.counters if before else None) or Counters())

    @cached_property
    def given(self) -> Mapping[str, Counters]:
        """What the director counted for each server in the meantime."""
        before = self._service(self._before(self.cluster.director).stats)
        after = self._service(self.director.stats)
        found = {}
        for server in self.cluster.real_servers:
            now = after.server(server.address, server.port) if after else None
            was = before.server(server.address, server.port) if before else None
            if now is not None and now.counters is not None:
                found[server.name] = now.counters - ((was.counters if was else None) or Counters())
        return found

    def _before(self, host: str) -> Snapshot:
        return self.seen.before.get(host) or Snapshot(host)

    @cached_property
    def load(self) -> Mapping[str, Load]:
        """The servers' connections before the batch."""
        return self._load(self._service(self._before(self.cluster.director).table))

    @cached_property
    def load_after(self) -> Mapping[str, Load]:
        return self._load(self._service(self.after(self.cluster.director).table))

    def _load(self, entry: ServiceEntry | None) -> Mapping[str, Load]:
        found = {}
        for server in self.cluster.real_servers:
            own = entry.server(server.address, server.port) if entry else None
            if own is not None:
                found[server.name] = Load(own.active, own.inactive)
        return found

    @cached_property
    def answered(self) -> Counter[str]:
        return Counter(name for name in self.seen.batch.answers() if name is not None)

    @property
    def failed(self) -> int:
        return self.seen.batch.sent - self.answered.total()

    @cached_property
    def reused(self) -> frozenset[int]:
        """Indices of our connections (requests, then transfers) whose port had an entry already:
        IPVS may have let them follow it, to its server and uncounted. A SYN makes a new
        connection where the old one is in TIME_WAIT and conn_reuse_mode is not 0, and with its
        bit 2 also in FIN_WAIT, where DR and TUN stay because the director sees no reply; newer
        kernels do so in CLOSE too, none while persistence holds the old one
        (is_new_conn_expected, net/netfilter/ipvs/ip_vs_core.c).
        """
        mode = self.director.settings.get("conn_reuse_mode", 1)
        if self.cluster.service.persistence is not None:
            mode = 0
        over = {"TIME_WAIT"} if mode else set()
        over |= {"FIN_WAIT"} if mode & 2 else set()
        seen: set[tuple[IPAddress | None, int]] = {
            (None, port)  # those are the client's own address's
            for port, state in self._before(self.cluster.director).open_ports.items()
            if state not in over
        }
        found = set()
        own_ends = "TIME_WAIT" if self.nat else "FIN_WAIT"
        ports = (*self.seen.batch.ports, *(t.port for t in self.seen.transfers))
        for index, port in enumerate(ports):
            end = (self._sender(index), port)
            if port and end in seen:
                found.add(index)
            elif own_ends not in over:
                seen.add(end)
        return frozenset(found)

    def _sender(self, index: int) -> IPAddress | None:
        """The address that sent our connection `index` (as in `reused`); None: the client's own."""
        sources = self.seen.sources
        return sources[index % len(sources)] if sources and index < self.seen.batch.sent else None

    @cached_property
    def fresh(self) -> tuple[str | None, ...]:
        """Who answered each request that was a new connection to IPVS, in order."""
        answers = self.seen.batch.answers()
        return tuple(name for index, name in enumerate(answers) if index not in self.reused)

    @cached_property
    def senders(self) -> tuple[IPAddress, ...]:
        """The client's address behind each of `fresh`; empty where it has one alone."""
        sources = self.seen.sources
        if not sources:
            return ()
        sent = range(self.seen.batch.sent)
        return tuple(sources[i % len(sources)] for i in sent if i not in self.reused)

    @cached_property
    def client_addresses(self) -> frozenset[IPAddress]:
        own = (face.ip for _, face in self.after(self.cluster.client or "").addresses)
        return frozenset((*own, *self.seen.sources))

    @cached_property
    def followed(self) -> Counter[str]:
        """At most so many of `reused` did each server count after all."""
        answers = self.seen.batch.answers()
        found = Counter(answers[i] for i in self.reused if i < len(answers))
        sized = sum(1 for index in self.reused if index >= len(answers))
        return Counter({s.name: found[s.name] + sized for s in self.cluster.real_servers})

    @property
    def own(self) -> int:
        """Connections that we made to the service (probes go to services of their own)."""
        return self.seen.batch.sent + len(self.seen.transfers) - len(self.reused)

    @property
    def foreign(self) -> int:
        """Connections that the director counted beyond ours."""
        if self.total is None:
            return 0
        return max(0, self.total.conns - self.own - self.under_way - len(self.reused))

    @property
    def under_way(self) -> int:
        """Connections that a batch may have made beyond those it told of, when it was stopped."""
        return UNDER_WAY if self.seen.batch.stopped else 0

    @cached_property
    def _ends(self) -> Mapping[tuple[IPAddress | None, int], str]:
        """The sender (None: the client's own address) and its port -> the server that the
        connection was given to. Many addresses may have used one port.
        """
        ports = (test_port(self.cluster), *self.cluster.service.ports)
        names = {
            (s.address, port): s.name
            for s in self.cluster.real_servers
            for port in ([s.port] if s.port else ports)
        }
        clients, sources = self.client_addresses, frozenset(self.seen.sources)
        return {
            (address if address in sources else None, port): names[entry.server]
            for entry in self.director.connections
            for address, port in [entry.client]
            if entry.server in names and entry.virtual[0] == self.vip and address in clients
        }

    @cached_property
    def _again(self) -> frozenset[int]:
        """Ports that the client's own address used more than once: the entry that is listed may be
        the former connection's.
        """
        batch = () if self.seen.sources else self.seen.batch.ports
        used = Counter((*batch, *(transfer.port for transfer in self.seen.transfers)))
        twice = (port for port, number in used.items() if number > 1)
        return frozenset((*self._before(self.cluster.director).open_ports, *twice))

    def given_to(self, port: int, sender: IPAddress | None = None) -> str | None:
        """None: nobody can say."""
        if sender is None and port in self._again:
            return None
        return self._ends.get((sender, port))

    @cached_property
    def moved(self) -> Counter[str]:
        """Sized requests by the server they were given to, as far as that is known."""
        first = self.seen.batch.sent
        names = (
            self.given_to(transfer.port)
            for index, transfer in enumerate(self.seen.transfers, first)
            if index not in self.reused
        )
        return Counter(name for name in names if name is not None)

    @property
    def unplaced(self) -> int:
        """New connections of sized requests that nobody can say who got."""
        sent = self.seen.batch.sent
        old = sum(1 for index in self.reused if index >= sent)
        return len(self.seen.transfers) - old - self.moved.total()

    @cached_property
    def lost(self) -> Counter[str]:
        """Failed requests by the server they were given to."""
        batch = self.seen.batch
        failed = [index for index, name in enumerate(batch.answers()) if name is None]
        names = [self.given_to(batch.ports[index], self._sender(index)) for index in failed]
        found = Counter(name for name in names if name is not None)
        if found.total() == self.failed:
            return found
        missing = {
            server.name: self.given.get(server.name, Counters()).conns
            - self.answered[server.name]
            - self.moved[server.name]
            - self.unplaced
            for server in self.cluster.real_servers
        }
        # what is missing beyond our failures was under way, or not ours: rather not the fault of
        # a server that answers and misses little
        beyond = sum(max(0, number) for number in missing.values()) - self.failed
        for name in sorted(missing, key=lambda name: (not self.answered[name], missing[name])):
            left = max(0, missing[name])
            drop = min(left, max(0, beyond))
            beyond -= drop
            found[name] = max(found[name], min(left - drop, self.failed))
        return +found

    def rise(self, host: str, counter: str) -> int:
        """By how much one of a host's counters rose."""
        return self.after(host).counters.get(counter, 0) - self._before(host).counters.get(
            counter, 0
        )

    def received(self, host: str, device: str) -> int | None:
        """Packets that came in by a device in the meantime; None: no such device."""
        after = self.after(host).received.get(device)
        return None if after is None else after - self._before(host).received.get(device, 0)

    def logged(self, server: str) -> int | None:
        """Lines that the server's access log grew by."""
        after, before = self.after(server).log_lines, self._before(server).log_lines
        return None if after is None or before is None else after - before

    @cached_property
    def _macs(self) -> Mapping[str, str]:
        return {
            link.mac: name
            for snapshots in (self.seen.before, self.seen.after)
            for name, snapshot in snapshots.items()
            for link in snapshot.links
            if link.mac and link.mac != "00:00:00:00:00:00"
        }

    def host_of_mac(self, mac: str) -> str | None:
        """The host that itself says it has this MAC."""
        return self._macs.get(mac)

    def named_mac(self, mac: str) -> str:
        name = self.host_of_mac(mac)
        return f"{mac} ({name})" if name else f"{mac} (none of the hosts looked at)"

    def host_of_address(self, address: IPAddress) -> str | None:
        for name, snapshot in self.seen.after.items():
            if address != self.vip and snapshot.has_address(address) is not None:
                return name
        return None

    def named_address(self, address: IPAddress) -> str:
        name = self.host_of_address(address)
        return f"{address} ({name})" if name else str(address)
