"""The fleet from Python, on shells of this machine: what Ctrl-C and a lost host come to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lvsfab import api, copy
from lvsfab.api import Fleet, HostResult, State
from lvsfab.errors import UnreachableError
from lvsfab.model import Host, Inventory
from lvsfab.session import Shell
from tests.unit.local import LocalChannel

NAMES = ("a", "b", "c")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    def opener(_: object, prelude: str, sudo: bool = False) -> Callable[[str], Shell]:
        return lambda host: Shell(host, LocalChannel(), prelude)

    monkeypatch.setattr(api, "opener", opener)
    return Fleet(Inventory("t", {name: Host(name, frozenset({"real_server"})) for name in NAMES}))


def ctrl_c_when(happened: Callable[[], bool]) -> None:
    """Ctrl-C to this process once it happened."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_ctrl_c_while_facts_are_asked_starts_no_command(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hosts not asked yet have no facts, and would match `not fact:...`."""
    asked, mark = tmp_path / "asked", tmp_path / "mark"
    monkeypatch.setattr("lvsfab.facts.SCRIPT", f": >{asked}; sleep 1; rec facts true")
    ctrl_c_when(asked.exists)
    with pytest.raises(KeyboardInterrupt):
        fleet.run("not fact:os=none", shell=f": >{mark}")
    assert not mark.exists()


def test_ctrl_c_ends_a_copy_before_it_changes_anything(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each host is between its read and its change: it gets no further script."""
    source, to, read = tmp_path / "source", tmp_path / "to", tmp_path / "read"
    source.write_text("x")
    prelude = copy.PRELUDE.replace("c_state() {", f"c_state() {{ echo on >>{read}; sleep 2")
    monkeypatch.setattr("lvsfab.copy.PRELUDE", prelude)
    ctrl_c_when(lambda: read.exists() and read.read_text() == "on\n" * len(NAMES))
    told: list[HostResult] = []
    done = fleet.put("*", source, str(to), on_result=told.append)
    assert (done.interrupted, done.unsure, done.exit_code) == (True, (), 130)
    assert {r.state for r in done.results.values()} == {State.STOPPED}
    assert sorted(r.host for r in told) == sorted(NAMES)
    time.sleep(0.5)
    assert not to.exists()


def test_a_host_still_connecting_at_ctrl_c_is_not_run(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark, begun, go_on = tmp_path / "mark", tmp_path / "begun", threading.Event()

    def opener(_: object, prelude: str, sudo: bool = False) -> Callable[[str], Shell]:
        def connect(host: str) -> Shell:
            if host == "c":
                go_on.wait(20)
            return Shell(host, LocalChannel(), prelude)

        return connect

    monkeypatch.setattr(api, "opener", opener)
    ctrl_c_when(lambda: begun.exists() and begun.read_text() == "on\non\n")
    done = fleet.run("*", shell=f"echo on >>{begun}; sleep 30; : >{mark}")
    states = {host: result.state for host, result in done.results.items()}
    assert states == {"a": State.STOPPED, "b": State.STOPPED, "c": State.NOT_RUN}
    go_on.set()
    time.sleep(0.5)
    assert not mark.exists()


def test_an_unreachable_host_is_one_result_of_an_apply_in_two_steps(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yml"
    recipe.write_text(
        "name: mine\ntitle: two files\nsteps:\n"
        "  - on: real_server\n    do:\n      - file: {path: /srv/one, content: hello}\n"
        "  - on: real_server\n    do:\n      - file: {path: /srv/two, content: hello}\n"
    )

    def connect(name: str) -> Shell:
        raise UnreachableError(name, "no route")

    monkeypatch.setattr(api, "opener", lambda *_: connect)
    told: list[HostResult] = []
    done = fleet.apply(recipe, on_result=told.append)
    assert {h: r.state for h, r in done.results.items()} == dict.fromkeys(NAMES, State.UNREACHABLE)
    assert done.exit_code == 4
    assert len(told) == 3
