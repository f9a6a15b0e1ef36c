"""The tunnel monitor's program, run against a host made of stubs: what it mends, and when."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lvsfab.states.address import Address
from lvsfab.states.fou import Fou
from lvsfab.states.module import Module
from lvsfab.states.route import Route
from lvsfab.states.tunnel_monitor import PATIENCE, program

VIP = Address(address="203.0.113.100/32", dev="tunl0")
ROUTES = [
    Route(to=f"{peer}/32", via=via, dev="tunl0", src="10.0.0.2", onlink=True)
    for peer, via in (("10.0.0.1", "203.0.113.10"), ("10.0.0.4", "203.0.113.12"))
]

END = [Module(name="ipip"), Module(name="fou"), Fou(port=6080), VIP, *ROUTES]

# `looks` counts the looks; ANSWERS are the peers that answer a ping; BREAKS the look before which
# somebody takes the device down, or closes the port (WHAT); setting it up, adding it mends that.
STUBS = {
    "sleep": 'echo >>looks; n=$(wc -l <looks)\n[ "$n" = "$BREAKS" ] && : >"$WHAT"\n'
    '[ "$n" -lt "$LOOKS" ] || kill "$PPID"',
    "ip": 'case "$*" in\n"-o link show"*) [ -e down ] || echo "9: tunl0" ;;\n'
    '"-o addr show"*) echo "9: tunl0 inet 203.0.113.100/32 scope" ;;\n'
    '"link set dev tunl0 up") rm -f down ;;\n'
    '"-4 fou show") [ -e closed ] || echo "port 6080 gue" ;;\n'
    '"-4 fou add port 6080 gue") rm -f closed ;;\nesac',
    "ping": 'for last; do :; done\ncase " $ANSWERS " in *" $last "*) exit 0 ;; esac\nexit 1',
    "logger": 'echo "$(wc -l <looks): $3" >>said',
    "modprobe": 'echo "$1" >>loaded',
}


def told(
    folder: Path, looks: int, *, answers: str = "", breaks: int = 0, what: str = "down"
) -> list[str]:
    """What the monitor logs within so many looks, each with the number of looks before it."""
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "looks").write_text("")
    (folder / "said").write_text("")
    text = program("tunl0", END)
    text = re.sub(r"(?m)^PATH=", f"PATH={folder}:", text).replace("/proc/sys/net", str(folder))
    given = {"ANSWERS": answers, "BREAKS": str(breaks), "WHAT": what, "LOOKS": str(looks)}
    subprocess.run(["/bin/sh", "-c", text], cwd=folder, env=given, timeout=60, check=False)
    assert len((folder / "looks").read_text()) == looks
    return (folder / "said").read_text().splitlines()


def test_a_broken_tunnel_is_mended_at_once_though_the_director_is_silent(tmp_path: Path) -> None:
    silent, down = "LVS-TUN: no answer from 10.0.0.1, 10.0.0.4", "LVS-TUN: tunl0 is not up"
    said = told(tmp_path, PATIENCE - 1, breaks=5)
    # silence alone is no reason to restore it again and again; that it is down is
    assert [line.removesuffix(", restoring tunl0") for line in said[:2]] == [
        f"0: {silent}",
        f"5: {down}",
    ]
    assert all(silent in line for line in said[2:])
    assert len(said) == 3


def test_silence_is_answered_again_after_a_while(tmp_path: Path) -> None:
    said = told(tmp_path, PATIENCE + 1)
    assert [int(line.partition(":")[0]) for line in said] == [0, PATIENCE - 1]


@pytest.mark.parametrize("answers", ["10.0.0.1", "10.0.0.4", "10.0.0.1 10.0.0.4"])
def test_one_director_that_answers_is_enough(tmp_path: Path, answers: str) -> None:
    assert told(tmp_path, 4, answers=answers) == []
    assert len(told(tmp_path, 4, answers=answers, breaks=2)) == 1


def test_a_port_that_somebody_closed_is_opened_again(tmp_path: Path) -> None:
    said = told(tmp_path, 6, answers="10.0.0.1", breaks=2, what="closed")
    assert said == ["2: LVS-TUN: UDP port 6080 is closed, restoring tunl0"]
    assert (tmp_path / "loaded").read_text().split() == ["ipip", "fou"]
