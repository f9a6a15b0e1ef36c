"""Runs that end in the middle, wherever that is: the host's shell dies at each command in turn, at
each record in turn, or the controller does. Then up completes, and down leaves no trace.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lvsfab.engine import Engine
from lvsfab.errors import HostError
from lvsfab.outcome import Outcome
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from tests.unit.local import SHELLS, LocalChannel, shell_argv
from tests.unit.test_engine import HOSTS, NAME, Machine, compiled

RECIPE = """\
name: mine
title: several kinds, several hosts
steps:
  - on: real_server
    do:
      - sysctl: {name: net.ipv4.conf.all.arp_ignore, value: 1}
      - link: {name: lo, mtu: 1400}
      - address: {address: 192.0.2.1/32, dev: lo}
      - file: {path: /var/lib/some/where/page, content: "hello\\n", mode: "0644"}
      - route: {to: 198.51.100.0/24, dev: lo}
  - on: director
    do:
      - sysctl: {name: net.ipv4.ip_forward, value: 1}
      - address: {address: 192.0.2.1/32, dev: lo}
"""

# every command that changes something; in a function of its own name each counts its calls, and
# at the one that was asked for the shell dies, before or after it did its work
TOOLS = ["mkdir", "mv", "rm", "rmdir", "sync", "chmod", "chown", "mktemp", "base64", "ip"]
DYING = """
die_now() { # its own death and nothing else: what it started lives on, as on a real host
  echo x >>"$DIE_COUNT"
  [ "$(wc -l <"$DIE_COUNT")" = "$DIE_AT" ] && kill -9 $$
}
""" + "".join(
    f'{tool}() {{ [ $DIE_WHEN = before ] && die_now; command {tool} "$@"; t_d=$?; '
    f"[ $DIE_WHEN = after ] && die_now; return $t_d; }}\n"
    for tool in TOOLS
)


@dataclass
class Death:
    """Where a host's shell dies: at its `at`th command, `when` that is before or after."""

    host: str
    count: Path
    at: int
    when: str

    def words(self) -> str:
        return f"DIE_COUNT={self.count} DIE_AT={self.at} DIE_WHEN={self.when}\n{DYING}"

    @property
    def happened(self) -> bool:
        return self.count.exists() and len(self.count.read_text().splitlines()) >= self.at


class Cut:
    """The controller's end: at the `at`th answer from any host all links are cut at once."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.channels: list[LocalChannel] = []

    @property
    def happened(self) -> bool:
        return self.left <= 0

    def seen(self, data: bytes) -> None:
        self.left -= len(re.findall(rb"\nlvsfab-[0-9a-f]+<", data))
        if self.happened:
            for channel in self.channels:
                for stream in (channel.process.stdin, channel.process.stdout):
                    if stream is not None and not stream.closed:
                        stream.close()


class CutChannel(LocalChannel):
    def __init__(self, argv: list[str], cut: Cut) -> None:
        super().__init__(argv)
        self._cut = cut
        cut.channels.append(self)

    def send(self, data: bytes, timeout: float) -> None:
        if self._cut.happened:
            raise ConnectionResetError("cut")
        super().send(data, timeout)

    def recv(self, timeout: float) -> bytes:
        if self._cut.happened:
            raise ConnectionResetError("cut")
        data = super().recv(min(timeout, 30))
        self._cut.seen(data)
        if self._cut.happened:
            raise ConnectionResetError("cut")
        return data


def engine(
    machines: dict[str, Machine],
    death: Death | None = None,
    cut: Cut | None = None,
    shell: Sequence[str] = ("sh", "-s"),
) -> Engine:
    def connect(host: str) -> Shell:
        argv = [*machines[host].enter, *shell]
        channel = CutChannel(argv, cut) if cut is not None else LocalChannel(argv)
        words = death.words() if death is not None and death.host == host else ""
        return Shell(host, channel, prelude() + words)

    return Engine(NAME, connect, lambda _: None)


def run(machines: dict[str, Machine], what: str, **fault: Death | Cut | None) -> Outcome:
    with engine(machines, **fault) as running:  # type: ignore[arg-type]
        if what == "up":
            return running.up(compiled(RECIPE), "me")
        return running.down(tuple(HOSTS), "me", ["d"])


def whole(machines: dict[str, Machine], what: str) -> None:
    outcome = run(machines, what)
    assert not outcome.failed, {h: str(e) for h, e in outcome.failed.items()}


def interrupted(machines: dict[str, Machine], what: str, fault: Death | Cut) -> bool:
    """Whether the fault came about (there are only so many places for it)."""
    try:
        if isinstance(fault, Death):
            run(machines, what, death=fault)
        else:
            run(machines, what, cut=fault)
    except HostError:
        assert fault.happened
    return fault.happened


def pictures(machines: dict[str, Machine]) -> dict[str, str]:
    """What the hosts are, once nothing is at work on them any more."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(m.sh("ls -d /run/lvsfab") for m in machines.values()):
        time.sleep(0.05)
    return {name: machine.picture() for name, machine in machines.items()}


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    found = {name: Machine(name) for name in ("d", "s1", "s2")}
    yield found
    for machine in found.values():
        machine.close()


