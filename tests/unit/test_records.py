"""Records are their owner's alone, whatever umask there was: root's on hosts, the user's here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsfab import audit, scripts
from lvsfab.deadman import Guard
from lvsfab.execute import last
from lvsfab.execute.task import HostResult, State
from lvsfab.plan import Have, plan_host
from lvsfab.session import Shell
from lvsfab.states.base import Resource
from lvsfab.states.file import File
from lvsfab.states.sysctl import Sysctl
from tests.unit.local import LocalChannel
from tests.unit.test_engine import NAME, Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    found = Machine("d")
    yield found
    found.close()


def test_what_a_run_makes_on_a_host_is_roots_alone(machine: Machine) -> None:
    """While it runs: lock, switch, and what was there before (a file's whole content)."""
    page = File(path="/run/page", content="old\n", mode="0600", owner="root", group="root")
    value = Sysctl(name="net.ipv4.ip_forward", value="0")
    haves: dict[str, Have] = {f"{s.kind}:{s.key}": s for s in (page, value)}
    wanted = [
        Resource(File, page.key, File(path=page.path, content="new\n")),
        Resource(Sysctl, value.key, Sysctl(name=value.name, value="1")),
    ]
    plan = plan_host("d", wanted, haves, [])
    guard = Guard("token", ("lo",), tuple(() for _ in plan.apply), 30)
    channel = LocalChannel([*machine.enter, "sh", "-c", "umask 000; exec sh -s"])
    shell = Shell("d", channel, scripts.prelude())
    for script in (
        scripts.read_script(NAME, wanted, "me"),
        scripts.change_script(NAME, plan.apply, record=plan.record, guard=guard),
        scripts.mark_script(NAME, "{}"),
        scripts.mark_script("kept", "{}", durable=True),
        scripts.forget_script("moved", plan.record),
    ):
        assert not [r for r in shell.run(script, timeout=20) if r.status]
    look = "find /run/lvsfab /var/lib/lvsfab -printf '%p %y %m\\n'"
    found = dict(line.split(" ", 1) for line in machine.sh(look).splitlines())
    shell.run("rec confirm deadman_confirm token", timeout=20)
    shell.close()
    run, kept = "/run/lvsfab", "/var/lib/lvsfab"
    assert {
        f"{run}/lock/owner", f"{run}/deadman-token/at", f"{run}/{NAME}/journal", f"{run}/{NAME}/up",
        f"{run}/moved/journal", f"{kept}/{NAME}/journal", f"{kept}/moved/journal",
        f"{kept}/kept/up",
    } <= set(found)  # fmt: skip
    assert set(found.values()) == {"d 700", "f 600"}


def test_what_is_remembered_here_is_its_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "lvsfab"
    before = os.umask(0)
    try:
        last.write(folder, "lab", {"h": HostResult("h", State.OK)})
        audit.append(folder, audit.Run(at="x", seconds=0, who="u", command="run", asked=[]))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"lvsfab": 0o700, "lab.json": 0o600, "history.jsonl": 0o600}
