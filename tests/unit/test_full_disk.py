"""Hosts that cannot write, or lack a tool: nothing is changed that could not be taken back."""

from __future__ import annotations

import pytest

from lvsfab.errors import CommandError, HostError, InputError
from tests.unit.test_engine import Machine, Run, compiled, down, up
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture

RECIPE = """\
name: mine
title: for these tests
steps:
  - on: real_server
    do:
      - sysctl: {name: net.ipv4.conf.all.arp_ignore, value: 1}
      - file: {path: /var/lib/page, content: "hello\\n"}
"""
FULL = "mount -t tmpfs -o size=16k t %s; cat /dev/zero >%s/big 2>/dev/null; rm -f %s/none"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (FULL.replace("%s", "/var/lib"), "its journal cannot be written; nothing was changed"),
        ("mount -o remount,ro /var/lib", "its journal cannot be written; nothing was changed"),
        (FULL.replace("%s", "/run"), "cannot be locked"),
        ("mount -o remount,ro /run", "cannot be locked"),
    ],
    ids=["/var/lib full", "/var/lib read-only", "/run full", "/run read-only"],
)
def test_a_host_that_cannot_write_is_not_changed(
    machines: dict[str, Machine], damage: str, told: str
) -> None:
    machines["s1"].sh(damage)
    before = machines["s1"].sh("ip -o addr; grep -r '' /proc/sys/net/ipv4/conf")
    with Run(machines) as engine:
        try:
            error = engine.up(compiled(RECIPE), "me").failed["s1"]
        except HostError as raised:
            error = raised
    assert isinstance(error, CommandError)
    assert told in str(error)
    assert error.host == "s1"
    assert machines["s1"].sh("ip -o addr; grep -r '' /proc/sys/net/ipv4/conf") == before
    assert machines["s1"].sh("ls /var/lib/page") == ""


def test_a_host_without_the_tool_says_which(machines: dict[str, Machine]) -> None:
    tool = machines["s1"].sh("readlink -f $(command -v ip)").strip()
    machines["s1"].sh(f"mount --bind /dev/null {tool}")
    with Run(machines) as engine, pytest.raises((InputError, CommandError), match=r"s1.*ip") as no:
        engine.up(compiled(), "me")
    assert "iproute2" in str(no.value)
    machines["s1"].sh(f"umount {tool}")
    assert up(machines) == 7
    assert down(machines) == 7
