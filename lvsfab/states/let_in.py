"""What the host's own firewall lets in, whoever set that up: opened where it is shut, not switched
off. A firewall that lets everything in is left alone.

firewalld is told (at run time: its files stay as they are). Otherwise a rule is put before all
others into each chain of nftables that filters what comes in (iptables-nft's among them), and into
the INPUT of iptables-legacy. A rule of a table of our own would not do: another table's drop wins.
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, State

PROTOCOLS = {"vrrp": 112, "ipip": 4, "gre": 47}  # IANA's numbers
_ALLOW = re.compile(r"vrrp|ipip|gre|(tcp|udp)/([1-9][0-9]{0,4})")

HELPERS = r"""
fw_number() { case $1 in vrrp) echo 112 ;; ipip) echo 4 ;; gre) echo 47 ;; esac; }
fw_firewalld() { # ALLOW add|remove|query
  case $1 in
  */*) firewall-cmd -q "--$2-port=${1#*/}/${1%/*}" ;;
  *) firewall-cmd -q "--$2-protocol=$1" ;;
  esac
}
fw_nft_chains() { # family, table and chain of what filters incoming packets
  has nft && ! dormant nf_tables || return 0
  nft list chains 2>/dev/null | awk '
    $1=="table" { family=$2; table=$3 } $1=="chain" { chain=$2 }
    /type filter hook input/ && family ~ /^(ip|inet)$/ { print family, table, chain }'
}
fw_nft_shut() { # ALLOW FAMILY TABLE CHAIN: does it drop something, and has no rule of ours?
  f_rules=$(nft list chain "$2" "$3" "$4" 2>/dev/null)
  case $f_rules in *"comment \"lvsfab $1\""*) return 1 ;; esac
  case $f_rules in *'policy drop'* | *' drop'* | *reject* | *jump* | *goto*) return 0 ;; esac
  return 1
}
fw_legacy() { # iptables-legacy, where its table is in use
  grep -q '^filter$' /proc/net/ip_tables_names 2>/dev/null || return 1
  if has iptables-legacy; then iptables-legacy "$@"; else iptables "$@"; fi
}
fw_legacy_rule() { case $1 in
  */*) echo "-p ${1%/*} --dport ${1#*/} -j ACCEPT" ;;
  *) echo "-p $(fw_number "$1") -j ACCEPT" ;;
  esac
}
fw_legacy_shut() {
  f_rules=$(fw_legacy -S INPUT 2>/dev/null) || return 1
  fw_legacy -C INPUT $(fw_legacy_rule "$1") 2>/dev/null && return 1
  case $f_rules in *'-P INPUT DROP'* | *'-j '[!A]*) return 0 ;; esac
  return 1
}
fw_shut() { # ALLOW: each place that shuts it out
  if has firewall-cmd && firewall-cmd -q --state 2>/dev/null; then
    fw_firewalld "$1" query || echo firewalld
    return 0
  fi
  fw_nft_chains | while read -r f_family f_table f_chain; do
    fw_nft_shut "$1" "$f_family" "$f_table" "$f_chain" && echo "nft/$f_family/$f_table/$f_chain"
  done
  fw_legacy_shut "$1" && echo iptables-legacy
  return 0
}
fw_open() { # ALLOW
  for f_place in $(fw_shut "$1"); do
    case $f_place in
    firewalld) fw_firewalld "$1" add ;;
    iptables-legacy) fw_legacy -I INPUT 1 $(fw_legacy_rule "$1") ;;
    nft/*)
      f_chain=$(printf %s "${f_place#nft/}" | tr / ' ')
      case $1 in
      */*) f_match="${1%/*} dport ${1#*/}" ;;
      *) f_match="ip protocol $(fw_number "$1")" ;;
      esac
      nft insert rule $f_chain $f_match accept comment "\"lvsfab $1\"" ;;
    esac || return 1
  done
}
fw_close() { # ALLOW: takes back what was opened
  if has firewall-cmd && firewall-cmd -q --state 2>/dev/null; then
    fw_firewalld "$1" remove
    return 0
  fi
  fw_nft_chains | while read -r f_chain; do
    nft -a list chain $f_chain 2>/dev/null |
      sed -n "s,.*comment \"lvsfab $1\" # handle \([0-9]*\)\$,\1,p" |
      while read -r f_handle; do nft delete rule $f_chain handle "$f_handle"; done
  done
  fw_legacy -D INPUT $(fw_legacy_rule "$1") 2>/dev/null
  return 0
}
"""


class LetIn(State, frozen=True, kw_only=True):
    """`allow`: vrrp, ipip, gre, tcp/PORT or udp/PORT, from everywhere. `shut` is only ever read:
    the places that do not let it in.
    """

    kind: ClassVar[str] = "let_in"
    read_only: ClassVar[frozenset[str]] = frozenset({"shut"})
    reader: ClassVar[str] = """
  echo read
  fw_shut "$1"
"""

    allow: str
    shut: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        match = _ALLOW.fullmatch(self.allow)
        if match is None or int(match[2] or 1) > 65535:
            raise InputError(
                f"`{self.allow}` is none of {', '.join(PROTOCOLS)}, tcp/PORT, udp/PORT",
                key=self.kind,
            )

    @property
    def key(self) -> str:
        return self.allow

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        first, *places = output.split()
        return cls(allow=key, shut=tuple(places)) if first == "read" else None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        was = have.shut if have is not None else ()
        if bool(was) == bool(self.shut):
            return ()
        return (Change("let in", _told(was), _told(self.shut)),)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is not None and not want.shut:
            return (command("fw_open", key, shown=f"let {key} in"),)
        return (command("fw_close", key, shown=f"let {key} in no more"),)


def _told(places: tuple[str, ...]) -> str:
    return f"not by {', '.join(places)}" if places else "yes"
