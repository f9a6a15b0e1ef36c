"""Whole runs on hosts that are namespaces of this machine: real shells, a real kernel, no SSH."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsfab import document, recipe
from lvsfab.engine import Engine, Event
from lvsfab.errors import CommandError, HostError, LockedError, UnreachableError
from lvsfab.model import Host, Inventory
from lvsfab.recipe import Compiled
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from tests.unit.local import LocalChannel

NAME = "unit"


class Machine:
    """A host: network and mount namespaces with a /run and /var/lib of their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        begin = (  # a new network namespace inherits what this machine has set
            "mount -t tmpfs t /run && mount -t tmpfs t /var/lib && ip link set lo up && "
            "echo 0 >/proc/sys/net/ipv4/ip_forward && "
            "echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore"
        )
        self._holder = subprocess.Popen(
            ["unshare", "-rnm", "sh", "-c", f"{begin} && echo ready && exec sleep 300"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.enter = ["nsenter", "-t", str(self._holder.pid), "-U", "-n", "-m"]
        self.enter += ["--preserve-credentials", "--"]

    def sh(self, script: str) -> str:
        argv = [*self.enter, "sh", "-c", script]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def picture(self) -> str:
        return self.sh(
            "ip -o addr; ip route; grep -rs '' /proc/sys/net/ipv4/conf; find /run /var/lib"
        )

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    found = {name: Machine(name) for name in ("d", "s1", "s2")}
    yield found
    for machine in found.values():
        machine.close()


HOSTS = {
    "d": Host("d", frozenset({"director"})),
    "s1": Host("s1", frozenset({"real_server"})),
    "s2": Host("s2", frozenset({"real_server"})),
}
INVENTORY = Inventory(NAME, HOSTS)

RECIPE = """\
name: mine
title: for these tests
steps:
  - on: real_server
    do:
      - sysctl: {name: net.ipv4.conf.all.arp_ignore, value: 1}
      - address: {address: 192.0.2.1/32, dev: lo}
      - file: {path: /run/page, content: "hello\\n"}
  - on: director
    do:
      - sysctl: {name: net.ipv4.ip_forward, value: 1}
"""


def compiled(text: str = RECIPE) -> Compiled:
    read = recipe.read(document.parse(text.encode(), Path("mine.yml")))
    return recipe.compile_recipe(read, INVENTORY, {})


class Run:
    """An engine on the machines, its events and its connections counted. `words`: further words of
    every shell. `dies`: the host that is gone after its first step.
    """

    def __init__(
        self, machines: dict[str, Machine], dead: str = "", *, words: str = "", dies: str = ""
    ) -> None:
        self.events: list[Event] = []
        gone = {dead}
        channels: dict[str, LocalChannel] = {}

        def connect(host: str) -> Shell:
            if host in gone:
                raise UnreachableError(host, "no answer")
            channels[host] = LocalChannel([*machines[host].enter, "sh", "-s"])
            return Shell(host, channels[host], prelude() + words)

        def told(event: Event) -> None:
            self.events.append(event)
            if event.what == "step" and event.host == dies and dies not in gone:
                gone.add(dies)
                channels[dies].process.kill()

        self.engine = Engine(NAME, connect, told)

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.close()


def up(machines: dict[str, Machine], text: str = RECIPE) -> int:
    with Run(machines) as engine:
        outcome = engine.up(compiled(text), "me")
        assert not outcome.failed, outcome.failed
        return outcome.changes


def down(machines: dict[str, Machine]) -> int:
    with Run(machines) as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
        assert not outcome.failed, outcome.failed
        return outcome.changes


def test_up_again_changes_nothing_and_down_leaves_nothing(machines: dict[str, Machine]) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    assert up(machines) == 7
    assert machines["s1"].sh("cat /run/page") == "hello\n"
    assert up(machines) == 0
    assert down(machines) == 7
    assert {name: machine.picture() for name, machine in machines.items()} == before
    assert down(machines) == 0


def test_a_run_is_one_shell_a_host(machines: dict[str, Machine]) -> None:
    with Run(machines) as engine:
        engine.up(compiled(), "me")
        assert engine.handshakes == {"d": 1, "s1": 1, "s2": 1}
        assert engine.execs == {"d": 1, "s1": 1, "s2": 1}


def test_real_servers_are_ready_before_the_director_changes(machines: dict[str, Machine]) -> None:
    run = Run(machines)
    with run as engine:
        engine.up(compiled(), "me")
    order = [event.host for event in run.events if event.what == "step"]
    assert order.index("d") > max(i for i, host in enumerate(order) if host != "d")


def test_another_recipe_leaves_nothing_of_the_former(machines: dict[str, Machine]) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    other = RECIPE.replace("192.0.2.1", "192.0.2.2").replace("/run/page", "/run/other")
    up(machines, other)
    assert "192.0.2.1/32" not in machines["s1"].sh("ip -o addr")
    assert machines["s1"].sh("ls /run/page /run/other").split() == ["/run/other"]
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


def test_damage_by_hand_is_all_that_is_repaired(machines: dict[str, Machine]) -> None:
    up(machines)
    machines["s2"].sh("ip addr del 192.0.2.1/32 dev lo")
    with Run(machines) as engine:
        plans = engine.plan(compiled())
    assert [s.id for p in plans.values() for s in p.steps] == ["address:192.0.2.1@lo"]
    assert up(machines) == 1


def test_a_failing_step_ends_its_host_and_spares_the_director(
    machines: dict[str, Machine],
) -> None:
    text = RECIPE.replace("/run/page", "/proc/page")
    with Run(machines) as engine:
        outcome = engine.up(compiled(text), "me")
    assert set(outcome.failed) == {"s1", "s2"}
    assert outcome.not_reached == ["d"]
    error = outcome.failed["s1"]
    assert isinstance(error, CommandError)
    assert "file:/proc/page failed" in str(error)
    assert machines["d"].sh("cat /proc/sys/net/ipv4/ip_forward") == "0\n"
    assert down(machines) > 0


def test_an_unreachable_host_stops_everything_before_it_begins(
    machines: dict[str, Machine],
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    with Run(machines, dead="s2") as engine, pytest.raises(UnreachableError, match="s2: no answer"):
        engine.up(compiled(), "me")
    assert {name: machine.picture() for name, machine in machines.items()} == before
    with Run(machines, dead="s2") as engine:
        outcome = engine.up(compiled(), "me", skip_unreachable=True)
        assert set(outcome.done) == {"d", "s1"}
        assert outcome.not_reached == ["s2"]
        assert [str(error) for error in outcome.errors] == ["s2: no answer"]
    assert up(machines) == 3  # what was left out, and nothing else


def test_a_second_run_at_the_same_time_is_refused_by_name(machines: dict[str, Machine]) -> None:
    with Run(machines) as first:
        first.read({"d": ()}, owner="anna@desk process 7")
        with Run(machines) as second, pytest.raises(LockedError, match=r"anna@desk process 7"):
            second.up(compiled(), "me")
    assert up(machines) == 7


def test_a_lock_goes_with_its_shell(machines: dict[str, Machine]) -> None:
    with Run(machines) as engine:
        engine.read({"d": ()}, owner="me")
        assert machines["d"].sh("ls /run/lvsfab") == "lock\n"
    for _ in range(50):
        if not machines["d"].sh("ls -d /run/lvsfab"):
            return
        threading.Event().wait(0.1)
    pytest.fail("the lock outlived its shell")


def test_a_lock_whose_holder_died_is_taken_over(machines: dict[str, Machine]) -> None:
    machines["d"].sh("mkdir -p /run/lvsfab/lock; echo '999999 1 1 ghost' >/run/lvsfab/lock/owner")
    assert up(machines) == 7


def test_a_host_that_dies_between_journal_and_change_is_taken_down_cleanly(
    machines: dict[str, Machine],
) -> None:
    before = {name: machine.picture() for name, machine in machines.items()}
    up(machines)
    # as if the run had ended after the journal was written and before anything was changed
    machines["s1"].sh("ip addr del 192.0.2.1/32 dev lo; rm /run/page")
    machines["s1"].sh("printf 'sysctl net.ipv4.ip_fo' >>/run/lvsfab/unit/journal")
    down(machines)
    assert {name: machine.picture() for name, machine in machines.items()} == before


ENDING = """
mount -t tmpfs t /etc && mkdir -p /etc/init.d && >/run/ending
cat >/etc/init.d/mine <<'E'
#!/bin/sh
case $1 in # (status)
start) [ -e /run/ending ] || >/run/on ;;
status) [ -e /run/on ] ;;
esac
E
chmod +x /etc/init.d/mine; { sleep 1.5; rm /run/ending; } >/dev/null 2>&1 &
"""


def test_a_service_that_is_still_about_to_end_is_started_once_it_has(
    machines: dict[str, Machine],
) -> None:
    """Until then its script says that it runs already, with status 0."""
    machines["d"].sh(ENDING)
    text = RECIPE.split("  - on: real_server", maxsplit=1)[0]
    text += "  - on: director\n    do:\n      - service: {name: mine, running: true}\n"
    assert up(machines, text) == 1
    assert up(machines, text) == 0


def test_an_answer_that_makes_no_sense_names_its_host(machines: dict[str, Machine]) -> None:
    def connect(host: str) -> Shell:
        script = prelude() + "\nread_sysctl() { printf 'value \\001'; }\n"
        return Shell(host, LocalChannel([*machines[host].enter, "sh", "-s"]), script)

    with (
        Engine(NAME, connect, lambda _: None) as engine,
        pytest.raises(HostError, match=r"makes no sense"),
    ):
        engine.up(compiled(), "me")
