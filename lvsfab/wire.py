"""Does a machine that nobody told us of answer for the VIP already? Directors ask their network
before they take it, in the shell that reads them anyway.

The host's own kernel asks (ARP, or a neighbour solicitation), beside the other reads: `ip neigh add
ADDRESS dev DEVICE use`, or where iproute2 is older than 5.16 one ping. What that leaves is a
neighbour entry, which goes again unless there was one. What is fixed by hand is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lvsfab.model import Cluster, Inventory

WAIT = 40  # hundredths of a second from the question: an answer takes some ms on a loaded network

HELPERS = r"""
wire_clock() { # wire_now: hundredths of a second
  read -r wire_now _ </proc/uptime
  wire_now=$((${wire_now%.*} * 100 + 1${wire_now#*.} - 100))
}
wire_ask() { # ADDRESS DEVICE: the kernel asks who has it; wire_told says what came
  has ip && has_link "$2" || return 0
  [ -n "$(ip -o addr show to "$1")" ] && return 0 # this host has it
  wire_was=new
  case $(ip neigh show "$1" dev "$2") in
  *PERMANENT* | *NOARP* | *extern* | *managed*)
    wire_said="${wire_said}unasked $1 $2 its neighbour entry is fixed
"
    return 0 ;;
  ?*) wire_was=known; ip neigh del "$1" dev "$2" ;; # it may be old: asked anew
  esac
  if ip neigh add "$1" dev "$2" use; then :
  elif has ping; then
    ping -c 1 -W 1 -I "$2" "$1" &
  else
    wire_said="${wire_said}unasked $1 $2 iproute2 is older than 5.16, and there is no ping
"
    return 0
  fi
  wire_asked="$wire_asked $wire_was@$1@$2"
  wire_clock; wire_since=$wire_now
}
wire_told() { # HUNDREDTHS: who answered until then, counted from the last question
  for wire_one in $wire_asked; do
    wire_dev=${wire_one#*@} wire_ip=${wire_one#*@}
    wire_ip=${wire_ip%%@*} wire_dev=${wire_dev#*@}
    while :; do
      wire_line=$(ip neigh show "$wire_ip" dev "$wire_dev")
      case $wire_line in *" lladdr "*) break ;; esac
      wire_clock
      [ "$((wire_now - wire_since))" -lt "$1" ] || break
      nap 0.05
    done
    case $wire_line in
    *" lladdr "*)
      wire_line=${wire_line#* lladdr }
      printf 'answer %s %s %s\n' "$wire_ip" "$wire_dev" "${wire_line%% *}"
      [ "${wire_one%%@*}" = known ] && continue ;;
    esac
    ip neigh del "$wire_ip" dev "$wire_dev" 2>/dev/null
  done
  printf '%s' "$wire_said"
  wire_asked= wire_said=
}
"""


@dataclass(frozen=True, slots=True)
class Question:
    """Who has `address`, asked on `dev`."""

    address: str
    dev: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`mac` (lower case) has `address`, heard on `dev`."""

    address: str
    dev: str
    mac: str


def questions(cluster: Cluster | None, inventory: Inventory) -> Mapping[str, tuple[Question, ...]]:
    """What each director asks: about the VIP, and the gateway that moves with it. Not about an
    address that the inventory gives it.
    """
    found: dict[str, tuple[Question, ...]] = {}
    for name in cluster.directors if cluster is not None else ():
        host = inventory.hosts.get(name)
        if cluster is None or host is None:
            continue
        faces = [(cluster.service.vip, host.interface_on(cluster.vip_network or ""))]
        if cluster.keepalived is not None and cluster.keepalived.gateway is not None:
            gateway = cluster.keepalived.gateway
            faces.append((gateway, host.interface_for(gateway)))
        found[name] = tuple(
            Question(str(address), face.name)
            for address, face in faces
            if face is not None and not host.holds(address)
        )
    return found


def answers(output: str) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
    """What `wire_told` printed: who answered, and a sentence for each address that could not be
    asked about. A line that makes no sense is passed over.
    """
    found: list[Answer] = []
    notes: list[str] = []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        words = rest.split(" ", 2)
        if len(words) < 3:
            continue
        address, dev, said = words
        if word == "answer" and re.fullmatch(r"[0-9a-f:]{2,59}", said.lower()):
            found.append(Answer(address, dev, said.lower()))
        elif word == "unasked":
            notes.append(f"nobody was asked on {dev} whether he has {address}: {said}")
    return tuple(found), tuple(notes)


def strangers(
    answers: Iterable[Answer], known: Collection[str], left_out: Collection[str] = ()
) -> tuple[str, ...]:
    """A conflict for each answer by none of the `known` MAC addresses, those of all hosts that were
    read; `left_out`: hosts that were not.
    """
    perhaps = f" that was read (not read: {', '.join(left_out)})" if left_out else ""
    return tuple(
        f"{a.address}: a machine that is no host of the inventory{perhaps} answers for it on "
        f"{a.dev}, MAC {a.mac}; take the address from it, or choose another"
        for a in answers
        if a.mac not in known
    )
