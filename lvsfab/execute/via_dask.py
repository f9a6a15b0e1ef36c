"""Past one machine: shares of the hosts go to further controllers, the workers of a dask cluster
(`pip install lvsfab[dask]`; `lvsfab run --via dask://SCHEDULER:8786`).

A worker needs lvsfab, a route to the hosts, and the keys that log in to them. Endpoints travel,
secrets do not: a key is named by its path. Lines come back as each share ends, not each line as
it happens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lvsfab.errors import InputError, LvsfabError
from lvsfab.execute import fleet as loop
from lvsfab.execute.limits import Limits
from lvsfab.execute.remote import run_on, run_script
from lvsfab.execute.script import PRELUDE
from lvsfab.execute.task import HostResult, State, Task

if TYPE_CHECKING:
    from lvsfab.session import Shell
    from lvsfab.transports.endpoint import Endpoint

CONNECT_TIMEOUT = 15.0  # s to reach the scheduler
LOST = "its worker was lost; whether its command ran to the end is not known"
SHARE = 32  # hosts in one share: small enough that a slow worker delays few

Told = Callable[[HostResult], None]
Line = Callable[[str, str], None]


def run_share(
    endpoints: Sequence[Endpoint], task: Task, parallel: int, begun: str
) -> list[HostResult]:
    """On a worker: a share of the hosts, as one controller would do it. `begun`: the name of an
    event. The scheduler gives what a lost worker had to another: that one must not do it again.
    """
    from lvsfab.session import Shell  # on the worker
    from lvsfab.transports.ssh import connect

    distributed: Any = import_module("distributed")
    worker = distributed.get_worker()  # an Event of its own would need a client, and threads race
    ask, scheduler = partial(distributed.utils.sync, worker.loop), worker.scheduler
    if ask(scheduler.event_is_set, name=begun):
        return _lost([endpoint.name for endpoint in endpoints], LOST)
    ask(scheduler.event_set, name=begun)
    by_name = {endpoint.name: endpoint for endpoint in endpoints}

    def open_shell(host: str) -> Shell:
        return Shell(host, connect(by_name[host]), PRELUDE)

    watch = loop.Watch()
    work = run_on(open_shell, task, run_script(task), watch)
    done = loop.each(list(by_name), work, Limits(parallel), lambda _: None, watch)
    return list(done.results.values())


def _lost(hosts: Sequence[str], why: str) -> list[HostResult]:
    return [HostResult(host, State.FAILED, error=why) for host in hosts]


def run_via(
    url: str,
    endpoints: Sequence[Endpoint],
    task: Task,
    limits: Limits,
    on_line: Line | None,
    on_result: Told,
) -> loop.Fleet:
    """`fleet.each`, by the workers of the cluster at `url`. The bound on failures holds from
    batch to batch: what a worker may have begun is waited for. Ctrl-C cancels what none has begun.
    """
    client = _client(url)
    ready = {e.name: e for e in endpoints}
    done = loop.Fleet()
    failed = 0
    try:
        for batch in limits.batches(list(ready)):
            if limits.too_many(failed, len(ready)):
                break
            for results in _shares(client, [ready[name] for name in batch], task, limits):
                for result in results:
                    done.results[result.host] = result
                    failed += result.state is not State.OK
                    if on_line is not None:
                        for line in lines(result.output):
                            on_line(result.host, line)
                    on_result(result)
    except KeyboardInterrupt:
        done.interrupted = True
        done.unsure = tuple(name for name in ready if name not in done.results)
        for name in done.unsure:
            done.results[name] = HostResult(name, State.STOPPED, error="left with its worker")
            on_result(done.results[name])
    finally:
        client.close()
    for name in ready:
        done.results.setdefault(name, HostResult(name, State.NOT_RUN))
    return done


def lines(output: str) -> list[str]:
    """As the live output has them: they end with a newline and with nothing else."""
    return output.removesuffix("\n").split("\n") if output else []


def _client(url: str) -> Any:
    scheme, separator, address = url.partition("://")
    if scheme != "dask" or not separator or not address:
        raise InputError(f"`{url}` is not dask://HOST:PORT", key="--via")
    try:
        distributed: Any = import_module("distributed")  # an extra, and heavy
    except ImportError:
        raise InputError(
            "--via needs dask.distributed", tip="pip install 'lvsfab[dask]', here and on workers"
        ) from None
    try:
        return distributed.Client(f"tcp://{address}", timeout=CONNECT_TIMEOUT)
    except (OSError, TimeoutError) as error:
        raise LvsfabError(f"no dask scheduler at {address}: {error}") from None


def _shares(client: Any, endpoints: Sequence[Endpoint], task: Task, limits: Limits) -> Any:
    """Shares of hosts to workers; each share's results as it ends."""
    distributed: Any = import_module("distributed")
    if any(endpoint.dial is not None for endpoint in endpoints):
        raise InputError("a lab's hosts are reached from this machine alone", key="--via")
    if any(endpoint.sudo_password is not None for endpoint in endpoints):
        raise InputError("a password does not travel to other controllers", key="--via")
    slots = max(1, sum(client.nthreads().values()))
    number, parallel = windows(limits.parallel, slots)
    size = max(1, min(SHARE, -(-len(endpoints) // number)))
    todo = [list(endpoints[i : i + size]) for i in range(0, len(endpoints), size)]
    todo.reverse()
    shares: dict[Any, tuple[list[Endpoint], Any]] = {}
    coming: Any = distributed.as_completed()

    def submit() -> None:
        """One more; no more than `number` are there at once, however many threads workers have."""
        if todo:
            share, begun = todo.pop(), f"lvsfab-{secrets.token_hex(12)}"
            future = client.submit(run_share, share, task, parallel, begun, pure=False, retries=0)
            shares[future] = share, distributed.Event(begun, client=client)
            coming.add(future)

    try:
        for _ in range(number):
            submit()
        for future in coming:
            share, begun = shares.pop(future)
            error = future.exception()
            begun.clear()  # or the scheduler would keep it
            names = [endpoint.name for endpoint in share]
            if error is None:
                yield future.result()
            elif type(error).__name__ == "KilledWorker":
                yield _lost(names, LOST)
            else:
                yield _lost(names, f"its worker failed: {type(error).__name__}: {error}")
            submit()
    finally:
        client.cancel(list(shares))


def windows(parallel: int, slots: int) -> tuple[int, int]:
    """How many shares at once, on workers with `slots` threads in all, and how many hosts at once
    in each: never more than `parallel` together.
    """
    number = min(parallel, slots)
    return number, parallel // number
