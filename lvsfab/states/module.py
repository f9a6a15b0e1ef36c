"""A kernel module, loaded or not; built into the kernel counts as loaded.

A module that is not loaded is a state too (`loaded: no`), for it carries what loading it would
bring (`brings`): an undo removes it and exactly those, in reverse order. What was there before
stays, and so does what something else has come to use since: it is that one's from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Resource, State, UnsupportedError
from lvsfab.states.words import name as plain_name

# facts.py asks the same: what a recipe finds missing on a host and what `lvsfab facts` calls absent
# there must be one
SEEN = r"""
module_seen() { # is $1 built in, though no file here says so? By what only that code makes
  case $1 in
  ip_vs) [ -e /proc/net/ip_vs ] ;;
  ipip) [ -e /proc/sys/net/ipv4/conf/tunl0 ] ;;
  nf_conntrack) [ -e /proc/sys/net/netfilter/nf_conntrack_max ] ;;
  ip_tables) [ -e /proc/net/ip_tables_names ] ;;
  arp_tables | arptable_filter) [ -e /proc/net/arp_tables_names ] ;;
  arpt_mangle) grep -q '^mangle$' /proc/net/arp_tables_targets 2>/dev/null ;;
  *) [ -d "/sys/module/$1" ] ;;
  esac
}
"""
HELPERS = (
    SEEN
    + r"""
m_used=" " # the modules that this shell was to unload and that something else uses
module_users() { # the modules that use module $1
  sed -n "s/^$1 [0-9]* [0-9]* \([^ ]*\) .*/\1/p" /proc/modules | tr -s ',-' ' '
}
module_held() { grep -q "^$1 [0-9]* [1-9]" /proc/modules; }
unload_modules() { # each goes unless something else uses it by now; with the first stay the others
  m_must=1
  for m_name; do
    m_tries=0
    while loaded "$m_name"; do
      m_said=$(rmmod "$m_name" 2>&1) && break
      m_users=$(module_users "$m_name")
      # what uses the first came after it: the kernel loaded it for some command's sake
      case $m_must:${m_users% } in
      *:) ;;
      1:*) rmmod $m_users 2>/dev/null && continue ;;
      *) break ;;
      esac
      m_tries=$((m_tries + 1))
      if [ "$m_tries" -ge 25 ]; then # 5 s: a reference that only packets in flight hold is gone
        printf '%s\n' "$m_said"
        [ -z "$m_must" ] && break
        module_held "$m_name" || return 1
        m_used="$m_used$m_name " m_users=${m_users% }
        note "stays loaded, in use by ${m_users:-what is not ours}"
        return 0
      fi
      nap 0.2
    done
    m_must=
  done
}
unload_module() { # NAME: it goes, whatever came with it
  unload_modules "$1" && ! loaded "$1"
}
"""
)


class Module(State, frozen=True, kw_only=True):
    """Only ever read: `brings`, the modules that loading this one would load, itself last; `used`:
    it was to be unloaded just now, and something that is not ours uses it.
    """

    kind: ClassVar[str] = "module"
    read_only: ClassVar[frozenset[str]] = frozenset({"brings", "used"})
    foundation: ClassVar[bool] = True
    reader: ClassVar[str] = r"""
  case $m_used in *" $1 "*) echo used ;; esac
  loaded "$1" && { echo loaded; return 0; }
  printf 'kernel '; uname -r
  case $1 in
  nf_tables) ! dormant nf_tables && nft list tables >/dev/null 2>&1 ;;
  *) module_seen "$1" ;;
  esac && echo seen
  has modprobe || { echo 'error there is no modprobe'; return 0; }
  modprobe --show-depends "$1" 2>&1 | sed 's/^\(insmod\|builtin\|install\) /&/;t;s/^/error /'
  sed 's/^\([^ ]*\) .*/present \1/' /proc/modules 2>/dev/null
  return 0
"""

    name: str
    loaded: bool = True
    brings: tuple[str, ...] | None = None
    used: bool = False

    def __post_init__(self) -> None:
        plain_name(self.name, self.kind)

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def is_there(self) -> bool:
        return self.loaded

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        present: set[str] = set()
        needed: list[str] = []
        kernel, error, builtin, seen, used = "", "", False, False, False
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "loaded":
                return cls(name=key, loaded=True, brings=(), used=used)
            if word == "present":
                present.add(rest)
            elif word == "used":
                used = True
            elif word == "seen":
                seen = True
            elif word == "insmod":
                needed.append(_stem(rest))
            elif word == "builtin":
                builtin = builtin or _stem(rest) == key
            elif word == "install":
                error = error or f"the host's modprobe configuration runs `{rest}` instead"
            elif word == "kernel":
                kernel = rest
            elif word == "error":
                error = error or rest
        missing = tuple(name for name in needed if name not in present)
        if builtin or (needed and not missing) or (seen and not needed):
            return cls(name=key, loaded=True, brings=())
        if not missing or error.startswith("the host's"):
            why = f" ({error})" if error else ""
            raise UnsupportedError(f"kernel {kernel or '?'} has no module {key}{why}")
        return cls(name=key, loaded=False, brings=missing)

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        was = have is not None and have.loaded
        # an undo knows what loading brought: what came to be another's is not there to be undone
        left = have is not None and have.used and self.brings is not None
        if was == self.loaded or left:
            return ()
        return (Change("loaded", "yes" if was else "no", "yes" if self.loaded else "no"),)

    def inherits(self, before: State) -> Self:
        """Modules that another brought are in use by this one when the other goes: they become its
        own to take away (ip_tunnel, from ipip to gre).
        """
        own = self.brings or ()
        left = (before.brings or ()) if isinstance(before, Module) else ()
        left = tuple(name for name in left if name not in (*own, before.key))
        return type(self)(name=self.name, loaded=self.loaded, brings=left + own)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is not None and want.loaded:
            return (command("modprobe", key),)
        if want is None or want.brings is None:
            return (command("unload_module", key, shown=f"rmmod {key}"),)
        goes = tuple(reversed(want.brings or (key,)))
        return (command("unload_modules", *goes, shown="rmmod " + " ".join(goes)),)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        fields = dict(args)
        if fields.pop("absent", False):
            fields["loaded"] = False
        return super().build(fields, context)


def _stem(path: str) -> str:
    """`/lib/modules/6.1/kernel/net/ip-vs.ko.xz option=1` -> `ip_vs`."""
    file = path.split(maxsplit=1)[0].rpartition("/")[2] if path.split() else ""
    return re.sub(r"\.ko(\.[a-z0-9]+)?$", "", file).replace("-", "_")
