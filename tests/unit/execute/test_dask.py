"""Shares of the hosts done by two further controllers on this machine."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.errors import InputError, LvsfabError
from lvsfab.execute.limits import Limits, share
from lvsfab.execute.task import HostResult, State, Task, exit_code
from lvsfab.execute.via_dask import LOST, lines, run_via, windows
from lvsfab.transports.endpoint import Endpoint

distributed = pytest.importorskip("distributed", reason="dask is an extra: lvsfab[dask]")

NOWHERE = 9  # discard: nothing listens there
pytestmark = [pytest.mark.filterwarnings("ignore")]  # dask's own


@dataclass
class Told:
    lines: list[tuple[str, str]]
    results: list[HostResult]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None,
            host="127.0.0.1",
        ) as found:  # fmt: skip
            yield found.scheduler_address.replace("tcp://", "dask://")


def endpoints(number: int) -> list[Endpoint]:
    return [Endpoint(f"h{i}", "127.0.0.1", NOWHERE, "nobody") for i in range(number)]


def via(url: str, number: int | list[Endpoint], limits: Limits | None = None) -> tuple[Any, Told]:
    told = Told([], [])
    task = Task(argv=("true",), timeout=5)
    hosts = endpoints(number) if isinstance(number, int) else number
    done = run_via(
        url, hosts, task, limits or Limits(),
        lambda host, line: told.lines.append((host, line)), told.results.append,
    )  # fmt: skip
    return done, told


def test_two_workers_do_all_hosts_and_say_what_one_would(cluster: str) -> None:
    done, told = via(cluster, 6)
    assert sorted(r.host for r in told.results) == [f"h{i}" for i in range(6)]
    assert {r.state for r in done.results.values()} == {State.UNREACHABLE}
    assert "127.0.0.1 port 9" in done.results["h0"].error
    assert exit_code(done.results) == 4


def test_the_bound_on_failures_holds_between_shares(cluster: str) -> None:
    done, _ = via(cluster, 6, Limits(batch=share("2"), max_fail=share("1")))
    states = [r.state for r in done.results.values()]
    assert states.count(State.NOT_RUN) == 4


class Door:
    """A port where nobody speaks SSH: how often it was knocked at, and by how many at once."""

    def __init__(self, hold: float) -> None:
        self.knocks = self.most = self._now = 0
        self._hold = hold
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.knocked = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def hosts(self, number: int) -> list[Endpoint]:
        port = self._socket.getsockname()[1]
        return [Endpoint(f"h{i}", "127.0.0.1", port, "nobody") for i in range(number)]

    def _serve(self) -> None:
        while True:
            visitor, _ = self._socket.accept()
            threading.Thread(target=self._one, args=(visitor,), daemon=True).start()

    def _one(self, visitor: socket.socket) -> None:
        with visitor:
            with self._lock:
                self.knocks += 1
                self._now += 1
                self.most = max(self.most, self._now)
            self.knocked.set()
            time.sleep(self._hold)
            with self._lock:
                self._now -= 1


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_no_more_hosts_at_once_than_were_allowed_however_many_threads(
    cluster: str, parallel: int
) -> None:
    door = Door(hold=0.3)
    done, _ = via(cluster, door.hosts(6), Limits(parallel=parallel))
    assert len(done.results) == 6
    assert door.knocks >= 6
    assert door.most <= parallel


@given(st.integers(1, 5000), st.integers(1, 500))
def test_shares_never_add_up_to_more(parallel: int, slots: int) -> None:
    number, each = windows(parallel, slots)
    assert 1 <= number <= slots
    assert parallel / 2 < number * each <= parallel


def test_a_fault_in_one_share_is_its_hosts_alone(cluster: str) -> None:
    hosts = endpoints(8)
    hosts[0] = Endpoint("h0", cast("str", b"h0"), NOWHERE, "nobody")  # none that an inventory has
    done, told = via(cluster, hosts)
    assert done.results["h0"].state is State.FAILED
    assert "its worker failed: " in done.results["h0"].error
    states = [done.results[f"h{i}"].state for i in range(8)]  # as they came, in results
    assert states == [State.FAILED] * 2 + [State.UNREACHABLE] * 6  # a share is two hosts
    assert len(told.results) == 8


def test_what_a_lost_worker_had_begun_is_not_begun_again(cluster: str) -> None:
    """The scheduler gives it to another by itself."""
    door = Door(hold=60)
    with distributed.Client(cluster.replace("dask://", "tcp://")) as client:
        workers = client.run(os.getpid)

    def lose() -> None:
        door.knocked.wait(30)
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=lose, daemon=True).start()
    done, _ = via(cluster, door.hosts(1))
    assert door.knocks == 1
    assert done.results["h0"] == HostResult("h0", State.FAILED, error=LOST)


def test_lines_are_those_of_the_live_output() -> None:
    assert [lines(text) for text in ("", "a", "a\n", "a\n\n", "a\rb\x0cc\u2028d\n", "\n")] == [
        [], ["a"], ["a"], ["a", ""], ["a\rb\x0cc\u2028d"], [""],
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["tcp://a", "dask://", "x"])
def test_what_is_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        via(url, 1)


def test_no_scheduler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.execute.via_dask.CONNECT_TIMEOUT", 1.0)
    with pytest.raises(LvsfabError, match="no dask scheduler"):
        via(f"dask://127.0.0.1:{NOWHERE}", 1)
