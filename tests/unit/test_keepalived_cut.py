"""keepalived's configuration has VRRP's password: a run that is killed while it is looked at leaves
it where nobody else reads it, and what comes next takes it away.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lvsfab.errors import UnreachableError
from lvsfab.outcome import Outcome
from lvsfab.states.keepalived import PATH
from tests.unit.test_engine import HOSTS, Machine, Run, compiled

RECIPE = """\
name: mine
title: keepalived on the director
steps:
  - on: director
    do:
      - keepalived: {content: "auth_pass hunter2\\n"}
"""
ETC = "mkdir /run/etc && cp /etc/passwd /etc/group /run/etc && mount --bind /run/etc /etc"
FIND = "find /run /var/lib /tmp /etc"


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    found = {name: Machine(name) for name in HOSTS}
    for machine in found.values():
        machine.sh(f"mount -t tmpfs t /tmp; {ETC}")
    yield found
    for machine in found.values():
        machine.close()


def run(machines: dict[str, Machine], what: str, keepalived: str = ":") -> Outcome:
    with Run(machines, words=f"\nkeepalived() {{ {keepalived}; }}\n") as engine:
        if what == "up":
            return engine.up(compiled(RECIPE), "me", adopt=True)
        return engine.down(tuple(HOSTS), "me", ["d"])


@pytest.mark.parametrize("before", ["", "theirs\n"])
@pytest.mark.parametrize("then", [["down"], ["up", "down"]])
def test_a_password_that_was_looked_at_goes(
    machines: dict[str, Machine], before: str, then: list[str]
) -> None:
    if before:
        machines["d"].sh(f"mkdir /etc/keepalived; printf '{before}' >{PATH}")
    found = machines["d"].sh(FIND)
    outcome = run(machines, "up", "kill -9 $$")
    assert isinstance(outcome.failed["d"], UnreachableError)
    left = machines["d"].sh("grep -rl hunter2 /run /var/lib /tmp /etc").splitlines()
    assert left == ["/run/lvsfab/keepalived.new/conf"]
    look = "stat -c %a:%u /run/lvsfab /run/lvsfab/keepalived.new /run/lvsfab/keepalived.new/conf"
    assert machines["d"].sh(look).split() == ["700:0", "700:0", "600:0"]
    for what in then:
        outcome = run(machines, what)
        assert not outcome.failed, outcome.failed
        assert "keepalived.new" not in machines["d"].sh(FIND)
    assert machines["d"].sh(FIND) == found
    assert machines["d"].sh("grep -rl hunter2 /run /var/lib /tmp /etc") == ""
    if before:
        assert machines["d"].sh(f"cat {PATH}") == before
