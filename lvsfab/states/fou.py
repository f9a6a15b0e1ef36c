"""A UDP port at which the kernel takes packets out of foo-over-UDP or GUE (ip-fou(8)).

What comes out goes on as if it had arrived bare (net/ipv4/fou_core.c): GUE names its content
itself, and IPIP in it ends at tunl0. The module fou must be loaded first.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Others, State

FOU_PORT = 6080  # GUE's, draft-ietf-intarea-gue; what ipvsadm(8) uses in its examples


class Fou(State, frozen=True, kw_only=True):
    """`type` gue, or fou with IPIP inside. `ipv6`: the outer packets are IPv6."""

    kind: ClassVar[str] = "fou"
    # `ip fou show` asks for the netlink family fou, and that would load the module
    reader: ClassVar[str] = r"""
  dormant fou && return 0
  case $1 in *,6) ip -6 fou show ;; *) ip -4 fou show ;; esac 2>/dev/null
  return 0
"""

    port: int
    type: Literal["gue", "fou"] = "gue"
    ipv6: bool = False

    def __post_init__(self) -> None:
        words.port(self.port, self.kind)

    @property
    def key(self) -> str:
        return f"{self.port},6" if self.ipv6 else str(self.port)

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        number, _, six = key.partition(",")
        for line in output.splitlines():
            found = line.split()
            if found[:2] == ["port", number] and ("-6" in found) == bool(six):
                return cls(
                    port=int(number), type="gue" if "gue" in found else "fou", ipv6=bool(six)
                )
        return None

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or have.type == want.type:
            return ""
        return f"port {have.port} is taken by {have.type}"

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        number, _, six = key.partition(",")
        fou = ("ip", "-6" if six else "-4", "fou")
        steps = [command(*fou, "del", "port", number)] if have is not None else []
        if want is not None:
            what = ("gue",) if want.type == "gue" else ("ipproto", "4")
            steps.append(command(*fou, "add", "port", number, *what))
        return tuple(steps)
