"""A route. Its identity is the kernel's: destination, table and metric.

Without `metric` the route is the one of metric 0 (IPv6: 1024): another route to the same place
with a higher metric, from DHCP say, stays beside it. The former route comes back word by word.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from itertools import pairwise
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, State, Way, show
from lvsfab.states.words import address, interface, network, within

_UNSAID = {4: 0, 6: 1024}  # the metric of a route added without one (IP6_RT_PRIO_USER)
_TOLD = {"expires", "error", "age", "users", "used"}  # with a value: how it fares
_STATUS = {"dead", "linkdown", "offload", "offload_failed", "trap", "rt_trap", "rt_offload", "\\"}


class Route(State, frozen=True, kw_only=True):
    """`to`: `default` or a network. `table`: a name or number of `ip route`. `onlink`: `via`
    need not be in a network of `dev`. `line` is only ever read: the words of `ip route`.
    """

    kind: ClassVar[str] = "route"
    read_only: ClassVar[frozenset[str]] = frozenset({"line"})
    reader: ClassVar[str] = r"""
  r_to=${1%%,*} r_table=main r_family=-4
  case $1 in *,table=*) r_table=${1#*,table=}; r_table=${r_table%%,*} ;; esac
  case $r_to in *:*) r_family=-6 ;; esac
  ip -o $r_family route show table "$r_table" exact "$r_to" 2>/dev/null
  return 0
"""

    to: str
    via: str | None = None
    dev: str | None = None
    src: str | None = None
    table: str | int | None = None
    metric: int | None = None
    onlink: bool | None = None
    line: str | None = None

    def __post_init__(self) -> None:
        if self.to != "default":
            network(self.to, self.kind)
        for name in ("via", "src"):
            value = getattr(self, name)
            if value is not None and address(value, self.kind).version != self._version:
                if self.line is not None:
                    continue
                raise InputError(f"{name} {value} is not of {self.to}'s family", key=self.kind)
        if self.dev is not None:
            interface(self.dev, self.kind)
        if self.table is not None and not re.fullmatch(r"[A-Za-z0-9_]{1,32}", str(self.table)):
            raise InputError(f"`{self.table}` is no routing table", key=self.kind)
        if self.metric is not None:
            within(self.metric, 0, 2**32 - 1, "metric", self.kind)
        if self.via is None and self.dev is None and self.line is None:
            raise InputError("a route needs `via` or `dev`", key=self.kind)

    @property
    def _version(self) -> int:
        if self.to != "default":
            return ip_network(self.to).version
        given = self.via or self.src
        return address(given, self.kind).version if given else 4

    @property
    def key(self) -> str:
        to = self.to if self.to != "default" else ("::/0" if self._version == 6 else "0.0.0.0/0")
        key = str(ip_network(to))
        if self.table not in (None, "main", 254, "254"):
            key += f",table={self.table}"
        if self.metric is not None and self.metric != _UNSAID[self._version]:
            key += f",metric={self.metric}"
        return key

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        to, table, metric = _identity(key)
        for text in output.splitlines():
            words = _restorable(text.split())
            said = dict(pairwise(words))
            if not words or int(said.get("metric", 0)) != metric:
                continue
            via = said.get("via")
            if via in ("inet", "inet6"):
                via = said.get(via)
            return cls(
                to=to,
                via=via,
                dev=said.get("dev"),
                src=said.get("src"),
                table=table,
                metric=metric,
                onlink="onlink" in words,
                line=" ".join(words),
            )
        return None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        found = []
        fields = ("line",) if self.line is not None else ("via", "dev", "src", "onlink")
        for field in fields:
            want = getattr(self, field)
            was = getattr(have, field) if have is not None else None
            if want is not None and not _same(want, was):
                found.append(Change(field, show(was), show(want)))
        if have is None and not found:
            found.append(Change("to", "absent", self.to))
        return tuple(found)

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have, want
        to = ip_network(key.partition(",")[0])
        if to.version != way.peer.version:
            return ""
        if way.peer in to and (to.prefixlen >= way.prefix or ",table=" in key):
            return f"the route to {to} leads to this controller"
        if way.via is not None and way.via in to and to.prefixlen > 0:
            return f"the route to {to} leads to {way.via}, the next hop to this controller"
        return ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        to, table, metric = _identity(key)
        family = "-6" if ":" in to else "-4"
        where = ("table", str(table)) if table is not None else ()
        if want is None:
            if have is None:
                return ()
            words = (have.line or to).split()
            return (command("ip", family, "route", "del", *words, *where),)
        if want.line is not None:
            words = want.line.split()
        else:
            words = ["default" if to in ("::/0", "0.0.0.0/0") else to]
            for name in ("via", "dev", "src"):
                value = getattr(want, name)
                words += [name, value] if value is not None else []
            words += ["metric", str(metric)] if metric != _UNSAID[6 if ":" in to else 4] else []
            words += ["onlink"] if want.onlink else []
        verb = "add" if have is None else "replace"
        return (command("ip", family, "route", verb, *words, *where),)


def _identity(key: str) -> tuple[str, str | None, int]:
    """Destination, table (None: main) and metric of a key."""
    to, *rest = key.split(",")
    said = dict(word.split("=", 1) for word in rest if "=" in word)
    return to, said.get("table"), int(said.get("metric", _UNSAID[6 if ":" in to else 4]))


def _restorable(words: list[str]) -> list[str]:
    """A line of `ip route show` as words for `ip route replace`: without what only tells how the
    route fares, and with a next-hop object alone where there is one.
    """
    nexthop = "nhid" in words
    with_value = _TOLD | ({"via", "dev", "weight"} if nexthop else set())
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in with_value:
            skip = True
        elif word not in _STATUS and not (nexthop and word == "nexthop"):
            kept.append(word)
    return kept


def _same(want: object, was: object) -> bool:
    if isinstance(want, str) and isinstance(was, str) and ":" in want:
        try:
            return address(want, "") == address(was, "")
        except InputError:
            return want == was
    return want == was
