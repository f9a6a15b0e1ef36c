"""The dead-man's switch: a change that could cut the controller off is undone by the host itself,
unless a *new* connection confirms in time that the host can still be reached.

Which steps are such is decided here, from how this controller reaches the host (`Way`); ordinary
runs have none and pay nothing. On the host the switch is a subshell of the run's own `sh`, cut
loose from it: no tool but a POSIX shell, `sleep` and what the steps themselves use.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import groupby, pairwise

from lvsfab.model import IPAddress
from lvsfab.plan import Have, Step, Unsupported
from lvsfab.session import Command
from lvsfab.states.address import Address
from lvsfab.states.arptables import ArptablesRule
from lvsfab.states.base import changes
from lvsfab.states.link import Link
from lvsfab.states.nft import NftTable
from lvsfab.states.route import Route
from lvsfab.states.service import Service
from lvsfab.states.sysctl import Sysctl

LIMIT = 20  # s that the host waits for a new connection before it undoes

HELPERS = r"""
ssh_way() { # how this shell's controller reaches the host: the addresses, and the way back to it
  w_ssh=$SSH_CONNECTION w_pid=$$
  while [ -z "$w_ssh" ] && [ "${w_pid:-0}" -gt 1 ]; do # sudo takes it away, its parents have it
    w_ssh=$(tr '\0' '\n' <"/proc/$w_pid/environ" | sed -n 's/^SSH_CONNECTION=//p')
    w_pid=$(sed 's/.*) [A-Za-z] \([0-9]*\) .*/\1/' "/proc/$w_pid/stat")
  done 2>/dev/null
  [ -n "$w_ssh" ] && has ip || return 0
  set -- $w_ssh
  printf 'ssh %s %s\n' "$1" "$3"
  w_ip=-4; case $1 in *:*) w_ip=-6 ;; esac
  { ip -o $w_ip route get "$1" | sed 's/^/get /'
    ip -o $w_ip route show match "$1" | sed 's/ .*//; s/^/match /'; } 2>/dev/null
  return 0
}
deadman_arm() { # TOKEN SECONDS DEVICE: from now on, undo steps unless somebody confirms in time
  d_dir=/run/lvsfab/deadman-$1
  mkdir "$d_dir" && echo 0 >"$d_dir/at" || return 1
  ip -o -4 route show 2>/dev/null | deadman_routes >"$d_dir/routes4"
  ip -o -6 route show 2>/dev/null | deadman_routes >"$d_dir/routes6"
  ip -o addr show dev "$3" 2>/dev/null |
    sed 's/^[0-9]*: *[^ ]* *inet6* *\([^ ]*\) .*/\1/' >"$d_dir/addresses"
  ( (trap - EXIT; trap '' HUP INT TERM PIPE; deadman_watch "$d_dir" "$2" "$3") \
    </dev/null >/dev/null 2>&1 & )
}
deadman_routes() {
  sed -e 's/\\//g' -e 's/ linkdown//g' -e 's/ dead//g' -e 's/ expires [^ ]*//'
}
deadman_watch() {
  d_left=$2
  while [ "$d_left" -gt 0 ]; do
    sleep 1
    [ -d "$1" ] || return 0
    d_left=$((d_left - 1))
  done
  mkdir "$1/decided" || return 0
  read -r d_at <"$1/at"
  while [ "$d_at" -gt 0 ]; do
    "deadman_undo_$d_at"
    d_at=$((d_at - 1))
  done
  # what the kernel took along (routes of an address, further addresses of its subnet)
  while read -r d_line; do ip address add "$d_line" dev "$3"; done <"$1/addresses"
  while read -r d_line; do ip -4 route add $d_line; done <"$1/routes4"
  while read -r d_line; do ip -6 route add $d_line; done <"$1/routes6"
  rm -rf "$1"
  rmdir /run/lvsfab
}
deadman_confirm() { # TOKEN: the host is reached; status 3: too late
  mkdir "/run/lvsfab/deadman-$1/decided" 2>/dev/null || return 3
  rm -rf "/run/lvsfab/deadman-$1"
}
deadman_wait() { # until no switch of an earlier run may undo anything any more, 40 s at most
  d_tries=0
  while [ "$d_tries" -lt 40 ]; do
    set -- /run/lvsfab/deadman-*
    [ -d "$1" ] || return 0
    d_tries=$((d_tries + 1))
    sleep 1
  done
  rm -rf /run/lvsfab/deadman-* # its watcher died: the journal knows what was there
}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How this controller reaches a host, as the host sees it: the controller's address and its
    own, the device and next hop back to the controller, that route's prefix length.
    """

    peer: IPAddress
    local: IPAddress
    dev: str = ""
    via: IPAddress | None = None
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Guard:
    """A switch around steps: `undo` has for each step the commands that take it back."""

    token: str
    dev: str
    undo: tuple[tuple[Command, ...], ...]
    seconds: int

    def arm(self) -> str:
        """The shell words that arm it."""
        return f"deadman_arm {self.token} {self.seconds} {self.dev or 'lo'}"

    def before(self, number: int) -> str:
        """What comes before the commands of step `number` (from 0)."""
        return f"echo {number + 1} >/run/lvsfab/deadman-{self.token}/at &&\n"

    def functions(self) -> list[str]:
        return [
            f"deadman_undo_{i + 1}() {{\n" + "\n".join(c.script() for c in undo) + "\n:\n}"
            for i, undo in enumerate(self.undo)
        ]


def parse(output: str) -> Way | None:
    """The record of `ssh_way`. None: the host does not know how it is reached."""
    said: dict[str, list[str]] = {}
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        said.setdefault(word, []).append(rest)
    try:
        peer, local = map(ip_address, said["ssh"][0].split())
    except (KeyError, ValueError):
        return None
    words = dict(pairwise(said.get("get", [""])[0].split()))
    try:
        via = ip_address(words["via"]) if "via" in words else None
        lengths = [0 if to == "default" else ip_network(to).prefixlen for to in said["match"]]
    except (KeyError, ValueError):
        via, lengths = None, []
    dev = words.get("dev", "")
    good = re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", dev)
    return Way(peer, local, dev if good else "", via, max(lengths, default=0))


def reverse(step: Step) -> tuple[Command, ...]:
    """The commands that take a step back."""
    return step.resource.type.commands(step.resource.key, step.resource.state, step.have)


def guard(steps: Sequence[Step], way: Way | None) -> Guard:
    """A switch for these steps, with a name of its own."""
    return Guard(secrets.token_hex(8), way.dev if way else "", tuple(map(reverse, steps)), LIMIT)


def differs(step: Step, have: Have) -> bool:
    """Whether what a step changed is not (again) as it was."""
    return isinstance(have, Unsupported) or bool(changes(step.have, have))


def parts(steps: Sequence[Step], way: Way | None) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """`steps` in their order, in parts: "" or how the part could cut the controller off."""
    for risky, group in groupby(steps, key=lambda step: bool(way and danger(step, way))):
        part = tuple(group)
        yield (danger(part[0], way) if risky and way else ""), part


def danger(step: Step, way: Way) -> str:
    """How a step could cut the controller off; "": it cannot."""
    state, have, key = step.resource.state, step.have, step.resource.key
    kind = step.resource.type
    if kind is Address:
        return _address(state, have, key, way)
    if kind is Route:
        return _route(key, way)
    if kind is Link and key == way.dev:
        only_up = isinstance(state, Link) and {c.field for c in step.changes} == {"up"} and state.up
        return "" if only_up else f"{key} is the device that leads to this controller"
    if kind is NftTable:
        return _nft(state if isinstance(state, NftTable) else have, key, way)
    if kind is ArptablesRule:
        return _arptables(state if isinstance(state, ArptablesRule) else have, way)
    if kind is Sysctl:
        return _sysctl(key, state, way)
    if kind is Service and _NETWORKING.match(key):
        return f"{key} could take the network or the login along"
    return ""


_NETWORKING = re.compile(
    r"(ssh|sshd|dropbear|network|networking|NetworkManager|systemd-networkd|firewalld|nftables|"
    r"iptables|ip6tables|netfilter-persistent|ufw|shorewall|dhcpcd|connman)([.@].*)?$"
)


def _address(state: object, have: object, key: str, way: Way) -> str:
    ip, _, dev = key.partition("@")
    if have is not None and dev == way.dev:
        return f"an address of {dev} goes, the device that leads to this controller"
    if ip_address(ip) in (way.local, way.peer, way.via):
        return f"{ip} is on the way to this controller"
    if isinstance(state, Address):
        network = ip_network(state.address, strict=False)
        if network.version == way.peer.version and network.prefixlen >= way.prefix:
            for end in (way.peer, way.via):
                if end is not None and end in network:
                    return f"{network} on {dev} leads away from {end}"
    return ""


def _route(key: str, way: Way) -> str:
    to = ip_network(key.partition(",")[0])
    if to.version != way.peer.version:
        return ""
    if way.peer in to and (to.prefixlen >= way.prefix or ",table=" in key):
        return f"the route to {to} leads to this controller"
    if way.via is not None and way.via in to and to.prefixlen > 0:
        return f"the route to {to} leads to {way.via}, the next hop to this controller"
    return ""


def _nft(table: object, key: str, way: Way) -> str:
    family = key.partition("/")[0]
    other = {"ip": 6, "ip6": 4}.get(family)
    if other == way.peer.version or (family == "arp" and way.peer.version == 6):
        return ""
    if family == "arp" and isinstance(table, NftTable):
        ours = {str(way.local), str(way.peer), str(way.via)}
        for line in table.content.splitlines():
            if not re.search(r"\b(drop|reject|set)\b", line):
                continue
            named = re.search(r"arp [ds]addr ip (\S+)", line)
            if named is None or named[1] in ours or "policy drop" in line:
                return f"table {key} could stop ARP on the way to this controller"
        return ""
    return f"table {key} could stop what comes from this controller"


def _arptables(rule: object, way: Way) -> str:
    if way.peer.version == 6 or not isinstance(rule, ArptablesRule) or rule.target == "ACCEPT":
        return ""
    named = {rule.source, rule.destination} - {None}
    ours = {str(way.local), str(way.peer), str(way.via)}
    if rule.device in (None, way.dev) and (not named or named & ours):
        return "the rule could stop ARP on the way to this controller"
    return ""


def _sysctl(name: str, state: object, way: Way) -> str:
    value = state.value if isinstance(state, Sysctl) else ""
    words = name.split(".")
    if words[1:2] != ["ipv6" if way.peer.version == 6 else "ipv4"]:
        return ""
    if words[2:3] != ["conf"] or words[3:4] not in (["all"], ["default"], [way.dev]):
        return ""
    risky = {
        "rp_filter": value == "1",
        "arp_ignore": value not in ("0", "1", "2"),
        "disable_ipv6": value != "0",
        "forwarding": way.peer.version == 6,  # a router takes no routes from advertisements
        "accept_ra": way.peer.version == 6,
    }
    return f"{name}={value} can drop what comes from this controller" * risky.get(words[-1], False)
