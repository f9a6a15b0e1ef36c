"""Runs that end in the middle, on real kernels: lvsfab killed after each step, links cut, hosts
power-cycled. Then up completes, verify passes, and down leaves the hosts as they were.

In short form (CI) runs follow each other, each killed five steps further than the one before, and
hosts are lost at a few places; the long form (`make interruption`) kills, and loses a host, after
each single step, with a whole cycle for each.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest

pytestmark = pytest.mark.lab
MODES: dict[str, tuple[str, ...]] = {
    "nat": ("nat",),
    "dr": ("dr",),
    "tun": ("tun",),
    "keepalived": ("dr", "--set", "balancer=keepalived"),
}
HOWS = ("link cut", "power-cycled", "power-cycled, disk lost")
LOST = ("director", "rs1")
Told = list[dict[str, Any]]


def start(lab: LabUnderTest, *argv: str) -> subprocess.Popen[str]:
    lab.is_down = False
    return subprocess.Popen(
        [str(LVSFAB), *argv, "--json", "-i", str(lab.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )


def at_step(
    process: subprocess.Popen[str], count: int, act: Callable[[], None], host: str = ""
) -> Told:
    """Do `act` right after the run's `count`th step (on `host`, if one is given); all that the run
    told.
    """
    told: Told = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(json.loads(line))
        if steps(told[-1:], host) and len(steps(told, host)) == count:
            act()
    process.communicate(timeout=60)
    return told


def steps(told: Told, host: str = "") -> Told:
    """The steps among it, of one host or of all."""
    of = ("step", "undone")
    return [e for e in told if e.get("event") in of and host in ("", e["host"])]


def killed(lab: LabUnderTest, count: int, *argv: str) -> bool:
    """Run lvsfab and kill -9 it after `count` steps; False when it had no so many."""
    process = start(lab, *argv)
    told = at_step(process, count, process.kill)
    assert process.returncode == (-signal.SIGKILL if len(steps(told)) >= count else 0), told[-5:]
    return process.returncode != 0


def planned(lab: LabUnderTest, words: tuple[str, ...]) -> int:
    """How many steps an up would have."""
    found: int = lab.cli("plan", *words, "--json", code=None).json["changes"]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_lvsfab_killed_every_few_steps(
    clean: LabUnderTest, mode: str, record_property: Callable[[str, object], None]
) -> None:
    """What a run told as done stays done; what is left is less by that, until it is nothing."""
    words, every = MODES[mode], 5
    left = [planned(clean, words)]
    while killed(clean, every, "up", *words, "--no-verify"):
        left.append(planned(clean, words))
        assert left[-1] <= left[-2] - every
    assert left[0] > 10
    assert left[-1] < every + 3  # each host may have ended a step since
    assert planned(clean, words) == 0
    assert clean.cli("verify", "--json").json["status"] == "pass"
    assert killed(clean, every, "down")
    clean.cli("up", *words)
    kills = len(left)
    while killed(clean, every, "down"):
        kills += 1
        assert kills < len(left) + left[0] / every
    assert kills > len(left)
    record_property("tried", kills)
    clean.left_nothing()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.long  # half an hour for each mode
def test_lvsfab_killed_after_each_step(
    clean: LabUnderTest, mode: str, record_property: Callable[[str, object], None]
) -> None:
    words, kills = MODES[mode], 0
    every = planned(clean, words)
    for count in itertools.count(1):
        if not killed(clean, count, "up", *words, "--no-verify"):
            break
        kills += 1
        clean.cli("up", *words)
        clean.cli("down")
        clean.left_nothing()
    assert kills == every
    for count in itertools.count(1):
        clean.cli("up", *words, "--no-verify")
        if not killed(clean, count, "down"):
            break
        kills += 1
        if count % 2:  # it goes on, or somebody thinks better of it
            clean.cli("up", *words)
        clean.cli("down")
        clean.left_nothing()
    assert kills > every + 10
    record_property("tried", kills)


def cut_link(lab: LabUnderTest, host: str) -> None:
    """End the SSH connection of the run that holds the host's lock, from the host's side."""
    lab.sh(
        host,
        "read -r pid rest </run/lvsfab/lock/owner; "
        "kill -9 $(sed 's/.*) [A-Z] \\([0-9]*\\) .*/\\1/' /proc/$pid/stat)",
    )


@dataclass(frozen=True)
class Loss:
    """A host goes after its `step`th step of an up or a down, while the controller waits."""

    mode: str
    run: str
    step: int
    host: str
    how: str
    persist: bool = False

    @property
    def up(self) -> tuple[str, ...]:
        return ("up", *MODES[self.mode], *(["--persist"] if self.persist else []))

    def __str__(self) -> str:
        kept = " --persist" if self.persist else ""
        return f"{self.run} {self.mode}{kept}, {self.host} at step {self.step}, {self.how}"


def lost(lab: LabUnderTest, loss: Loss) -> bool:
    """The loss, and what the run told of it; then the next run goes on, and all is as it was.
    False when the host had no so many steps.
    """
    if loss.run == "down":
        lab.cli(*loss.up, "--no-verify")
    process = start(lab, *((*loss.up, "--no-verify") if loss.run == "up" else ("down",)))
    came: list[str] = []

    def lose() -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            if loss.how == "link cut":
                cut_link(lab, loss.host)
            else:
                keep = ["--keep"] if loss.how == "power-cycled" else []
                lab.cli("lab", "reboot", loss.host, *keep)
            if loss.persist:  # before anything else is done there
                came.append(lab.sh(loss.host, "cat /var/lib/lvsfab/*/journal"))
        finally:
            process.send_signal(signal.SIGCONT)

    began = time.monotonic()
    told = at_step(process, loss.step, lose, loss.host)
    assert time.monotonic() - began < 120
    (outcome,) = [one for one in told if one.get("event") == "result"]
    if len(steps(told, loss.host)) < loss.step:
        assert (process.returncode, outcome["failed"]) == (0, {})
        lab.cli("down")
        return False
    if process.returncode == 0:  # the host had done and told all when it was lost
        assert outcome["failed"] == {}
        assert loss.host in outcome["done"]
    else:
        assert process.returncode == 4
        assert set(outcome["failed"]) == {loss.host}
    if loss.run == "down" and loss.host == "director":  # it may still send to them, all or none
        assert {"rs1", "rs2"} <= set(outcome["not_reached"]) or {"rs1", "rs2"} <= {*outcome["done"]}
    assert all(came)  # with --persist a power cut leaves the journal
    if loss.run == "up" or loss.step % 2:  # it goes on, or somebody thinks better of it
        lab.cli(*loss.up)
    lab.cli("down")
    lab.left_nothing()
    return True


@pytest.mark.parametrize(
    "loss",
    [
        Loss("dr", "up", 1, "director", "link cut"),
        Loss("dr", "up", 2, "rs1", "power-cycled, disk lost"),
        Loss("nat", "down", 1, "director", "link cut"),
        Loss("tun", "down", 2, "rs2", "power-cycled"),
        Loss("dr", "up", 3, "director", "power-cycled", persist=True),
        Loss("dr", "down", 2, "director", "power-cycled", persist=True),
        Loss("keepalived", "up", 9, "director", "power-cycled"),  # a boot starts it, with ip_vs
    ],
    ids=str,
)
def test_a_host_lost_in_the_middle(clean: LabUnderTest, loss: Loss) -> None:
    assert lost(clean, loss)


@pytest.mark.parametrize("how", [*HOWS, "power-cycled, persisted"])
@pytest.mark.parametrize("host", LOST)
@pytest.mark.parametrize("run", ["up", "down"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.long  # a quarter of an hour each
def test_a_host_lost_after_each_step(
    clean: LabUnderTest,
    mode: str,
    run: str,
    host: str,
    how: str,
    record_property: Callable[[str, object], None],
) -> None:
    how, persist = how.removesuffix(", persisted"), how.endswith(", persisted")
    for count in itertools.count(1):
        if not lost(clean, Loss(mode, run, count, host, how, persist)):
            assert count > 2  # NAT's real servers have two
            record_property("tried", count - 1)
            return
