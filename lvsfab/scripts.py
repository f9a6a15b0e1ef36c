"""The POSIX scripts that a run sends: to read a host, to change it, to keep its journal and lock.
Pure: values in, script text out; answers in, values out.

On the host: /run/lvsfab/NAME/journal for what a reboot undoes, /var/lib/lvsfab/NAME/journal for
what it does not (all of it, where the configuration is kept over a reboot); /run/lvsfab/lock while
a run is at work (it lives as long as the run's shell).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from lvsfab import deadman, journal, lock, wire
from lvsfab.deadman import Guard
from lvsfab.errors import CommandError, InputError
from lvsfab.journal import Entry
from lvsfab.plan import Have, Step, Unsupported
from lvsfab.session import Record
from lvsfab.states import KINDS, readers_script
from lvsfab.states.base import Others, Resource, UnsupportedError
from lvsfab.wire import Question

_HELPERS = r"""
journal_read() { # $1: name. Its places are said too: a run may have ended before it wrote there
  for journal_dir in /run /var/lib; do
    [ -d "$journal_dir/lvsfab/$1" ] && printf '\nplace %s\n' "$journal_dir/lvsfab/$1"
    [ -r "$journal_dir/lvsfab/$1/journal" ] && cat "$journal_dir/lvsfab/$1/journal"
  done
  for journal_dir in /var/lib/lvsfab/*; do
    [ ! -d /var/lib/lvsfab ] || [ -e "$journal_dir" ] || printf '\nplace /var/lib/lvsfab\n'
  done
}
journal_add() { # $1: directory, $2: lines. On disk before anything is changed; a sync that fails
  # ends the run: a mere `sync` in its place would not tell
  { if [ -d "$1" ]; then chmod 700 "$1"; else mkdir -p "$1"; fi; } &&
    printf '\n%s' "$2" >>"$1/journal" && sync "$1/journal"
}
journal_put() { # $1: directory, $2: all lines; none: no journal is left
  if [ -z "$2" ]; then
    rm -f "$1/journal" "$1/journal.new" "$1/up.new"
    rmdir "$1" "${1%/*}" 2>/dev/null
    return 0
  fi
  mkdir -p "$1" && chmod 700 "$1" &&
    printf '%s' "$2" >"$1/journal.new" && sync "$1/journal.new" && mv "$1/journal.new" "$1/journal"
}
mark_read() { # $1: name. What is up: one line of JSON
  for mark_dir in /run /var/lib; do
    [ -r "$mark_dir/lvsfab/$1/up" ] && { cat "$mark_dir/lvsfab/$1/up"; return 0; }
  done
  return 0
}
mark_put() { # $1: directory, $2: the line; none: nothing is up. $3: where it is no more
  rm -f "$3/up" "$3/up.new"; rmdir "$3" "${3%/*}" 2>/dev/null
  if [ -z "$2" ]; then
    rm -f "$1/up" "$1/up.new"; rmdir "$1" "${1%/*}" 2>/dev/null
    return 0
  fi
  mkdir -p "$1" && chmod 700 "$1" && printf '%s\n' "$2" >"$1/up.new" || return
  case $1 in /run/*) mv "$1/up.new" "$1/up" ;; # else it outlives a power cut, and so does its name
  *) sync "$1/up.new" && mv "$1/up.new" "$1/up" && sync "$1/up" ;; esac
}
read_others() { # addresses and MACs by device; listeners: protocol, port and address in hex
  has ip && ip addr show 2>/dev/null |
    sed -n -e '/^[0-9]/{s/^[0-9]*: *\([^ ]*\): .*/\1/;h;}' \
      -e 's/^ *link\/[^ ]* \([0-9a-f:]*\) .*/mac \1/p' \
      -e '/^ *inet/{s/^ *inet6* \([^ ]*\) .*/address \1/;G;s/\n/ /p;}'
  sed -n 's/^ *[0-9]*: \([0-9A-F]*\):\([0-9A-F]*\) [0-9A-F]*:0000 0A .*/tcp \2 \1/p' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null
  sed -n 's/^ *[0-9]*: \([0-9A-F]*\):\([0-9A-F]*\) [0-9A-F]*:0000 07 .*/udp \2 \1/p' \
    /proc/net/udp /proc/net/udp6 2>/dev/null
  return 0
}
"""


def prelude() -> str:
    """Functions that every script of a run may use; sent once to each host."""
    return lock.HELPERS + deadman.HELPERS + wire.HELPERS + _HELPERS + readers_script()


def journal_dir(name: str, volatile: bool) -> str:
    return f"{'/run' if volatile else '/var/lib'}/lvsfab/{name}"


def read_script(
    name: str,
    wanted: Sequence[Resource],
    owner: str = "",
    *,
    break_lock: bool = False,
    undoing: bool = True,
    asked: Sequence[Question] = (),
) -> str:
    """Read a host whole: its journal, each wanted and each journalled resource (unless nothing is
    to be undone: not `undoing`), and what its network answers to what is `asked`.

    With `owner` the host is locked first; when another run holds it, nothing else is read, or
    with `break_lock` that run is ended.
    """
    lines = []
    if owner:
        how = " break" if break_lock else ""
        lines.append(f"rec lock lock_take {shlex.quote(owner)}{how} || return 0")
        lines.append("rec way ssh_way")
    lines += [  # answers come while the rest is read
        f"wire_ask {shlex.quote(one.address)} {shlex.quote(one.dev)} </dev/null >/dev/null 2>&1"
        for one in asked
    ]
    lines.append("rec others read_others")
    lines.append(f"rec mark mark_read {shlex.quote(name)}")
    lines.append(f"rec journal journal_read {shlex.quote(name)}")
    lines += _reads(wanted)
    if undoing:
        lines.append("seen=" + shlex.quote("|" + "|".join(r.id for r in wanted) + "|"))
        lines.append(
            f"for journal_dir in {journal_dir(name, True)} {journal_dir(name, False)}; do\n"
            '[ -r "$journal_dir/journal" ] && while read -r kind key before; do\n'
            '  case "$seen" in *"|$kind:$key|"*) continue ;; esac\n'
            f"  case $kind in {'|'.join(sorted(KINDS))}) ;; *) continue ;; esac\n"
            '  rec "have:$kind:$key" "read_$kind" "$key"\n'
            'done <"$journal_dir/journal"\n'
            "done"
        )
    if asked:
        lines.append(f"rec wire wire_told {wire.WAIT}")
    return "\n".join(lines)


def _reads(resources: Iterable[Resource]) -> list[str]:
    """Lines that read resources: all of one kind at once as far as the kind can."""
    ahead: dict[str, list[str]] = {}
    lines = []
    for resource in resources:
        kind, key = resource.type.kind, shlex.quote(resource.key)
        if resource.type.ahead:
            ahead.setdefault(kind, []).append(key)
        lines.append(f"rec {shlex.quote(f'have:{resource.id}')} read_{kind} {key}")
    before = [f"ahead_{kind} {' '.join(keys)} </dev/null" for kind, keys in ahead.items()]
    return [*before, *lines, *(f"ahead_{kind}" for kind in ahead)]


def change_script(
    name: str,
    steps: Sequence[Step],
    *,
    record: Sequence[Entry] = (),
    again: Sequence[Step] = (),
    guard: Guard | None = None,
    durable: bool = False,
) -> str:
    """Change a host: journal first, then each step, then read again what was changed.

    The first step that fails ends it. `again`: steps of before that are only read again. `guard`:
    the host takes the steps back by itself unless this is confirmed. `durable`: a reboot will undo
    nothing.
    """
    functions, lines = guard.functions() if guard is not None else [], []
    for volatile in (True, False):
        entries = [e for e in record if _lost(e, durable) is volatile]
        if entries:
            where = shlex.quote(journal_dir(name, volatile))
            added = shlex.quote(journal.text(entries))
            lines.append(f"rec record journal_add {where} {added} || return 0")
    if guard is not None:
        lines.append(f"rec arm {guard.arm()} || return 0")
    for i, step in enumerate(steps):
        body = (guard.before(i) if guard is not None else "") + " &&\n".join(
            command.script() for command in step.commands
        )
        functions.append(f"do_{i}() {{\n{body}\n}}")
        lines.append(f"rec do:{i} do_{i} || return 0")
    if durable and steps:  # a power cut right afterwards is a reboot like any other
        lines.append("sync -f /var/lib/lvsfab 2>/dev/null || sync")
    return "\n".join([*functions, *lines, reads_script(s.resource for s in (*steps, *again))])


def reads_script(resources: Iterable[Resource]) -> str:
    """Read resources, whatever else is there."""
    return "\n".join(_reads(resources))


def forget_script(name: str, keep: Sequence[Entry]) -> str:
    """Leave `keep` in the host's journal; no entry, no journal."""
    lines = []
    durable = journal.durable(keep)
    for volatile in (False, True):  # an entry that moves is never in neither
        where = shlex.quote(journal_dir(name, volatile))
        left = shlex.quote(journal.text(e for e in keep if _lost(e, durable) is volatile))
        lines.append(f"rec record journal_put {where} {left} || return 0")
    return "\n".join(lines)


