"""Two controllers: one changes a host at a time, and says who it is."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lvsfab import lock
from lvsfab.engine import Engine
from lvsfab.errors import LockedError, UnreachableError
from lvsfab.lock import Said
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from tests.unit.local import LocalChannel, shell_argv
from tests.unit.test_engine import NAME, Machine, Run, down, up
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture


def test_what_a_lock_says() -> None:
    assert lock.said("held 12 anna@desk process 7\n") == (Said("held", 12, "anna@desk process 7"),)
    assert lock.said(
        "stale 3 \nbroken 4 bob\nstale --5 x\nstale 7777777777777 x\nnonsense\nheld x y\n"
    ) == (
        Said("stale", 3, "unknown"),
        Said("broken", 4, "bob"),
    )


def test_a_refusal_names_owner_host_and_age(machines: dict[str, Machine]) -> None:
    with Run(machines) as first, Run(machines) as second:
        first.read({"d": ()}, owner="anna@desk process 7")
        _, errors = second.read({"d": ()}, owner="bob@desk process 8")
        assert isinstance(errors["d"], LockedError)
        assert str(errors["d"]).startswith("d: is being changed by anna@desk process 7 (for ")
        assert "--break-lock" in errors["d"].tip
        _, errors = first.read({"d": ()}, owner="anna@desk process 7")
        assert not errors  # one's own lock is no obstacle


def test_a_dead_run_is_taken_over_with_a_note(machines: dict[str, Machine]) -> None:
    machines["d"].sh("mkdir -p /run/lvsfab/lock; echo '999999 1 1 ghost' >/run/lvsfab/lock/owner")
    run = Run(machines)
    with run as engine:
        _, errors = engine.read({"d": ()}, owner="me")
        assert not errors
    (note,) = [event.text for event in run.events if event.what == "note"]
    assert note.startswith("took over the lock of ghost, whose run is dead (for ")


@pytest.mark.parametrize("left", ["mkdir claim", ": >owner", "printf 99 >owner"])
def test_a_maker_that_died_before_it_wrote_its_name(
    machines: dict[str, Machine], left: str
) -> None:
    machines["d"].sh(f"mkdir -p /run/lvsfab/lock; cd /run/lvsfab/lock; {left}")
    assert up(machines) == 7
    assert down(machines) == 7
    assert machines["d"].sh("ls -d /run/lvsfab") == ""


def works(shell: Shell) -> None:
    with pytest.raises(UnreachableError):
        shell.run("rec x sleep 60", timeout=30)


def test_break_lock_ends_the_run_that_holds_it(machines: dict[str, Machine]) -> None:
    def connect(host: str) -> Shell:
        return Shell(host, LocalChannel([*machines[host].enter, "sh", "-s"]), prelude())

    with Run(machines) as first:
        first.read({"d": ()}, owner="anna@desk process 7")
        at_work = threading.Thread(target=works, args=(first.shell("d"),))
        at_work.start()
        with Engine(NAME, connect, lambda _: None, break_lock=True) as second:
            reads, errors = second.read({"d": ()}, owner="bob")
            assert not errors
            assert any("ended the run of anna@desk process 7" in n for n in reads["d"].notes)
            at_work.join(timeout=10)
            assert not at_work.is_alive()
            assert "sleep 60" not in machines["d"].sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            with Run(machines) as third:
                _, errors = third.read({"d": ()}, owner="carl")
                assert "is being changed by bob" in str(errors["d"])


@pytest.mark.parametrize("again", range(3))
def test_of_many_that_find_a_dead_lock_one_gets_it(
    machines: dict[str, Machine], again: int
) -> None:
    machines["d"].sh("mkdir -p /run/lvsfab/lock; echo '999999 1 1 ghost' >/run/lvsfab/lock/owner")
    runs = [Run(machines) for _ in range(5)]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda r: r.engine.read({"d": ()}, owner="x")[1], runs))
    try:
        assert sum(not errors for errors in results) == 1
        assert all(isinstance(e["d"], LockedError) for e in results if e)
    finally:
        for run in runs:
            run.engine.close()


GHOST = "mkdir -p /run/lvsfab/lock; echo '999999 1 1 ghost' >/run/lvsfab/lock/owner"
STALL = """
stall() { # once, until the test says go on
  [ -e /run/stalled ] && return
  : >/run/stalled
  until [ -e /run/go ]; do sleep 0.1; done
}
"""
MAKING = "lock_now() { stall; read -r l_now _ </proc/uptime; l_now=${l_now%.*}; }"
NAMING = 'ln() { stall; command ln "$@"; }'


@pytest.mark.parametrize(
    ("name", "before", "at"),
    [
        ("dash", "", MAKING),
        ("busybox", "", MAKING),
        ("dash", "", NAMING),
        ("dash", "mkdir -p /run/lvsfab/lock", NAMING),
        ("dash", GHOST, NAMING),
        ("busybox", GHOST, NAMING),
    ],
    ids=["made", "made (busybox)", "named", "nobody's", "a dead one's", "a dead one's (busybox)"],
)
def test_a_run_that_stalls_while_it_takes_the_lock_is_late(
    machines: dict[str, Machine], name: str, before: str, at: str
) -> None:
    """Another has it by then, and keeps it: the late one is refused, and removes nothing."""
    host = machines["d"]

    def shell(words: str = "") -> Shell:
        return Shell("d", LocalChannel([*host.enter, *shell_argv(name)]), prelude() + words)

    def take(which: Shell, who: str) -> tuple[int, str]:
        (record,) = which.run(f"rec lock lock_take {who}", timeout=60)
        return record.status, record.output

    host.sh(before)
    late, other = shell(f"{STALL}{at}\n"), shell()
    with ThreadPoolExecutor() as pool:
        taking = pool.submit(take, late, "late")
        while not host.sh("ls /run/stalled"):
            assert not taking.done()
            time.sleep(0.1)
        status, output = take(other, "other")
        host.sh(": >/run/go")
        assert status == 0, output
        status, output = taking.result()
    assert (status, [said.owner for said in lock.said(output)][-1:]) == (3, ["other"])
    late.close()
    assert host.sh("cat /run/lvsfab/lock/owner").endswith(" other\n")
    other.close()
    assert host.sh("ls -d /run/lvsfab") == ""  # neither leaves anything


ARMED = """
deadman_undo_1() { echo undone >/run/state; }
do_0() { echo 1 >/run/lvsfab/deadman-x/at && echo cut >/run/state; }
rec arm deadman_arm x %s lo
rec do do_0
"""


@pytest.mark.parametrize("broken", [True, False], ids=["--break-lock", "killed"])
def test_what_the_run_before_left_armed_is_waited_for(
    machines: dict[str, Machine], broken: bool
) -> None:
    """Nothing is read before the host has undone it, though it was armed while one waited."""
    host = machines["d"]
    first, second = (
        Shell("d", LocalChannel([*host.enter, "sh", "-s"]), prelude()) for _ in range(2)
    )
    first.run("rec lock lock_take first", timeout=20)
    with ThreadPoolExecutor() as pool:
        if not broken:
            read = pool.submit(
                second.run, "rec lock lock_take second\nrec see cat /run/state", timeout=60
            )
            time.sleep(0.5)
        first.run(ARMED % 4, timeout=20)
        assert host.sh("cat /run/state") == "cut\n"
        if broken:
            read = pool.submit(
                second.run, "rec lock lock_take second break\nrec see cat /run/state", timeout=60
            )
        else:
            os.kill(int(host.sh("read -r pid rest </run/lvsfab/lock/owner; echo $pid")), 9)
        lock_record, see = read.result()
    assert lock_record.status == 0
    assert see.output == "undone\n"
    first.close()
    second.close()


def test_a_run_that_waits_leaves_the_other_ones_switch_alone(machines: dict[str, Machine]) -> None:
    host, enter = machines["d"], [*machines["d"].enter, "sh", "-s"]
    first = Shell("d", LocalChannel(enter), prelude())
    second = Shell("d", LocalChannel(enter), prelude() + "sleep() { command sleep 0.1; }\n")
    first.run("rec lock lock_take first" + ARMED % 30, timeout=20)
    (record,) = second.run("rec lock lock_take second", timeout=60)
    assert record.status == 3
    assert host.sh("ls /run/lvsfab").split() == ["deadman-x", "lock"]
    second.close()
    first.close()
