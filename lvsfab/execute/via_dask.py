"""Past one machine: shares of the hosts go to further controllers, the workers of a dask cluster
(`pip install lvsfab[dask]`; `lvsfab run --via dask://SCHEDULER:8786`).

A worker needs lvsfab, a route to the hosts, and the keys that log in to them. Endpoints travel,
secrets do not: a key is named by its path. Lines come back as each share ends, not each line as
it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
SHARE = 32  # hosts in one share: small enough that a slow worker delays few

Told = Callable[[HostResult], None]
Line = Callable[[str, str], None]


def run_share(endpoints: Sequence[Endpoint], task: Task, parallel: int) -> list[HostResult]:
    """On a worker: a share of the hosts, as one controller would do it."""
    from lvsfab.session import Shell  # on the worker
    from lvsfab.transports.ssh import connect

    by_name = {endpoint.name: endpoint for endpoint in endpoints}

    def open_shell(host: str) -> Shell:
        return Shell(host, connect(by_name[host]), PRELUDE)

    watch = loop.Watch()
    work = run_on(open_shell, task, run_script(task), watch)
    done = loop.each(list(by_name), work, Limits(parallel), lambda _: None, watch)
    return list(done.results.values())


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
                        for line in result.output.splitlines():
                            on_line(result.host, line)
                    on_result(result)
    except KeyboardInterrupt:
        done.interrupted = True
        done.unsure = tuple(name for name in ready if name not in done.results)
        for name in done.unsure:
            done.results[name] = HostResult(name, State.STOPPED, error="left with its worker")
    finally:
        client.close()
    for name in ready:
        done.results.setdefault(name, HostResult(name, State.NOT_RUN))
    return done


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
    workers = max(1, len(client.scheduler_info()["workers"]))
    parallel = max(1, limits.parallel // workers)
    size = max(1, min(SHARE, -(-len(endpoints) // workers)))
    shares = [list(endpoints[i : i + size]) for i in range(0, len(endpoints), size)]
    futures = [
        client.submit(run_share, share, task, parallel, pure=False, retries=0) for share in shares
    ]
    try:
        for future, results in distributed.as_completed(futures, with_results=True):
            del future
            yield results
    finally:
        client.cancel(futures)
