"""What the host's own firewall lets in, whoever set that up: opened where it is shut, not switched
off. A firewall that lets everything in is left alone.

firewalld is told (at run time: its files stay as they are). Otherwise a rule is put before all
others into each chain of nftables that filters what comes in (iptables-nft's among them), and into
the INPUT of iptables-legacy. A rule of a table of our own would not do: another table's drop wins.
No rule of others is touched; ours is known by its comment, which is the key.
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, State

MOST_SOURCES = 4  # in one rule: nft takes comments of 127 bytes, and the key is ours
_ALLOW = re.compile(r"vrrp|ipip|gre|ping|(?:tcp|udp)(?:/([1-9][0-9]{0,4}))?")
_IPV4_ALONE = ("ipip", "ping")

HELPERS = r"""
fw_part() { printf '%s\n' "$2" | tr ';' '\n' | sed -n "s/^$1=//p"; } # NAME KEY
fw_number() { # PROTOCOL: IANA's
  case $1 in vrrp) echo 112 ;; ipip) echo 4 ;; gre) echo 47 ;; tcp) echo 6 ;; udp) echo 17 ;; esac
}
fw_versions() { # KEY: of IP
  case $(fw_part from "$1")$(fw_part to "$1") in
  *:*) echo 6 ;;
  *.*) echo 4 ;;
  *) case $1 in ipip* | ping*) echo 4 ;; *) echo 4 6 ;; esac ;;
  esac
}
fw_rich() { # KEY SOURCE: a rule in firewalld's words
  f_word=${1%%;*} f_to=$(fw_part to "$1")
  case $(fw_versions "$1") in
  4) f_rich=' family="ipv4"' ;;
  6) f_rich=' family="ipv6"' ;;
  *) f_rich= ;;
  esac
  [ "$2" = any ] || f_rich="$f_rich source address=\"$2\""
  [ -z "$f_to" ] || f_rich="$f_rich destination address=\"$f_to\""
  case $f_word in
  */*) f_rich="$f_rich port port=\"${f_word#*/}\" protocol=\"${f_word%/*}\"" ;;
  ping) f_rich="$f_rich icmp-type name=\"echo-request\"" ;;
  *) f_rich="$f_rich protocol value=\"$(fw_number "$f_word")\"" ;;
  esac
  printf 'rule%s accept' "$f_rich"
}
fw_firewalld() { # KEY add|remove|query; a zone is not told by a device
  f_status=0 f_from=$(fw_part from "$1" | tr , ' ')
  for f_source in ${f_from:-any}; do
    firewall-cmd -q "--$2-rich-rule=$(fw_rich "$1" "$f_source")" || f_status=1
  done
  return $f_status
}
fw_nft_chains() { # KEY: family, table and chain of what filters incoming packets
  has nft && ! dormant nf_tables || return 0
  nft list chains 2>/dev/null | awk -v versions=" $(fw_versions "$1") " '
    $1=="table" { family=$2; table=$3 } $1=="chain" { chain=$2 }
    /type filter hook input/ && (family=="inet" || family=="ip" && versions ~ / 4 / ||
      family=="ip6" && versions ~ / 6 /) { print family, table, chain }'
}
fw_nft_match() { # KEY: in nft's words
  f_word=${1%%;*} f_from=$(fw_part from "$1") f_to=$(fw_part to "$1") f_on=$(fw_part on "$1")
  f_ip=ip
  [ "$(fw_versions "$1")" = 6 ] && f_ip=ip6
  [ -z "$f_on" ] || printf 'iifname "%s" ' "$f_on"
  [ -z "$f_from" ] || printf '%s saddr { %s } ' "$f_ip" "$f_from"
  [ -z "$f_to" ] || printf '%s daddr %s ' "$f_ip" "$f_to"
  case $f_word in
  */*) printf '%s dport %s' "${f_word%/*}" "${f_word#*/}" ;;
  ping) printf 'icmp type echo-request' ;;
  ipip) printf 'ip protocol 4' ;;
  *) printf 'meta l4proto %s' "$(fw_number "$f_word")" ;;
  esac
}
fw_nft_place() { # KEY FAMILY TABLE CHAIN: `ours` where a rule of ours is, `shut` where it drops
  f_rules=$(nft list chain "$2" "$3" "$4" 2>/dev/null)
  case $f_rules in
  *"comment \"lvsfab $1\""*) echo "ours nft/$2/$3/$4" ;;
  *'policy drop'* | *' drop'* | *reject* | *jump* | *goto*) echo "shut nft/$2/$3/$4" ;;
  esac
}
fw_legacy() { # 4|6 ARGUMENTS: iptables-legacy, where its table is in use
  case $1 in 4) f_tool=iptables f_names=ip ;; *) f_tool=ip6tables f_names=ip6 ;; esac
  grep -q '^filter$' "/proc/net/${f_names}_tables_names" 2>/dev/null || return 1
  shift
  has "$f_tool-legacy" && f_tool=$f_tool-legacy
  "$f_tool" "$@"
}
fw_legacy_rule() { # KEY: in iptables' words
  f_word=${1%%;*} f_from=$(fw_part from "$1") f_to=$(fw_part to "$1") f_on=$(fw_part on "$1")
  case $f_word in
  */*) f_rule="-p ${f_word%/*} --dport ${f_word#*/}" ;;
  ping) f_rule='-p icmp --icmp-type echo-request' ;;
  *) f_rule="-p $(fw_number "$f_word")" ;;
  esac
  echo "${f_on:+-i $f_on }${f_from:+-s $f_from }${f_to:+-d $f_to }$f_rule -j ACCEPT"
}
fw_legacy_place() { # KEY 4|6
  f_rules=$(fw_legacy "$2" -S INPUT 2>/dev/null) || return 0
  if fw_legacy "$2" -C INPUT $(fw_legacy_rule "$1") 2>/dev/null; then
    echo "ours iptables-legacy/$2"
    return 0
  fi
  case $f_rules in *'-P INPUT DROP'* | *'-j '[!A]*) echo "shut iptables-legacy/$2" ;; esac
}
fw_places() { # KEY: each place that shuts it out, and each with a rule like ours
  if has firewall-cmd && firewall-cmd -q --state 2>/dev/null; then
    if fw_firewalld "$1" query; then echo ours firewalld; else echo shut firewalld; fi
    return 0
  fi
  fw_nft_chains "$1" | while read -r f_family f_table f_chain; do
    fw_nft_place "$1" "$f_family" "$f_table" "$f_chain"
  done
  for f_version in $(fw_versions "$1"); do fw_legacy_place "$1" "$f_version"; done
}
fw_open() { # KEY
  for f_place in $(fw_places "$1" | sed -n 's/^shut //p'); do
    case $f_place in
    firewalld) fw_firewalld "$1" add ;;
    iptables-legacy/*) fw_legacy "${f_place#*/}" -I INPUT 1 $(fw_legacy_rule "$1") ;;
    nft/*)
      f_chain=$(printf %s "${f_place#nft/}" | tr / ' ')
      nft insert rule $f_chain "$(fw_nft_match "$1") accept comment \"lvsfab $1\"" ;;
    esac || return 1
  done
}
fw_close() { # KEY: takes back what was opened
  if has firewall-cmd && firewall-cmd -q --state 2>/dev/null; then
    fw_firewalld "$1" remove
    return 0
  fi
  fw_nft_chains "$1" | while read -r f_chain; do
    nft -a list chain $f_chain 2>/dev/null | grep -F "comment \"lvsfab $1\" # handle" |
      sed 's/.*# handle //' |
      while read -r f_handle; do nft delete rule $f_chain handle "$f_handle"; done
  done
  for f_version in $(fw_versions "$1"); do
    fw_legacy "$f_version" -D INPUT $(fw_legacy_rule "$1") 2>/dev/null
  done
  return 0
}
"""


class LetIn(State, frozen=True, kw_only=True):
    """`allow`: vrrp, ipip, gre, ping, tcp, udp, tcp/PORT or udp/PORT; from everywhere, or only from
    `sources`, to the address `to`, by the device `dev`. Only ever read: `shut`, the places that do
    not let it in; `ours`, those with a rule for it. A firewall that somebody took away since needs
    no undo.
    """

    kind: ClassVar[str] = "let_in"
    read_only: ClassVar[frozenset[str]] = frozenset({"shut", "ours"})
    reader: ClassVar[str] = """
  echo read
  fw_places "$1"
  return 0
"""

    allow: str
    sources: tuple[str, ...] = ()
    to: str = ""
    dev: str = ""
    shut: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        match = _ALLOW.fullmatch(self.allow)
        if match is None or int(match[1] or 1) > 65535:
            raise InputError(
                f"`{self.allow}` is none of vrrp, ipip, gre, ping, tcp, udp, tcp/PORT, udp/PORT",
                key=self.kind,
            )
        named = [*self.sources, *([self.to] if self.to else [])]
        found = {words.address(text, self.kind).version for text in named}
        if len(found) > 1 or (6 in found and self.allow in _IPV4_ALONE):
            raise InputError(
                f"{self.allow} with {', '.join(named)}: not one version of IP", key=self.kind
            )
        if len(self.sources) > MOST_SOURCES or len(self.key) > 119:
            raise InputError(
                f"{len(self.sources)} sources are too many for one rule", key=self.kind
            )
        if self.dev:
            words.interface(self.dev, self.kind)

    @property
    def key(self) -> str:
        parts = (("from", ",".join(self.sources)), ("to", self.to), ("on", self.dev))
        return ";".join((self.allow, *(f"{name}={text}" for name, text in parts if text)))

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        first, *places = output.splitlines() or [""]
        if first != "read":
            return None
        allow, *parts = key.split(";")
        said = dict(part.partition("=")[::2] for part in parts)
        found = [line.partition(" ")[::2] for line in places]
        return cls(
            allow=allow,
            sources=tuple(said["from"].split(",")) if "from" in said else (),
            to=said.get("to", ""),
            dev=said.get("on", ""),
            shut=tuple(place for word, place in found if word == "shut"),
            ours=tuple(place for word, place in found if word == "ours"),
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        shut, ours = (have.shut, have.ours) if have is not None else ((), ())
        if self.shut:  # an undo
            return (Change("let in", "yes", _told(self.shut)),) if ours else ()
        return (Change("let in", _told(shut), "yes"),) if shut else ()

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        what = key.replace(";", " ").replace("=", " ")
        if want is not None and not want.shut:
            return (command("fw_open", key, shown=f"let {what} in"),)
        return (command("fw_close", key, shown=f"let {what} in no more"),)


def _told(places: tuple[str, ...]) -> str:
    return f"not by {', '.join(places)}"
