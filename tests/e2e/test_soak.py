"""Cycles of up, drain, restore, change, verify and down across modes under a request load: nothing
is lost but while one mode takes another's place, nothing grows on hosts or controller.

All runs of lvsfab are made in this one process, so that what a run leaves in it is seen.
LVSFAB_SOAK says how many cycles; CI runs a few, `make soak` 200.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from lvsfab.cli import main
from lvsfab.labs import runtime
from tests.e2e.conftest import HOSTS, LabUnderTest

pytestmark = pytest.mark.lab
CYCLES = int(os.environ.get("LVSFAB_SOAK", "3"))
# What is up, the VIP, and what then takes its place: another scheduler, another mode.
TURNS = (
    (("nat",), "10.1.1.100", ("nat", "--set", "scheduler=wrr")),
    (("dr", "--set", "scheduler=wrr"), "192.168.10.100", ("tun", "--set", "scheduler=wrr")),
    (("tun", "--set", "scheduler=wrr"), "192.168.10.100", ("dr", "--set", "scheduler=wrr")),
)

PATIENCE = 5  # s for a request; two labs on two cores make one wait for seconds
# A line for each request: when it began, the HTTP status, curl's exit code (0: good).
LOAD = """
echo started
while [ ! -e /run/soak.end ]; do
  printf '%s ' $(date +%s.%N)
  curl -s -o /dev/null --max-time PATIENCE -w '%{http_code} %{exitcode}\\n' http://VIP/
  sleep 0.02
done
rm /run/soak.end
"""
COUNTS = (
    "echo $(ls -d /proc/[0-9]* | wc -l) $(find /run /tmp /etc /root /var -xdev | wc -l) "
    "$(awk '/^MemAvailable/ {print $2}' /proc/meminfo) $(lsmod | wc -l) $(ls /proc/*/fd | wc -l) "
    "$(ls -l /proc/*/ns | awk '/->/ {print $NF}' | sort -u | wc -l)"
)
WHAT = ("processes", "files", "KiB of memory free", "modules", "open files", "namespaces")
MAY = (3, 0, 8 << 10, 0, 30, 0)  # how much more (or less memory): sshd's sessions come and go


def lvsfab(lab: LabUnderTest, *argv: str, code: int = 0) -> dict[str, Any]:
    """A run of lvsfab in this process; the last document, which says how it ended."""
    lab.is_down = False
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([*argv, "--json", "-i", str(lab.path)])
    assert ended.value.code == code, f"{argv}: {out.getvalue()}\n{err.getvalue()}"
    lines = out.getvalue().splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def on_hosts(lab: LabUnderTest) -> Mapping[str, tuple[int, ...]]:
    """Of each host: WHAT."""
    done = lab.cli("run", "*", "--json", "--", "sh", "-c", COUNTS)
    found = {d["host"]: d["output"] for d in done.documents() if d.get("output")}
    assert set(found) == {*HOSTS}
    return {host: tuple(map(int, text.split())) for host, text in found.items()}


def memory(process: Path) -> int:
    """KiB."""
    status = (process / "status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def on_controller(lab: LabUnderTest) -> dict[str, int]:
    """This process, which is lvsfab; the lab's directory; in the rootless lab its keeper."""
    gc.collect()
    own = Path("/proc/self")
    folder = runtime.base_directory()
    children = (task / "children" for task in own.glob("task/*"))
    found = {
        "open files": len(list((own / "fd").iterdir())),
        "threads": len(list((own / "task").iterdir())),
        "children": sum(len(path.read_text().split()) for path in children),
        "KiB of memory": memory(own),
        "files": sum(1 for part in folder.glob(f"{lab.path.stem}*") for _ in part.rglob("*")),
    }
    if lab.backend == "rootless":
        keeper = runtime.recorded_keeper(folder / lab.path.stem)
        assert keeper is not None
        process = Path(f"/proc/{keeper.pid}")
        found["keeper's open files"] = len(list((process / "fd").iterdir()))
        found["KiB of keeper's memory"] = memory(process)
    return found


def unproved(verdict: Mapping[str, Any]) -> None:
    """Beside other requests verify finds nothing wrong, and says what it cannot prove."""
    assert verdict["status"] == "unchecked"
    assert {c["status"] for c in verdict["checks"]} == {"pass", "unchecked"}
    ids = {c["id"] for c in verdict["checks"] if c["status"] == "unchecked"}
    assert ids <= {"counts", "scheduler"}


def cycle(lab: LabUnderTest, number: int) -> tuple[int, int, float]:
    """One cycle; how many requests were sent, and lost while one mode gave way to another, and how
    many seconds that took.
    """
    mode, vip, other = TURNS[number % len(TURNS)]
    lvsfab(lab, "up", *mode, "--no-verify")
    load = LOAD.replace("VIP", vip).replace("PATIENCE", str(PATIENCE))
    got = lab.background("client", load)
    try:
        lvsfab(lab, "drain", "rs1")
        lvsfab(lab, "restore", "rs1")
        change = lvsfab(lab, "up", *other, "--no-verify")
        began, took = change["began"], change["seconds"]
        unproved(lvsfab(lab, "verify", code=3))
    finally:
        lab.sh("client", "touch /run/soak.end")
    requests = [line.split() for line in got().splitlines()]
    assert len(requests) > 20
    assert float(requests[0][0]) < began
    assert float(requests[-1][0]) > began + took + 1  # it went on while verify looked
    same = mode[0] == other[0]
    for when, *outcome in requests:
        within = began - PATIENCE <= float(when) <= began + took  # begun before, and timed out
        assert outcome == ["200", "0"] or (within and not same), (
            f"cycle {number}, {mode} then {other}: {outcome} {float(when) - began:+.2f} s after "
            f"the beginning of a change that took {took:.2f} s"
        )
    assert lvsfab(lab, "verify")["status"] == "pass"
    lvsfab(lab, "down")
    lost = sum(outcome != ["200", "0"] for _, *outcome in requests)
    return len(requests) + 120, lost, 0.0 if same else took


def test_soak(clean: LabUnderTest, record_property: Callable[[str, object], None]) -> None:
    sent, lost, window = cycle(clean, 0)
    hosts, controller = on_hosts(clean), on_controller(clean)
    for number in itertools.islice(itertools.count(1), CYCLES - 1):
        more, missed, took = cycle(clean, number)
        sent, lost, window = sent + more, lost + missed, max(window, took)
    for host, now in on_hosts(clean).items():
        for what, may, was, is_ in zip(WHAT, MAY, hosts[host], now, strict=True):
            grown = was - is_ if "free" in what else is_ - was
            assert grown <= may, f"{host}: {what} was {was}, is {is_}"
    for what, is_ in on_controller(clean).items():
        may = 16 << 10 if "memory" in what else 0
        assert is_ - controller[what] <= may, f"{what} was {controller[what]}, is {is_}"
    clean.left_nothing()
    record_property("tried", CYCLES)
    record_property("requests", sent)
    record_property("lost", lost)
    record_property("longest change of mode, s", round(window, 2))
