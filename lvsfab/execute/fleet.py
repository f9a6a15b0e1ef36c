"""The loop over the hosts: a window of workers, batches, a bound on failures, one way to stop.

`Watch` holds what runs now. Ctrl-C and time-outs work alike: the host's standard input is ended,
which makes its watcher stop the command (see script.py), and its answer says that it did.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from lvsfab.errors import CommandError, HostError, UnreachableError
from lvsfab.execute.limits import Limits
from lvsfab.execute.task import HostResult, State

STOPPING = 5.0  # s that a host has to say that its command was stopped

Work = Callable[[str], HostResult]
Told = Callable[[HostResult], None]


class Endable(Protocol):
    """What a watch can end: a shell."""

    def end_input(self) -> None: ...


class StoppedError(UnreachableError):
    """Ctrl-C came before anything was begun on the host."""


class Watch:
    """What runs now, by host, and until when. One thread serves all time-outs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, str]] = []
        self._running: dict[str, Endable] = {}
        self._late: set[str] = set()
        self.begun: set[str] = set()
        self._count = itertools.count()
        self._thread: threading.Thread | None = None
        self.stopping = False

    def begin(self, host: str, shell: Endable, timeout: float | None = None) -> None:
        """Before anything is sent to `shell`; `timeout`: s until it is stopped. StoppedError."""
        with self._changed:
            self.check(host)
            self._running[host] = shell
            self.begun.add(host)
            self._late.discard(host)
            if timeout is None:
                return
            heapq.heappush(self._due, (time.monotonic() + timeout, next(self._count), host))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="watch", daemon=True)
                self._thread.start()
            self._changed.notify()

    def check(self, host: str) -> None:
        """StoppedError once all was told to stop."""
        if self.stopping:
            raise StoppedError(host, "stopped before it began")

    def end(self, host: str) -> bool:
        """The host is done; True when its time was over before."""
        with self._changed:
            self._running.pop(host, None)
            return host in self._late

    def stop(self) -> tuple[str, ...]:
        """Stop every command that runs; the hosts they run on."""
        with self._changed:
            self.stopping = True
            running = dict(self._running)
        for shell in running.values():
            _end(shell)
        return tuple(running)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                left = self._due[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                _, _, host = heapq.heappop(self._due)
                shell = self._running.get(host)
                if shell is not None:
                    self._late.add(host)
            if shell is not None:
                _end(shell)


def _end(shell: Endable) -> None:
    with suppress(OSError, EOFError):
        shell.end_input()


@dataclass(slots=True)
class Fleet:
    """Results as they came. `interrupted`: by Ctrl-C; `unsure`: hosts that did not say that their
    command was stopped.
    """

    results: dict[str, HostResult] = field(default_factory=dict)
    interrupted: bool = False
    unsure: tuple[str, ...] = ()


def each(hosts: Sequence[str], work: Work, limits: Limits, told: Told, watch: Watch) -> Fleet:
    """`work` on every host within the limits; `told` of each result, from this thread.

    HostErrors become results; any other exception is a fault of ours, or of who listens, and ends
    the run: what a host says and cannot be read is a HostError where it is read. A
    KeyboardInterrupt stops what runs, and is told by `Fleet.interrupted`.
    """
    fleet = Fleet()
    failed = 0
    for batch in limits.batches(hosts):
        if fleet.interrupted or limits.too_many(failed, len(hosts)):
            break
        already = failed

        def enough(now: int, before: int = already) -> bool:
            return limits.too_many(before + now, len(hosts))

        pool = _Pool(batch, work, enough)
        try:
            pool.start(limits.parallel)
            for _ in batch:
                result = pool.next()
                if result is None:
                    break
                fleet.results[result.host] = result
                failed += result.state is not State.OK
                told(result)
        except KeyboardInterrupt:
            fleet.interrupted = True
            _interrupt(fleet, pool, told, watch)
        except BaseException:  # whoever listens is gone, or a fault of ours: nothing runs on
            pool.todo.clear()
            watch.stop()
            raise
        finally:
            pool.todo.clear()
    for host in hosts:
        if host not in fleet.results:
            fleet.results[host] = HostResult(host, State.NOT_RUN)
    return fleet


@dataclass(frozen=True, slots=True)
class Round:
    name: str
    hosts: Sequence[str]
    work: Work


def rounds(
    todo: Sequence[Round],
    limits: Limits,
    told: Told,
    watch: Watch,
    begun: Callable[[Round], None] = lambda _: None,
) -> Fleet:
    """Rounds of work, each within the limits and begun only when the one before went well on all
    its hosts. A host's result has the changes and the seconds of all its rounds.
    """
    fleet = Fleet({host: HostResult(host, State.NOT_RUN) for each_ in todo for host in each_.hosts})
    last = {host: each_ for each_ in todo for host in each_.hosts}
    for now in todo:

        def heard(result: HostResult, now: Round = now) -> None:
            was = fleet.results[result.host]
            result = replace(
                result, changes=was.changes + result.changes, seconds=was.seconds + result.seconds
            )
            fleet.results[result.host] = result
            if result.state is not State.OK or last[result.host] is now:
                told(result)

        begun(now)
        found = each(now.hosts, now.work, limits, heard, watch)
        fleet.interrupted, fleet.unsure = found.interrupted, found.unsure
        bad = {result.host for result in found.results.values() if result.state is not State.OK}
        if bad or fleet.interrupted:
            coming = {h for later in todo[todo.index(now) + 1 :] for h in later.hosts} - bad
            coming |= {h for h in bad if found.results[h].state is State.NOT_RUN}
            for host in coming:
                was = fleet.results[host]
                fleet.results[host] = replace(was, state=State.NOT_RUN, status=None)
            break
    return fleet


def _interrupt(fleet: Fleet, pool: _Pool, told: Told, watch: Watch) -> None:
    """Hosts that are yet being connected to are not waited for: they will begin nothing."""
    pool.todo.clear()
    deadline = time.monotonic() + STOPPING
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: without waiting for their word
        ended = watch.stop()
        while watch.begun.intersection(pool.busy) and (left := deadline - time.monotonic()) > 0:
            result = pool.next(left)
            if result is None:
                break
            if result.host in ended:
                result = _stopped(result)
            fleet.results[result.host] = result
            if result.state is not State.NOT_RUN:
                told(result)
    fleet.unsure = tuple(host for host in pool.busy if host in watch.begun)
    for host in fleet.unsure:
        error = f"did not say within {STOPPING:.0f} s that its command was stopped"
        fleet.results[host] = HostResult(host, State.STOPPED, error=error)
        told(fleet.results[host])


def _stopped(result: HostResult) -> HostResult:
    """Of a host whose input was ended by us."""
    if result.state in (State.UNREACHABLE, State.NOT_RUN):  # no link is what we made
        return replace(result, state=State.STOPPED, error="", tip="")
    return replace(result, state=State.STOPPED) if result.state is State.FAILED else result


class _Pool:
    """Daemon threads, so that a host which hangs cannot keep the program from ending."""

    def __init__(self, hosts: Sequence[str], work: Work, enough: Callable[[int], bool]) -> None:
        self.todo = deque(hosts)
        self._enough = enough  # whether so many failures are the end: asked before a next host
        self._failed = 0
        self._lock = threading.Lock()
        self.busy: dict[str, None] = {}
        self._work = work
        self._done: queue.SimpleQueue[HostResult | BaseException | None] = queue.SimpleQueue()
        self._workers = 0

    def start(self, parallel: int) -> None:
        for i in range(min(parallel, len(self.todo))):
            self._workers += 1
            threading.Thread(target=self._worker, name=f"host-{i}", daemon=True).start()

    def next(self, timeout: float | None = None) -> HostResult | None:
        """The next result; None when no more will come (or none within `timeout` seconds)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._workers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                found = self._done.get(timeout=left)
            except queue.Empty:
                return None
            if found is None:
                self._workers -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                self.busy.pop(found.host, None)
                return found
        return None

    def _worker(self) -> None:
        while True:
            try:
                host = self.todo.popleft()
            except IndexError:  # another took the last one, or the run is over
                self._done.put(None)
                return
            self.busy[host] = None
            try:
                result = self._one(host)
                if result.state is not State.OK:
                    self._count()
                self._done.put(result)
            except BaseException as error:
                self._done.put(error)

    def _count(self) -> None:
        with self._lock:
            self._failed += 1
            if self._enough(self._failed):
                self.todo.clear()

    def _one(self, host: str) -> HostResult:
        began = time.monotonic()
        try:
            return self._work(host)
        except HostError as error:
            return failure(host, error, time.monotonic() - began)


def failure(host: str, error: HostError, seconds: float = 0.0) -> HostResult:
    state = State.UNREACHABLE if isinstance(error, UnreachableError) else State.FAILED
    command = error if isinstance(error, CommandError) else None
    return HostResult(
        host,
        State.NOT_RUN if isinstance(error, StoppedError) else state,
        status=command.status if command is not None else None,
        output=error.output if isinstance(error, CommandError | UnreachableError) else "",
        error=error.message,
        tip=error.tip,
        seconds=seconds,
    )
