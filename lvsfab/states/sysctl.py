"""A kernel parameter, with the value that is in *effect*.

For some parameters the kernel combines `conf.all` with `conf.IFACE`
(Documentation/networking/ip-sysctl.rst; the IN_DEV_* macros of include/linux/inetdevice.h): an
interface's value alone says nothing. Reading returns both; wanting a value means wanting it in
effect.

Writing some parameters writes others too: what those were is read with them (`also`), and an undo
puts them back.

- net.ipv4.ip_forward and net.ipv4.conf.all.forwarding: forwarding of every interface and of
  default, and all.accept_redirects (net/ipv4/devinet.c, inet_forward_change)
- net.ipv4.conf.default.X: X of every interface that nobody configured yet
  (devinet_copy_dflt_conf)
- net.ipv6.conf.all.X, for forwarding, disable_ipv6 and others: X of every interface, and
  force_forwarding with forwarding (net/ipv6/addrconf.c, addrconf_forward_change and its like)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Resource, State, Way

# IN_DEV_MAXCONF, IN_DEV_ORCONF, IN_DEV_ANDCONF; arp_accept was "or" before it knew the value 2,
# which for 0 and 1 is the same
_MAX = {"rp_filter", "arp_ignore", "arp_announce", "arp_notify", "arp_accept"}
_OR = {
    "accept_local",
    "arp_filter",
    "log_martians",
    "promote_secondaries",
    "proxy_arp",
    "route_localnet",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
}
_AND = {"accept_source_route", "arp_evict_nocarrier", "bc_forwarding", "bootp_relay"}
_CONF = re.compile(r"^net\.ipv4\.conf\.(?P<iface>[^.]+)\.(?P<name>[a-z0-9_]+)$")
_NAME = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_@:/-]+)+")

# cat and grep, not the shell's read: dash reads byte by byte, and /proc/sys gives a second read
# nothing
HELPERS = r"""
sysctl_path() { # NAME: s_path is its file
  s_path=/proc/sys/ s_rest=$1
  while s_part=${s_rest%%[./]*}; s_path=$s_path$s_part; [ "$s_part" != "$s_rest" ]; do
    s_rest=${s_rest#"$s_part"}
    case $s_rest in .*) s_path=$s_path/ ;; *) s_path=$s_path. ;; esac
    s_rest=${s_rest#?}
  done
}
sysctls_seen() { # NAME...: s_seen is what their files, and those read with them, say; or nothing
  s_seen=
  [ $# -gt 0 ] || return 0
  s_names=$*; set --
  for s_name in $s_names; do
    sysctl_path "$s_name"; set -- "$@" "$s_path"
    case $s_path in /proc/sys/net/ipv4/conf/*/*)
      s_conf=${s_path%/*}
      set -- "$@" "${s_conf%/*}/all/${s_path##*/}" "$s_conf/forwarding" ;;
    esac
  done
  s_seen="$f_nl$(grep -s -H '' "$@")$f_nl"
}
sysctl_says() { # FILE
  case $s_seen in
  *"$f_nl$1:"*) s_line=${s_seen#*"$f_nl$1:"}; printf '%s\n' "${s_line%%"$f_nl"*}" ;;
  *) cat "$1" 2>/dev/null ;;
  esac
}
set_sysctl() { # NAME VALUE [NAME VALUE]...: the further ones are put back where they differ
  s_first=1
  while [ $# -ge 2 ]; do
    sysctl_path "$1"
    if [ -n "$s_first" ]; then
      printf '%s\n' "$2" >"$s_path" || { echo "the kernel refuses \`$2\` for $1"; return 1; }
    elif [ -w "$s_path" ] && [ "$(cat "$s_path")" != "$2" ]; then
      printf '%s\n' "$2" >"$s_path" || return 1
    fi
    s_first=; shift 2
  done
}
"""


class Sysctl(State, frozen=True, kw_only=True):
    """`name` as sysctl(8) writes it (dots; a slash stands for a dot inside an interface's name),
    `value` with single blanks between numbers. The others are only ever read: `of_all` is
    conf.all's value where the kernel combines the two, `forwards` whether the interface does.
    """

    kind: ClassVar[str] = "sysctl"
    fleeting: ClassVar[bool] = True  # a module, or a device, takes its parameters along
    read_only: ClassVar[frozenset[str]] = frozenset({"of_all", "forwards", "also"})
    reader: ClassVar[str] = r"""
  sysctl_path "$1"
  [ -r "$s_path" ] || return 0
  printf 'value '; sysctl_says "$s_path"
  s_conf=${s_path%/*}; s_conf=${s_conf%/*}
  case $1 in
  net.ipv4.ip_forward | net.ipv4.conf.all.forwarding)
    s_conf=/proc/sys/net/ipv4/conf
    grep -s -H '' $s_conf/*/forwarding $s_conf/all/accept_redirects ;;
  net.ipv6.conf.all.forwarding)
    grep -s -H '' $s_conf/*/forwarding $s_conf/*/force_forwarding ;;
  net.ipv6.conf.all.* | net.ipv[46].conf.default.*) grep -s -H '' "$s_conf"/*/"${1##*.}" ;;
  net.ipv4.conf.*.*)
    printf 'all '; sysctl_says "$s_conf/all/${1##*.}"
    printf 'forwarding '; sysctl_says "${s_path%/*}/forwarding" ;;
  esac
  return 0
"""
    ahead: ClassVar[str] = 'sysctls_seen "$@"'

    name: str
    value: str
    of_all: str | None = None
    forwards: bool | None = None
    also: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        parts = self.name.replace("/", "\0").split(".")
        if (
            len(self.name) > 200
            or not _NAME.fullmatch(self.name)
            or any(set(part) <= {"\0"} for part in parts)
        ):
            raise InputError(f"`{self.name[:200]}` is no sysctl name", key=self.kind)
        if not re.fullmatch(r"[ -~]{0,4096}", self.value):
            raise InputError(f"{self.name}: a value is one line of printable text", key=self.kind)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        value = args.get("value")
        number = isinstance(value, int) and not isinstance(value, bool)
        return super().build({**args, "value": str(value)} if number else args, context)

    @property
    def key(self) -> str:
        return self.name

    @property
    def in_effect(self) -> str:
        """The value that the kernel goes by, on the host that this was read from."""
        return effective(self.name, self.value, self.of_all, self.forwards)

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said: dict[str, str] = {}
        also: list[tuple[str, str]] = []
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word.startswith("/proc/sys/"):
                path, _, other = line.removeprefix("/proc/sys/").partition(":")
                if _dotted(path) != key:
                    also.append((_dotted(path), " ".join(other.split())))
            elif word in ("value", "all", "forwarding"):
                said.setdefault(word, " ".join(rest.split()))
        if "value" not in said:
            return None
        match = _CONF.match(key)
        combines = match is not None and match["iface"] not in ("all", "default")
        return cls(
            name=key,
            value=said["value"],
            of_all=said.get("all") if combines else None,
            forwards=said.get("forwarding") == "1" if combines else None,
            also=tuple(also) or None,
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        want = " ".join(self.value.split())
        if have is None:
            return (Change("value", "absent", want),)
        found = []
        if have.value != want:
            found.append(Change("value", have.value, want))
        if self.of_all is None and have.of_all is not None:  # else an undo: the value alone counts
            after = effective(self.name, want, have.of_all, have.forwards)
            if after != want:
                found.append(Change("in effect", f"{have.in_effect}, by conf.all", want))
        return tuple(found)

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have
        value, words = want.value if want is not None else "", key.split(".")
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
        told = f"{key}={value} can drop what comes from this controller"
        return told if risky.get(words[-1]) else ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            return ()  # a parameter goes with the module or interface that brought it
        value = " ".join(want.value.split())
        words = [word for pair in want.also or () for word in pair]
        shown = f"sysctl -w {key}='{value}'"
        if words:
            shown += " (and what that resets)"
        return (command("set_sysctl", key, value, *words, shown=shown),)


def effective(name: str, value: str, of_all: str | None, forwards: bool | None) -> str:
    """The value in effect for an interface's parameter, given conf.all's: its own where the
    kernel combines nothing. `forwards`: whether that interface forwards (accept_redirects).
    """
    match = _CONF.match(name)
    try:
        own, common = int(value), int(of_all or "")
    except ValueError:
        return value
    word = match["name"] if match else ""
    if word in _MAX:
        return str(max(own, common))
    if word in _OR or (word == "accept_redirects" and not forwards):
        return str(int(bool(own or common)))
    if word in _AND or word == "accept_redirects":
        return str(int(bool(own and common)))
    return value


def _dotted(path: str) -> str:
    """A path below /proc/sys as a name: `net/ipv4/conf/eth0.5/x` is `net.ipv4.conf.eth0/5.x`."""
    return path.translate(str.maketrans("./", "/."))
