"""Runs that end in the middle, on real kernels: lvsfab killed after each step, links cut, hosts
power-cycled. Then up completes, verify passes, and down leaves the hosts as they were.

In short form (CI) runs follow each other, each killed three steps further than the one before;
the long form (LVSFAB_TEST_LONG=1) kills after each single step, with a whole cycle for each.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest

pytestmark = pytest.mark.lab
MODES = ("nat", "dr", "tun")


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


def at_step(process: subprocess.Popen[str], count: int, act: Callable[[], None]) -> int:
    """Do `act` right after the run's `count`th step; how many steps were seen in all."""
    seen = 0
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("event") in ("step", "undone"):
            seen += 1
            if seen == count:
                act()
    process.communicate(timeout=60)
    return seen


def killed(lab: LabUnderTest, count: int, *argv: str) -> bool:
    """Run lvsfab and kill -9 it after `count` steps; False when it had no so many."""
    process = start(lab, *argv)
    return at_step(process, count, process.kill) >= count


@pytest.mark.parametrize("mode", MODES)
def test_lvsfab_killed_every_few_steps(
    clean: LabUnderTest, mode: str, record_property: Callable[[str, object], None]
) -> None:
    kills = 0
    while killed(clean, 3, "up", mode, "--no-verify"):
        kills += 1
        assert kills < 30
    assert clean.cli("verify", "--json").json["status"] == "pass"
    while killed(clean, 3, "down"):
        kills += 1
        assert kills < 60
    assert kills > 2  # fewer on a busy machine, where steps end in bunches
    record_property("tried", kills)
    clean.left_nothing()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.long  # half an hour for each mode
def test_lvsfab_killed_after_each_step(clean: LabUnderTest, mode: str) -> None:
    for count in itertools.count(1):
        if not killed(clean, count, "up", mode, "--no-verify"):
            break
        clean.cli("up", mode)
        clean.cli("down")
        clean.left_nothing()
    for count in itertools.count(1):
        clean.cli("up", mode, "--no-verify")
        if not killed(clean, count, "down"):
            break
        clean.cli("down")
        clean.left_nothing()


def cut_link(lab: LabUnderTest, host: str) -> None:
    """End the SSH connection of the run that holds the host's lock, from the host's side."""
    lab.sh(
        host,
        "read -r pid rest </run/lvsfab/lock/owner; "
        "kill -9 $(sed 's/.*) [A-Z] \\([0-9]*\\) .*/\\1/' /proc/$pid/stat)",
    )


@pytest.mark.parametrize("how", ["link cut", "power-cycled", "power-cycled, disk lost"])
def test_a_host_lost_in_the_middle(clean: LabUnderTest, how: str) -> None:
    """While the run waits, the director goes; it is told so, and the next run goes on."""
    process = start(clean, "up", "dr", "--no-verify")

    def lose() -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            if how == "link cut":
                cut_link(clean, "director")
            else:
                keep = ["--keep"] if how == "power-cycled" else []
                clean.cli("lab", "reboot", "director", *keep)
        finally:
            process.send_signal(signal.SIGCONT)

    began = time.monotonic()
    at_step(process, 1, lose)
    assert process.returncode == 4
    assert time.monotonic() - began < 120
    clean.cli("up", "dr")
    clean.cli("down")
    clean.left_nothing()