@pytest.mark.parametrize("sh", sorted(SHELLS))
def test_every_shell_takes_up_and_down(machines: dict[str, Machine], sh: str) -> None:
    before = pictures(machines)
    with engine(machines, shell=shell_argv(sh)) as running:
        assert running.up(compiled(RECIPE), "me").changes == 12
        assert running.up(compiled(RECIPE), "me").changes == 0
        assert not running.down(tuple(HOSTS), "me", ["d"]).failed
    assert pictures(machines) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("host", "what"), [("s1", "up"), ("s1", "down"), ("d", "up")])
def test_a_shell_that_dies_at_any_command_loses_nothing(
    machines: dict[str, Machine],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    host: str,
    what: str,
    when: str,
) -> None:
    before = pictures(machines)
    for at in itertools.count(1):
        if what == "down":
            whole(machines, "up")
        death = Death(host, tmp_path / f"{at}", at, when)
        happened = interrupted(machines, what, death)
        if at % 3 == 0:  # else down comes at once, without another up
            whole(machines, "up")
        whole(machines, "down")
        assert pictures(machines) == before, f"{what}: died {when} command {at} on {host}"
        if not happened:
            assert at > 8, "nothing was interrupted"
            record_property("tried", at - 1)
            return


@pytest.mark.parametrize("what", ["up", "down"])
def test_a_controller_that_dies_at_any_answer_loses_nothing(
    machines: dict[str, Machine], record_property: Callable[[str, object], None], what: str
) -> None:
    before = pictures(machines)
    for at in itertools.count(1):
        if what == "down":
            whole(machines, "up")
        happened = interrupted(machines, what, Cut(at))
        if at % 3 == 0:
            whole(machines, "up")
        whole(machines, "down")
        assert pictures(machines) == before, f"{what}: cut at answer {at}"
        if not happened:
            assert at > 20, "nothing was interrupted"
            record_property("tried", at - 1)
            return


def test_a_rollback_that_ends_at_any_answer_loses_nothing(
    machines: dict[str, Machine], record_property: Callable[[str, object], None]
) -> None:
    """From one recipe to another that fails, and back: what both put there is journalled."""
    before = pictures(machines)
    other = RECIPE.replace("192.0.2.1/32", "192.0.2.2/32").replace("198.51.100", "203.0.113")
    other = other.replace("ip_forward, value: 1", "tcp_syncookies, value: x")
    for at in itertools.count(1, 3):
        whole(machines, "up")
        cut = Cut(at)
        with suppress(HostError), engine(machines, cut=cut) as running:
            assert running.up(compiled(other), "me", rollback=True).failed
        if at % 2 == 0:
            whole(machines, "up")
        whole(machines, "down")
        assert pictures(machines) == before, f"cut at answer {at}"
        if not cut.happened:
            assert at > 60, "nothing was interrupted"
            record_property("tried", at // 3)
            return
