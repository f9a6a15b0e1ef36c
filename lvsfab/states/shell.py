"""Shell functions that readers and commands of several kinds share.

Readers run in the run's own shell: they must not exit, change directory or options, and their
variables carry a prefix of their own.
"""

from __future__ import annotations

SHARED = r"""
loaded() { grep -q "^$1 " /proc/modules 2>/dev/null; }
dormant() { # is $1 a module that the kernel would load as soon as somebody asks for it?
  loaded "$1" && return 1
  modprobe --show-depends "$1" 2>/dev/null | grep -q '^insmod '
}
has_link() { # asked of ip, the kernel would load the module whose fallback device $1 is
  while IFS=: read -r link_name _; do
    [ "${link_name##* }" = "$1" ] && return 0
  done </proc/net/dev
  return 1
}
note() { printf "lvsfab-note: %s\n" "$1"; } # base.NOTE
nap() { sleep "$1" 2>/dev/null || sleep 1; } # not every sleep(1) knows fractions
"""
