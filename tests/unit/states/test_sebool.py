"""A boolean of SELinux: set where it counts, put back by the undo. The tools are stubs: no test
runs on a host of SELinux.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory
from lvsfab.session import PRELUDE
from lvsfab.states import readers_script
from lvsfab.states.base import Context
from lvsfab.states.sebool import Sebool
from tests.unit.states.state_helpers import journalled, said

NAME = "keepalived_connect_any"
ON, OFF = Sebool(name=NAME), Sebool(name=NAME, on=False)
FREE = Sebool(name=NAME, enforced=False)

PROGRAMS = {
    "getenforce": 'echo "$MODE"',
    "getsebool": f"""
case $1 in
{NAME}) echo "$1 --> $(cat "${{0%/*}}/value")" ;;
*) echo "Error getting active value for $1" >&2; exit 1 ;;
esac""",
    "setsebool": '[ $# = 2 ] && echo "$2" >"${0%/*}/value"',
}


def on_host(folder: Path, script: str, mode: str = "Enforcing") -> str:
    text = "\n".join((PRELUDE, readers_script(), f"PATH={folder}:$PATH", script))
    done = subprocess.run(
        ["/bin/sh", "-c", text],
        capture_output=True, text=True, check=True, timeout=20, env={**os.environ, "MODE": mode},
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Where the programs of a host with SELinux are; the boolean is off, as the policy has it."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "value").write_text("off\n")
    return tmp_path


def test_it_is_set_read_again_and_put_back(host: Path) -> None:
    def read() -> Sebool | None:
        return Sebool.parse(NAME, on_host(host, f"read_sebool {NAME}"))

    before = read()
    assert before == OFF
    assert journalled(OFF) == OFF
    on_host(host, *said(before, ON, Sebool, NAME))
    assert read() == ON
    assert said(ON, ON, Sebool, NAME) == []
    on_host(host, *said(ON, before, Sebool, NAME))
    assert read() == OFF


@pytest.mark.parametrize("mode", ["Permissive", "Disabled"])
def test_where_nothing_is_enforced_nothing_is_done(host: Path, mode: str) -> None:
    output = on_host(host, f"read_sebool {NAME}", mode)
    assert output == ""
    assert Sebool.parse(NAME, output) == FREE
    assert said(FREE, ON, Sebool, NAME) == []


def test_where_selinux_or_the_boolean_is_unknown_nothing_is_done(host: Path) -> None:
    assert Sebool.parse("nothing_such", on_host(host, "read_sebool nothing_such")) == Sebool(
        name="nothing_such", enforced=False
    )
    (host / "getenforce").unlink()
    script = f"has() {{ [ -x {host}/$1 ]; }}\nread_sebool {NAME}"
    assert Sebool.parse(NAME, on_host(host, script)) == FREE


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="no name of a boolean"):
        Sebool(name="-P")
    context = Context(Inventory("lab", {}), Host("h"), {})
    with pytest.raises(InputError, match="never absent"):
        Sebool.build({"name": NAME, "absent": True}, context)
