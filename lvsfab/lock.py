"""A host's lock: one run at a time changes it.

The lock is a directory, made by the run's shell on the host and removed when that shell ends,
however it ends; a shell that was killed leaves it, and the next run sees that its holder (process
id and start time) is gone and takes it over, in place. Nothing expires while its holder lives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HELPERS = r"""
proc_seen() { # $p_start: when process $1 started, in ticks since boot: with the pid, its identity
  p_stat= p_start=
  { while read -r p_line; do p_stat="$p_stat $p_line"; done <"/proc/$1/stat"; } 2>/dev/null
  set -- ${p_stat##*) }
  case ${1:-Z} in [ZX]) ;; *) p_start=${20} ;; esac # dead, and only not yet waited for: none
}
proc_below() { # the processes that process $1 started, and those that they did
  proc_found= proc_level=$1
  while [ -n "$proc_level" ]; do
    proc_next=
    for proc_one in $proc_level; do
      proc_next="$proc_next $(cat /proc/[0-9]*/stat 2>/dev/null |
        sed -n "s/^\([0-9]*\) .*) [A-Za-z] $proc_one .*/\1/p" | tr '\n' ' ')"
    done
    proc_level=$(echo $proc_next); proc_found="$proc_found $proc_level"
  done
  echo $proc_found
}
lock_read() { # who has it: its owner, or who came after that one's death, and so on
  lock_pid= lock_start= lock_since= lock_owner= lock_next=owner
  while [ -r "/run/lvsfab/lock/$lock_next" ]; do
    read -r lock_pid lock_start lock_since lock_owner <"/run/lvsfab/lock/$lock_next"
    lock_next=after.$lock_pid.$lock_start
  done
}
lock_lives() {
  [ -n "$lock_start" ] && proc_seen "$lock_pid" && [ "$p_start" = "$lock_start" ]
}
lock_now() { read -r l_now _ </proc/uptime; l_now=${l_now%.*}; } # in s; a clock may be set
lock_place() { if [ -d /run/lvsfab ]; then chmod 700 /run/lvsfab; else mkdir -p /run/lvsfab; fi; }
lock_end() { # end the run that holds the lock: its shell first, so that it takes no further step
  kill -STOP "$lock_pid" # and starts nothing while its processes are listed
  lock_below=$(proc_below "$lock_pid")
  kill -KILL "$lock_pid"
  [ -z "$lock_below" ] && return 0
  kill $lock_below 2>/dev/null
  sleep 2
  kill -KILL $lock_below 2>/dev/null
  return 0
}
lock_drop() { # a name that became nobody's, and the place where nobody else has one
  rm -f "$lock_new"
  rmdir /run/lvsfab/lock /run/lvsfab 2>/dev/null
}
lock_leave() { # the owner's name last: after that the lock is anybody's
  rm -rf /run/lvsfab/lock/owner.* /run/lvsfab/lock/after.* /run/lvsfab/lock/claim \
    /run/lvsfab/lock/owner
  rmdir /run/lvsfab/lock /run/lvsfab 2>/dev/null
}
lock_take() { # $1: who; $2: break. The lock is a directory; it is this shell's while it lives
  # Whose it is says a name in it that comes whole, and for one alone (ln): `owner`, or after a
  # dead one `after.` that one. Who was stalled anywhere in here is late, and takes nothing over.
  proc_seen $$
  lock_me="$$ $p_start" lock_new=/run/lvsfab/lock/owner.$$.$p_start lock_tries=0
  while :; do
    lock_tries=$((lock_tries + 1)) lock_made= lock_gone=
    lock_place && mkdir /run/lvsfab/lock 2>/dev/null && lock_made=1
    if [ ! -d /run/lvsfab/lock ]; then
      [ "$lock_tries" -lt 5 ] && continue
      mkdir /run/lvsfab/lock || return 1
      lock_made=1
    fi
    lock_read
    lock_now
    if lock_lives; then
      [ "$lock_pid $lock_start" = "$lock_me" ] && return 0
      if [ "$2" = break ] && [ "$lock_tries" -lt 5 ]; then
        printf 'broken %s %s\n' "$((l_now - lock_since))" "$lock_owner"
        lock_end
        continue
      fi
      # a run whose controller is gone ends by itself once its step is done
      [ "$lock_tries" -gt 3 ] || { sleep 1; continue; }
      printf 'held %s %s\n' "$((l_now - lock_since))" "$lock_owner"
      return 3
    fi
    if [ -z "$lock_made" ] || [ -n "$lock_start" ]; then
      # without an owner it was just made (give it a moment), or its maker died there
      [ -n "$lock_start" ] || [ "$lock_tries" -gt 2 ] || { sleep 1; continue; }
      lock_gone="stale $((l_now - ${lock_since:-l_now})) ${lock_owner:-unknown}"
    fi
    printf '%s %s %s\n' "$lock_me" "$l_now" "$1" >"$lock_new"
    if ! read -r lock_pid <"$lock_new"; then # half a line, or none
      lock_drop
      [ "$lock_tries" -lt 5 ] && continue
      return 1
    fi
    if ln "$lock_new" "/run/lvsfab/lock/$lock_next" 2>/dev/null; then
      lock_read # what was read before may have gone, and another lock been made in its place
      [ "$lock_pid $lock_start" = "$lock_me" ] && break
    fi
    [ "$lock_tries" -lt 20 ] || { lock_drop; echo "no name could be put into it"; return 1; }
  done
  trap lock_leave EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 141' PIPE; trap 'exit 143' TERM
  if [ -n "$lock_gone" ]; then
    printf '%s\n' "$lock_gone"
    mv -f "$lock_new" /run/lvsfab/lock/owner 2>/dev/null # the first in it is one who lives
  fi
  deadman_wait # only now: the one before may have armed it until its end, and none is at work
  return 0
}
"""


_SAID = re.compile(r"(held|stale|broken) (-?[0-9]{1,12})( .*|)")


@dataclass(frozen=True, slots=True)
class Said:
    """What taking a lock said: `word` is held, stale or broken; `age` in seconds; `owner`."""

    word: str
    age: int
    owner: str


def said(output: str) -> tuple[Said, ...]:
    """The lines of a lock's record, oldest first; others are passed over."""
    told = map(_SAID.fullmatch, output.splitlines())
    return tuple(Said(t[1], max(0, int(t[2])), t[3].strip() or "unknown") for t in told if t)
