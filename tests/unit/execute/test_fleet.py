"""Windows, batches, bounds on failures; parsing of shares; the last run's record."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.errors import CommandError, InputError, UnreachableError
from lvsfab.execute import last
from lvsfab.execute.fleet import Round, Watch, each, rounds
from lvsfab.execute.limits import Limits, share
from lvsfab.execute.task import HostResult, State, exit_code

HOSTS = [f"h{i}" for i in range(10)]


def ok(host: str) -> HostResult:
    return HostResult(host, State.OK, 0)


def ignore(_: HostResult) -> None: ...


def ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def test_every_host_has_a_result_and_no_more_run_at_once_than_allowed() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(host: str) -> HostResult:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return ok(host)

    told: list[str] = []
    done = each(HOSTS, work, Limits(parallel=3), lambda r: told.append(r.host), Watch())
    assert sorted(told) == HOSTS
    assert set(done.results) == set(HOSTS)
    assert most == 3


def test_a_batch_waits_for_the_one_before() -> None:
    order: list[str] = []

    def work(host: str) -> HostResult:
        order.append(host)
        time.sleep(0.02 if host in ("h0", "h4") else 0)
        return ok(host)

    each(HOSTS, work, Limits(batch=share("4")), ignore, Watch())
    assert [set(order[:4]), set(order[4:8]), set(order[8:])] == [
        set(HOSTS[:4]), set(HOSTS[4:8]), set(HOSTS[8:]),
    ]  # fmt: skip


def test_too_many_failures_end_the_run() -> None:
    def work(host: str) -> HostResult:
        raise CommandError(host, "no")

    done = each(HOSTS, work, Limits(parallel=1, max_fail=share("20%")), ignore, Watch())
    states = [done.results[h].state for h in HOSTS]
    assert states == [State.FAILED] * 2 + [State.NOT_RUN] * 8
    assert exit_code(done.results) == 5


def test_errors_are_results_and_faults_of_ours_are_not() -> None:
    def work(host: str) -> HostResult:
        if host == "h1":
            raise UnreachableError(host, "no route", tip="look")
        return ok(host)

    done = each(HOSTS, work, Limits(), ignore, Watch())
    assert done.results["h1"].state is State.UNREACHABLE
    assert (done.results["h1"].error, done.results["h1"].tip) == ("no route", "look")
    assert exit_code(done.results) == 4

    def broken(host: str) -> HostResult:
        raise ZeroDivisionError(host)

    with pytest.raises(ZeroDivisionError):
        each(HOSTS, broken, Limits(), ignore, Watch())


class Held:
    """A shell whose command runs until its input ends."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def end_input(self) -> None:
        self.ended.set()


def test_ctrl_c_stops_what_runs_and_begins_no_more() -> None:
    watch = Watch()
    begun = threading.Event()

    def work(host: str) -> HostResult:
        held = Held()
        watch.begin(host, held, 60)
        begun.set()
        assert held.ended.wait(10)
        watch.end(host)
        return HostResult(host, State.FAILED, 143)

    def interrupt() -> None:
        begun.wait(5)
        time.sleep(0.1)
        ctrl_c()

    threading.Thread(target=interrupt, daemon=True).start()
    done = each(HOSTS, work, Limits(parallel=2), ignore, watch)
    assert done.interrupted
    assert [done.results[h].state for h in HOSTS] == [State.STOPPED] * 2 + [State.NOT_RUN] * 8
    assert exit_code(done.results) == 130


def test_a_host_that_never_answers_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.execute.fleet.STOPPING", 0.2)
    release, watch = threading.Event(), Watch()

    def work(host: str) -> HostResult:
        watch.begin(host, Held(), 60)
        release.wait(20)
        return ok(host)

    timer = threading.Timer(0.2, ctrl_c)
    timer.start()
    told: list[HostResult] = []
    done = each(HOSTS[:1], work, Limits(), told.append, watch)
    release.set()
    assert done.unsure == ("h0",)
    assert "did not say" in done.results["h0"].error
    assert told == [done.results["h0"]]