def _lost(entry: Entry, durable: bool) -> bool:
    """Whether a reboot undoes what the entry is about, and so may lose the entry."""
    return entry.type.volatile and not durable


def mark_script(name: str, mark: str, *, durable: bool = False) -> str:
    """Say on a host what is up (a line of JSON), after a reboot too if `durable`; "" takes the
    word back.
    """
    where, other = (shlex.quote(journal_dir(name, there)) for there in (not durable, durable))
    return f"rec record mark_put {where} {shlex.quote(mark)} {other}"


def haves(host: str, records: Iterable[Record]) -> dict[str, Have]:
    """What `have:` records say is there, by resource id. CommandError: it makes no sense."""
    found: dict[str, Have] = {}
    for record in records:
        head, _, rest = record.id.partition(":")
        kind, _, key = rest.partition(":")
        if head != "have" or kind not in KINDS:
            continue
        try:
            found[rest] = KINDS[kind].parse(key, record.output)
        except UnsupportedError as error:
            found[rest] = Unsupported(str(error))
        except (ValueError, LookupError, TypeError, RecursionError, InputError) as error:
            raise CommandError(
                host, f"its answer about {rest} makes no sense: {error}", output=record.output
            ) from None
    return found


def others(record: Record) -> Others:
    """The `others` record; a line that makes no sense is passed over."""
    addresses: list[tuple[str, str]] = []
    listening: set[tuple[str, int]] = set()
    macs: set[str] = set()
    for line in record.output.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "mac":
            macs.add(words[1])
        elif len(words) != 3:
            continue
        elif words[0] == "address":
            addresses.append((words[1].partition("/")[0], words[2].partition("@")[0]))
        elif re.fullmatch(r"[0-9A-F]{4}", words[1]) and (
            words[0] == "tcp" or not words[2].strip("0")
        ):
            listening.add((words[0], int(words[1], 16)))
    return Others(tuple(addresses), frozenset(listening), frozenset(macs))
