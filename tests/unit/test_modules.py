"""A module that a run loaded, and that somebody else uses by the time of `down`. The kernel's part
is played: another file is /proc/modules, modprobe and rmmod are functions that write it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lvsfab.errors import CommandError
from lvsfab.outcome import Outcome
from lvsfab.scripts import prelude
from tests.unit.test_engine import HOSTS, Machine, Run, compiled

RECIPE = """\
name: mine
title: a module on the director
steps:
  - on: director
    do:
      - module: {name: ip_vs}
  - on: real_server
    do:
      - file: {path: /run/page, content: "hello\\n"}
"""
KERNEL = (
    prelude().replace("/proc/modules", "/run/modules")
    + r"""
nap() { :; }
modprobe() {
  case $1 in
  --show-depends) echo "insmod /lib/nf_conntrack.ko"; echo "insmod /lib/ip_vs.ko" ;;
  *) printf '%s\n' 'ip_vs 1 0 - Live 0x0' 'nf_conntrack 1 1 ip_vs, Live 0x0' >>/run/modules ;;
  esac
}
rmmod() { # what uses it is in /run/users, or is there for some more times that rmmod is tried
  read -r r_times </run/users; r_lines=$(grep -v "^$1 " /run/modules)
  case $1:$r_times in
  ip_vs:0 | nf_conntrack:*)
    printf '%s' "${r_lines:+$r_lines$f_nl}" | sed 's/ 1 ip_vs,/ 0 -/' >/run/modules ;;
  *)
    [ "$r_times" = ever ] || echo "$((r_times - 1))" >/run/users
    sed 's/^ip_vs 1 0/ip_vs 1 2/' /run/modules >/run/now; cat /run/now >/run/modules
    echo "rmmod: ERROR: Module $1 is in use"; return 1 ;;
  esac
}
"""
)


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    found = {name: Machine(name) for name in ("d", "s1", "s2")}
    for machine in found.values():
        machine.sh(": >/run/modules; echo 0 >/run/users")
    yield found
    for machine in found.values():
        machine.close()


def up(machines: dict[str, Machine]) -> Outcome:
    with Run(machines, words=KERNEL) as engine:
        return engine.up(compiled(RECIPE), "me")


def down(machines: dict[str, Machine]) -> tuple[Outcome, list[str]]:
    run = Run(machines, words=KERNEL)
    with run as engine:
        outcome = engine.down(tuple(HOSTS), "me", ["d"])
    return outcome, [event.text for event in run.events if event.what == "note"]


def loaded(machines: dict[str, Machine]) -> list[str]:
    return machines["d"].sh("cut -d ' ' -f 1 /run/modules").split()


@pytest.mark.parametrize("times", ["0", "20"])
def test_what_is_busy_for_a_moment_is_waited_for(machines: dict[str, Machine], times: str) -> None:
    assert not up(machines).failed
    machines["d"].sh(f"echo {times} >/run/users")
    outcome, notes = down(machines)
    assert (outcome.failed, notes, loaded(machines)) == ({}, [], [])


def test_what_somebody_else_came_to_use_stays_and_is_theirs(machines: dict[str, Machine]) -> None:
    assert not up(machines).failed
    machines["d"].sh("echo ever >/run/users")
    outcome, notes = down(machines)
    assert not outcome.failed, outcome.failed
    assert set(outcome.done) == set(HOSTS)
    assert notes == ["module:ip_vs stays loaded, in use by what is not ours"]
    assert loaded(machines) == ["ip_vs", "nf_conntrack"]  # with all that it stands on
    assert [m.sh("find /run/lvsfab /var/lib/lvsfab") for m in machines.values()] == [""] * 3
    machines["d"].sh("echo 0 >/run/users")
    up(machines)
    assert down(machines)[1] == []
    assert loaded(machines) == ["ip_vs", "nf_conntrack"]


def test_what_is_asked_to_go_and_stays_is_a_failure(machines: dict[str, Machine]) -> None:
    """A recipe's own word is no undo."""
    up(machines)
    machines["d"].sh("echo ever >/run/users")
    with Run(machines, words=KERNEL) as engine:
        gone = RECIPE.replace("{name: ip_vs}", "{name: ip_vs, absent: true}")
        error = engine.up(compiled(gone), "me").failed["d"]
    assert isinstance(error, CommandError)
    assert "is in use" in error.output