def test_a_second_ctrl_c_while_the_first_stops_hosts_ends_it_at_once() -> None:
    """To end a host's input is a packet to send: it may take its time."""
    release, watch = threading.Event(), Watch()

    class Stuck(Held):
        def end_input(self) -> None:
            ctrl_c()
            time.sleep(0.1)

    def work(host: str) -> HostResult:
        watch.begin(host, Stuck())
        release.wait(20)
        return ok(host)

    threading.Timer(0.2, ctrl_c).start()
    began = time.monotonic()
    done = each(HOSTS[:1], work, Limits(), ignore, watch)
    release.set()
    assert time.monotonic() - began < 3
    assert (done.interrupted, done.unsure) == (True, ("h0",))


def test_a_link_that_ends_by_ctrl_c_is_no_unreachable_host() -> None:
    watch = Watch()

    def work(host: str) -> HostResult:
        held = Held()
        watch.begin(host, held)
        assert held.ended.wait(10)
        raise UnreachableError(host, "link lost: its input has ended")

    threading.Timer(0.2, ctrl_c).start()
    done = each(HOSTS[:1], work, Limits(), ignore, watch)
    assert done.results["h0"] == HostResult("h0", State.STOPPED, seconds=done.results["h0"].seconds)


def test_a_round_is_begun_when_the_one_before_went_well() -> None:
    order: list[str] = []

    def work(name: str, bad: str = "") -> Callable[[str], HostResult]:
        def one(host: str) -> HostResult:
            order.append(f"{name} {host}")
            if host == bad:
                raise CommandError(host, "no")
            return HostResult(host, State.OK, 0, changes=1)

        return one

    def result(*todo: Round, limits: Limits) -> dict[str, tuple[State, int]]:
        order.clear()
        told: list[HostResult] = []
        done = rounds(todo, limits, told.append, Watch())
        heard = [r.host for r in told]
        assert sorted(heard) == [
            h for h, r in done.results.items() if r.state is not State.NOT_RUN
        ]  # each once, at its end
        return {host: (r.state, r.changes) for host, r in done.results.items()}

    one, two = Round("1", HOSTS[:2], work("1")), Round("2", HOSTS[1:3], work("2"))
    alone = Limits(parallel=1)
    assert result(one, two, limits=alone) == {
        "h0": (State.OK, 1), "h1": (State.OK, 2), "h2": (State.OK, 1),
    }  # fmt: skip
    assert order == ["1 h0", "1 h1", "2 h1", "2 h2"]
    bad = Round("1", HOSTS[:2], work("1", bad="h0"))
    assert result(bad, two, limits=alone) == {
        "h0": (State.FAILED, 0), "h1": (State.NOT_RUN, 1), "h2": (State.NOT_RUN, 0),
    }  # fmt: skip
    assert order == ["1 h0", "1 h1"]
    fast = Limits(parallel=1, max_fail=share("1"))
    assert result(bad, two, limits=fast) == {
        "h0": (State.FAILED, 0), "h1": (State.NOT_RUN, 0), "h2": (State.NOT_RUN, 0),
    }  # fmt: skip
    assert order == ["1 h0"]


@given(st.integers(1, 5000), st.integers(1, 100))
def test_a_percentage_is_at_least_one_host(hosts: int, percent: int) -> None:
    number = share(f"{percent}%").of(hosts)
    assert 1 <= number <= hosts
    assert number >= hosts * percent / 100
    assert sum(map(len, Limits(batch=share(f"{percent}%")).batches(HOSTS))) == len(HOSTS)


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1.5", "x", "5%%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        share(text, "--batch")


def test_the_last_run_is_remembered_by_inventory(tmp_path: Path) -> None:
    folder = tmp_path / "lvsfab"
    with pytest.raises(InputError, match="no run on inventory"):
        last.failed_hosts(folder, "a")
    results = [ok("x"), HostResult("y", State.FAILED, 1), HostResult("z", State.NOT_RUN)]
    last.write(folder, "a", {result.host: result for result in results})
    assert last.failed_hosts(folder, "a") == ("y", "z")
    last.write(folder, "a", {"x": ok("x")})
    assert last.failed_hosts(folder, "a") == ()
    assert [p.name for p in folder.iterdir()] == ["a.json"]
    (folder / "a.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        last.failed_hosts(folder, "a")


def test_a_state_directory_that_cannot_be_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    last.write(tmp_path / "file", "a", {"x": ok("x")})
