"""One rule at the head of a chain of nftables that guards a host: what it must let in. The chain is
its owner's; nothing but the rule is put there, and nothing but the rule is taken away.
"""

from __future__ import annotations

import re
import zlib
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, State, UnsupportedError

_MATCH = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_ .:,/{}\"-]{1,300}")
_CHAIN = re.compile(r"(ip|ip6|inet)/[A-Za-z][A-Za-z0-9_-]{0,31}/[A-Za-z][A-Za-z0-9_-]{0,31}")

HELPERS = r"""
opening_handle() { # CHAIN MARK: the rule's handle
  o_table=${1#*/}
  nft -a list chain "${1%%/*}" "${o_table%/*}" "${1##*/}" 2>/dev/null |
    sed -n "s/.* comment \"$2\".* # handle \([0-9]*\)\$/\1/p"
}
opening_put() { # CHAIN MARK MATCH
  o_table=${1#*/}
  nft insert rule "${1%%/*}" "${o_table%/*}" "${1##*/}" "$3 accept comment \"$2\""
}
opening_drop() { # CHAIN MARK
  o_table=${1#*/}
  for o_handle in $(opening_handle "$1" "$2"); do
    nft delete rule "${1%%/*}" "${o_table%/*}" "${1##*/}" handle "$o_handle" || return 1
  done
}
"""


class Opening(State, frozen=True, kw_only=True):
    """`chain`: FAMILY/TABLE/CHAIN; `match`: what is let in, in nft's words."""

    kind: ClassVar[str] = "opening"
    reader: ClassVar[str] = r"""
  { has nft && ! dormant nf_tables; } || { echo none; return 0; }
  o_chain=${1%%#*} o_table=${1#*/}
  o_table=${o_table%%/*}
  nft list chain "${1%%/*}" "$o_table" "${o_chain##*/}" >/dev/null 2>&1 || { echo none; return 0; }
  [ -n "$(opening_handle "$o_chain" "lvsfab-${1#*#}")" ] && echo open
  return 0
"""

    chain: str
    match: str = ""

    def __post_init__(self) -> None:
        if not _CHAIN.fullmatch(self.chain):
            raise InputError(
                f"`{self.chain}` is no chain, such as inet/filter/input", key=self.kind
            )
        if self.match and not _MATCH.fullmatch(self.match):
            raise InputError(f"`{self.match}` is no match of nft", key=self.kind)

    @property
    def key(self) -> str:
        return f"{self.chain}#{zlib.crc32(self.match.encode()):08x}"

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        if output.strip() == "none":
            raise UnsupportedError(f"there is no chain {key.partition('#')[0]} of nft to open")
        return cls(chain=key.partition("#")[0]) if output.strip() == "open" else None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        return () if have is not None else (Change("rule", "absent", f"{self.match} accept"),)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        chain, _, mark = key.partition("#")
        where = chain.replace("/", " ")
        if want is None:
            shown = f"nft delete rule {where} handle ..."
            return (command("opening_drop", chain, f"lvsfab-{mark}", shown=shown),)
        shown = f"nft insert rule {where} {want.match} accept"
        return (command("opening_put", chain, f"lvsfab-{mark}", want.match, shown=shown),)
