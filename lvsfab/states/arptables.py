"""One rule of arptables: what a real server does with ARP for the VIP, and with ARP alone.

By `arptables-legacy`, the kernel's arp_tables, where it is installed; else by whatever `arptables`
is: today's RHEL and openSUSE have only the variant that speaks to nftables. It takes and prints the
same words, but leaves its table and modules behind; those go with the last rule.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, State, Way

HELPERS = r"""
arptables_over_nft() {
  has arptables-legacy && return 1
  case $(arptables -V 2>/dev/null) in *nf_tables*) ;; *) return 1 ;; esac
}
arptables_tool() { # -A|-D CHAIN RULE...
  has arptables-legacy && { arptables-legacy "$@"; return; }
  arptables_over_nft || { arptables "$@"; return; }
  a_brought=/run/lvsfab/arptables # what the first rule brings: modules, the table
  if [ "$1" = -A ] && [ ! -e "$a_brought" ]; then
    mkdir -p /run/lvsfab || return 1
    for a_module in nft_compat nf_tables; do loaded "$a_module" || echo "$a_module"; done >"$a_brought"
    { ! dormant nf_tables && nft list table arp filter >/dev/null 2>&1; } || echo table >>"$a_brought"
  fi
  arptables "$@" || return 1
  [ "$1" = -D ] && [ -e "$a_brought" ] || return 0
  arptables -n -L | grep -q '^-' && return 0
  if grep -q '^table$' "$a_brought"; then
    arptables -X # its chains; only nft can take the table itself away
    ! has nft || nft delete table arp filter
  fi
  a_modules=$(grep -v '^table$' "$a_brought")
  rm -f "$a_brought"
  for a_module in $a_modules; do
    a_tries=0 # what a rule used is free a moment after it
    while loaded "$a_module" && ! rmmod "$a_module" 2>/dev/null && [ "$a_tries" -lt 10 ]; do
      a_tries=$((a_tries + 1)); nap 0.1
    done
  done
  rmdir /run/lvsfab 2>/dev/null
  return 0
}
"""  # noqa: E501


class ArptablesRule(State, frozen=True, kw_only=True):
    """In table filter. `source`, `destination`: IPv4 addresses in the ARP message. `device`:
    where it comes in (INPUT) or goes out (OUTPUT). Target `mangle` puts `mangle_source` in place
    of the source address.
    """

    kind: ClassVar[str] = "arptables"
    # a list of the table would make the kernel load it
    reader: ClassVar[str] = r"""
  if arptables_over_nft; then dormant nf_tables && return 0
  else grep -q '^filter$' /proc/net/arp_tables_names 2>/dev/null || return 0
  fi
  arptables_tool -n -L "${1%%,*}" 2>/dev/null | grep '^-j'
  return 0
"""

    chain: Literal["INPUT", "OUTPUT", "FORWARD"]
    source: str | None = None
    destination: str | None = None
    device: str | None = None
    target: Literal["DROP", "ACCEPT", "mangle"]
    mangle_source: str | None = None

    def __post_init__(self) -> None:
        for value in (self.source, self.destination, self.mangle_source):
            if value is not None and words.address(value, self.kind).version != 4:
                raise InputError(f"{value}: ARP is IPv4's alone", key=self.kind)
        if self.device is not None:
            words.interface(self.device, self.kind)
        if (self.target == "mangle") != (self.mangle_source is not None):
            raise InputError("`mangle_source` and target mangle go together", key=self.kind)

    def _rule(self) -> tuple[str, ...]:
        """The rule as arptables(8) is told it, without verb and chain."""
        rule: list[str] = []
        if self.source is not None:
            rule += ["-s", self.source]
        if self.destination is not None:
            rule += ["-d", self.destination]
        if self.device is not None:
            rule += ["-o" if self.chain == "OUTPUT" else "-i", self.device]
        rule += ["-j", self.target]
        if self.mangle_source is not None:
            rule += ["--mangle-ip-s", self.mangle_source]
        return tuple(rule)

    @property
    def key(self) -> str:
        return ",".join((self.chain, *self._rule()))

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        chain, *rule = key.split(",")
        want = _pairs(rule)
        for line in output.splitlines():
            if _pairs(line.split()) == want:
                return cls(
                    chain=chain,  # type: ignore[arg-type]
                    source=want.get("-s"),
                    destination=want.get("-d"),
                    device=want.get("-i") or want.get("-o"),
                    target=want.get("-j", "DROP"),  # type: ignore[arg-type]
                    mangle_source=want.get("--mangle-ip-s"),
                )
        return None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if have is not None:
            return ()  # the key is the whole rule
        return (Change("rule", "absent", " ".join((self.chain, *self._rule()))),)

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        rule = want or have
        if way.peer.version == 6 or rule is None or rule.target == "ACCEPT":
            return ""
        named = {rule.source, rule.destination} - {None}
        if rule.device in (None, way.dev) and (not named or named & way.ends):
            return "the rule could stop ARP on the way to this controller"
        return ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        chain, *rule = key.split(",")
        argv = ("-D" if want is None else "-A", chain, *rule)
        return (command("arptables_tool", *argv, shown="arptables " + " ".join(argv)),)


def _pairs(rule: list[str]) -> dict[str, str]:
    """Options with their values; arptables prints them in an order of its own. A wildcard device
    is one that was not said.
    """
    pairs = dict(zip(rule[::2], rule[1::2], strict=False))
    return {name: value for name, value in pairs.items() if value not in ("*", "any")}
