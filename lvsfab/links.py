"""The hosts of a run: one shell on each, opened when it is first needed, and worked on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Self, TypeVar

from lvsfab.errors import HostError
from lvsfab.session import Shell

PARALLEL = 64

T = TypeVar("T")


class Links:
    """Shells on hosts; they stay open until `close`. `handshakes`: connections made, by host."""

    def __init__(self, connect: Callable[[str], Shell]) -> None:
        self._connect = connect
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="host")
        self.shells: dict[str, Shell] = {}
        self.handshakes: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for shell in self.shells.values():
            shell.close()
        self.shells.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def each(
        self, hosts: Iterable[str], work: Callable[[str], T]
    ) -> tuple[dict[str, T], dict[str, HostError]]:
        """`work` for all hosts at once: results, and errors, by host."""
        results: dict[str, T] = {}
        errors: dict[str, HostError] = {}
        futures: dict[Future[T], str] = {self._pool.submit(work, host): host for host in hosts}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except HostError as error:
                errors[futures[future]] = error
        return results, errors

    def shell(self, host: str) -> Shell:
        if host not in self.shells:
            self.shells[host] = self._further(host)
        return self.shells[host]

    def _further(self, host: str) -> Shell:
        """One more connection to a host."""
        self.handshakes[host] = self.handshakes.get(host, 0) + 1
        return self._connect(host)

    def _lose(self, host: str) -> None:
        """A link that failed is not used again: what follows on that host connects anew."""
        shell = self.shells.pop(host, None)
        if shell is not None:
            shell.close()

    def renew(self, hosts: Iterable[str]) -> None:
        """Fresh shells on these hosts; one that cannot be reached has none."""
        for host in (hosts := tuple(hosts)):
            self._lose(host)
        self.each(hosts, self.shell)

    @property
    def execs(self) -> dict[str, int]:
        """How many commands were started over SSH on each host: one shell, however long the run."""
        return {host: shell.execs for host, shell in self.shells.items()}
