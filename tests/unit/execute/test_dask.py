"""Shares of the hosts done by two further controllers on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lvsfab.errors import InputError, LvsfabError
from lvsfab.execute.limits import Limits, share
from lvsfab.execute.task import HostResult, State, Task, exit_code
from lvsfab.execute.via_dask import run_via
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
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1",
        ) as found:  # fmt: skip
            yield found.scheduler_address.replace("tcp://", "dask://")


def endpoints(number: int) -> list[Endpoint]:
    return [Endpoint(f"h{i}", "127.0.0.1", NOWHERE, "nobody") for i in range(number)]


def via(url: str, number: int, limits: Limits | None = None) -> tuple[Any, Told]:
    told = Told([], [])
    task = Task(argv=("true",), timeout=5)
    done = run_via(
        url, endpoints(number), task, limits or Limits(),
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


@pytest.mark.parametrize("url", ["tcp://a", "dask://", "x"])
def test_what_is_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        via(url, 1)


def test_no_scheduler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.execute.via_dask.CONNECT_TIMEOUT", 1.0)
    with pytest.raises(LvsfabError, match="no dask scheduler"):
        via(f"dask://127.0.0.1:{NOWHERE}", 1)
