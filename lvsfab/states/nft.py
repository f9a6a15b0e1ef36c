"""One table of nftables, ours alone, with its whole content; replaced in one transaction.

nft prints a table otherwise than it was written. So what it printed right after we wrote the
table is kept on the host beside what we had written: as long as it prints the same, the table
is what was wanted, and any change by other hands shows.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import ClassVar, Literal, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, Others, State, Way

_END = "lvsfab-listing"

HELPERS = r"""
nft_put() { # FAMILY NAME CONTENT, all in one transaction, and what nft then says of it
  printf 'add table %s %s\ndelete table %s %s\ntable %s %s {\n%s\n}\n' \
    "$1" "$2" "$1" "$2" "$1" "$2" "$3" | nft -f - || return 1
  mkdir -p /run/lvsfab/nft || return 1
  { printf %s "$3" | base64 | tr -d '\n'; echo; nft -s list table "$1" "$2"; } \
    >"/run/lvsfab/nft/$1-$2"
}
nft_drop() { # FAMILY NAME
  nft_forget "$1" "$2" # first: a table alone still shows
  nft delete table "$1" "$2"
}
nft_forget() { rm -f "/run/lvsfab/nft/$1-$2"; rmdir /run/lvsfab/nft 2>/dev/null; return 0; }
"""


class NftTable(State, frozen=True, kw_only=True):
    """`content`: what stands between the table's braces. `listing` is only ever read: the content
    as nft prints it, without counters.
    """

    kind: ClassVar[str] = "nft"
    read_only: ClassVar[frozenset[str]] = frozenset({"listing"})
    # nft itself would make the kernel load nf_tables
    reader: ClassVar[str] = r"""
  has nft && ! dormant nf_tables || return 0
  n_name=${1#*/}
  nft -s list table "${1%%/*}" "$n_name" 2>/dev/null || return 0
  echo lvsfab-listing
  cat "/run/lvsfab/nft/${1%%/*}-$n_name" 2>/dev/null
  return 0
"""

    family: Literal["arp", "ip", "ip6", "inet", "bridge"]
    name: str
    content: str
    listing: str | None = None

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise InputError(f"`{self.name}` is no table name", key=self.kind)
        if self.listing is None:
            _check(self.content, self.kind)

    @property
    def key(self) -> str:
        return f"{self.family}/{self.name}"

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        listing, mark, stamp = output.partition(f"\n{_END}\n")
        if not mark:
            return None
        family, _, name = key.partition("/")
        coded, _, then = stamp.partition("\n")
        content = body = _body(listing)
        if then and _body(then) == body:
            try:
                content = base64.b64decode(coded, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                content = body
        return cls(family=family, name=name, content=content, listing=body)  # type: ignore[arg-type]

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        want = self.content
        if have is None:
            return (Change("content", "absent", _told(want)),)
        if self.listing is not None:  # an undo: nft prints what it printed then
            same = self.listing == have.listing
        else:
            same = have.content.strip() == want.strip()
        return () if same else (Change("content", _told(have.content), _told(want)),)

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or not want.changes(have):
            return ""
        return f"there is a table of that name, with other content: {_told(have.content)[:200]}"

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        family, table = key.partition("/")[0], want or have
        other = {"ip": 6, "ip6": 4}.get(family)
        if other == way.peer.version or (family == "arp" and way.peer.version == 6):
            return ""
        if family != "arp" or table is None:
            return f"table {key} could stop what comes from this controller"
        for line in table.content.splitlines():
            if not re.search(r"\b(drop|reject|set)\b", line):
                continue
            named = re.search(r"arp [ds]addr ip (\S+)", line)
            if named is None or named[1] in way.ends or "policy drop" in line:
                return f"table {key} could stop ARP on the way to this controller"
        return ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        family, _, name = key.partition("/")
        if want is None:
            shown = f"nft delete table {family} {name}"
            return (command("nft_drop", family, name, shown=shown),)
        text = want.content.strip() if want.listing is None else want.listing
        steps = [command("nft_put", family, name, text, shown=f"nft -f - # table {family} {name}")]
        if want.listing is not None:  # not ours
            steps.append(command("nft_forget", family, name, shown="true"))
        return tuple(steps)


def _body(listing: str) -> str:
    """What stands between the outer braces of a listing."""
    _, _, rest = listing.partition("{")
    return rest.rpartition("}")[0].strip("\n")


def _told(content: str) -> str:
    return "; ".join(" ".join(line.split()) for line in content.splitlines() if line.strip())


def _check(content: str, kind: str) -> None:
    """The content must stay within the table's braces, and read no other file."""
    if not re.fullmatch(r"[\t\n -~]{1,65536}", content):
        raise InputError("a table's content is printable text", key=kind)
    if re.search(r"\b(include|define|undefine|redefine)\b", content):
        raise InputError("a table's content cannot include or define", key=kind)
    depth = 0
    for char in re.sub(r'"[^"\n]*"|#[^\n]*', "", content):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            break
    if depth != 0 or '"' in re.sub(r'"[^"\n]*"|#[^\n]*', "", content):
        raise InputError("braces or quotes of the table's content do not match", key=kind)
