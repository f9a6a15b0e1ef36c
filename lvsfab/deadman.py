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
from itertools import groupby, pairwise, takewhile

from lvsfab.plan import Have, Step, Unsupported
from lvsfab.session import Command
from lvsfab.states.base import Way, changes

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
  printf 'ssh %s %s %s\n' "$1" "$3" "$4"
  w_ip=-4; case $1 in *:*) w_ip=-6 ;; esac
  w_get=$(ip -o $w_ip route get "$1" 2>/dev/null)
  printf 'get %s\nbelow' "$w_get"
  w_dev=${w_get#* dev }
  way_below "${w_dev%% *}"
  printf '\nmatch\n'
  ip -o $w_ip route show match "$1" 2>/dev/null
  return 0
}
way_below() { # DEVICE: those that it stands on, and what they stand on
  for w_low in /sys/class/net/"$1"/lower_*; do
    [ -e "$w_low" ] || continue
    printf ' %s' "${w_low##*/lower_}"
    way_below "${w_low##*/lower_}"
  done
}
deadman_arm() { # TOKEN SECONDS DEVICE...: from now on, undo unless somebody confirms in time
  d_dir=/run/lvsfab/deadman-$1 d_seconds=$2
  shift 2
  mkdir "$d_dir" || return 1
  if ! { echo 0 >"$d_dir/at" && deadman_routes -4 >"$d_dir/routes4" &&
    deadman_routes -6 >"$d_dir/routes6" && deadman_addresses " $* " >"$d_dir/addresses"; }; then
    rm -rf "$d_dir"
    return 1
  fi
  ( (trap - EXIT; trap '' HUP INT TERM PIPE; deadman_watch "$d_dir" "$d_seconds") \
    </dev/null >/dev/null 2>&1 & )
}
deadman_routes() { # -4 | -6: as `ip route add` takes them; the local table is the kernel's own
  { ip -o "$1" route show table all || ip -o "$1" route show; } 2>/dev/null | # not every busybox
    sed -e 's/\\//g' -e '/ table \(local\|255\|unspec\) /d' -e 's/ linkdown//g' -e 's/ dead//g' \
      -e 's/ expires [^ ]*//' -e 's/ error [^ ]*//'
}
deadman_addresses() { # DEVICES: as `ip address add` takes them, lifetimes last
  ip -o addr show 2>/dev/null | while read -r _ d_dev d_family d_first d_rest; do
    case $d_family in inet | inet6) ;; *) continue ;; esac
    case $1 in *" $d_dev "*) ;; *) continue ;; esac
    d_words="$d_first dev $d_dev" d_value= d_label= d_times=
    case $d_rest in *" valid_lft "*) d_times=" valid_lft ${d_rest##* valid_lft }" ;; esac
    for d_word in ${d_rest%% valid_lft *}; do
      case $d_value$d_family/${d_word%\\} in
      =*) d_words="$d_words $d_word" d_value= ;;
      */peer | */brd | */any | */metric | */scope | */proto)
        d_words="$d_words $d_word" d_value== ;;
      */nodad | */home | */noprefixroute | */autojoin) d_words="$d_words $d_word" ;;
      inet/"$d_dev"*) d_label=" label $d_word" ;; # the last of them: flags come before it
      esac
    done
    printf '%s\n' "$d_words$d_label$d_times"
  done | sed -e 's/\\//g' -e 's/ proto kernel_[^ ]*//' -e 's/\(_lft [0-9]*\)sec/\1/g'
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
  sleep 1 # daemons that were told so let go of their addresses
  # what the kernel took along (routes of an address or a link, further addresses of a subnet)
  while read -r d_line; do # an old ip knows no lifetimes
    ip address add $d_line || ip address add ${d_line%% valid_lft *}
  done <"$1/addresses"
  for d_again in 1 2; do # a route stands before the one that its next hop needs
    while read -r d_line; do ip -4 route add $d_line; done <"$1/routes4"
    while read -r d_line; do ip -6 route add $d_line; done <"$1/routes6"
  done
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
class Guard:
    """A switch around steps: `undo` has for each step the commands that take it back. A connection
    can tell `shows_after` s after them whether it is cut off.
    """

    token: str
    devices: tuple[str, ...]
    undo: tuple[tuple[Command, ...], ...]
    seconds: int
    shows_after: int = 0

    def arm(self) -> str:
        """The shell words that arm it."""
        return " ".join(("deadman_arm", self.token, str(self.seconds), *self.devices))

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
    head, _, routes = output.partition("\nmatch\n")
    said = dict(line.partition(" ")[::2] for line in head.splitlines())
    try:
        peer, local = map(ip_address, said["ssh"].split()[:2])
    except (KeyError, ValueError):
        return None
    words = dict(pairwise(said.get("get", "").split()))
    try:
        via = ip_address(words["via"]) if "via" in words else None
        match = [line.split()[0] for line in routes.splitlines() if line.strip()]
        lengths = [0 if to == "default" else ip_network(to).prefixlen for to in match]
    except ValueError:
        via, lengths = None, []
    dev, *below = (
        name if re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", name) else ""
        for name in (words.get("dev", ""), *said.get("below", "").split())
    )
    port = re.fullmatch(r"\S+ \S+ ([0-9]{1,5})", said["ssh"])
    return Way(
        peer, local, dev, via, max(lengths, default=0),
        below=tuple(filter(None, below)), port=int(port[1]) if port else 0,
    )  # fmt: skip


def reverse(step: Step) -> tuple[Command, ...]:
    """The commands that take a step back."""
    return step.resource.type.reverse(step.resource.key, step.resource.state, step.have)


def guard(steps: Sequence[Step], way: Way | None) -> Guard:
    """A switch for these steps, with a name of its own."""
    devices = way.devices if way else ()
    after = max((s.resource.type.shows_after for s in steps if way and danger(s, way)), default=0)
    return Guard(
        secrets.token_hex(8), devices, tuple(map(reverse, steps)), LIMIT + after, shows_after=after
    )


def differs(step: Step, have: Have) -> bool:
    """Whether what a step changed is not (again) as it was."""
    return isinstance(have, Unsupported) or bool(changes(step.have, have))


def parts(steps: Sequence[Step], way: Way | None) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """`steps` in their order, in parts: "" or how the part could cut the controller off."""
    told = [danger(step, way) if way else "" for step in steps]
    guarded = [bool(text) for text in told]
    for i, step in enumerate(steps):
        if told[i] and step.resource.type.shows_after:  # with those beside it, but what takes long
            for beside in (range(i, len(steps)), range(i, -1, -1)):
                for j in takewhile(lambda j: not steps[j].resource.type.foundation, beside):
                    guarded[j] = True
    for risky, group in groupby(range(len(steps)), key=guarded.__getitem__):
        part = tuple(group)
        yield (
            next(told[i] for i in part if told[i]) if risky else "",
            tuple(steps[i] for i in part),
        )


def danger(step: Step, way: Way) -> str:
    """How a step could cut the controller off; "": it cannot."""
    resource = step.resource
    return resource.type.danger(resource.key, step.have, resource.state, way)
