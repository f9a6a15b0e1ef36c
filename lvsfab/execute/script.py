"""The POSIX script that runs one task. Pure: a task in, text out.

The command runs in a session of its own (setsid), beside a watcher that reads the shell's own
standard input. Nothing is ever sent there while a command runs, so the watcher wakes only when
that input ends: the controller ended it (Ctrl-C, a time-out), died, or the link broke. It then
ends the command with all its children, TERM first, KILL two seconds later. So no command outlives
its controller, whatever became of that; what made itself a daemon does, as it should.

The watcher is what runs in the background, not the command: what a shell starts in the background
ignores SIGINT and SIGQUIT, and so would all that it starts (`timeout -s INT` would end nothing).
So the watcher does not know the command's process; it looks for the shell's other child.
"""

from __future__ import annotations

import base64
import shlex

from lvsfab.execute.task import Task

MAX_WORD = 100_000  # bytes; the kernel takes 128 KiB in one argument (MAX_ARG_STRLEN)

PRELUDE = r"""
guard() { # "$@" in a session of its own: reads $r_in, has standard error as 4; it ends with ours
  (
    read -r g_word <&3
    read -r g_self g_word </proc/self/stat
    g_pid= g_tries=0
    while [ -z "$g_pid" ] && [ "$g_tries" -lt 10 ]; do # it may not have begun yet
      [ "$g_tries" = 0 ] || sleep 1
      g_tries=$((g_tries + 1))
      g_pid=$(cat /proc/[0-9]*/stat | sed -n "s/^\([0-9]*\) .*) [A-Za-z] $$ .*/\1/p" |
        grep -vx "$g_self")
    done
    kill -s TERM -- "-$g_pid" || kill -s TERM "$g_pid"
    sleep 2
    kill -s KILL -- "-$g_pid" || kill -s KILL "$g_pid"
  ) >/dev/null 2>&1 </dev/null &
  g_watch=$!
  if has setsid; then set -- setsid "$@"; fi
  {
    "$@" <"$r_in" 3<&-
    g_status=$?
    # KILL: a subshell just made may still have our traps, and would swallow a TERM
    kill -s KILL "$g_watch"
    wait "$g_watch"
  } 4>&2 2>/dev/null # where a shell says by what signal it ended
  return "$g_status"
}
r_sent() { # a private directory for what is sent, gone with the shell
  r_dir=$(mktemp -d "${TMPDIR:-/tmp}/lvsfab.XXXXXXXXXX") || return
  trap 'rm -rf -- "$r_dir"' EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 141' PIPE; trap 'exit 143' TERM
}
"""


def run_script(task: Task) -> str:
    """The body that `session.Shell.run` sends; its one record is named `run`."""
    files = _files(task)
    lines = ["exec 3<&0", "r_in=/dev/null"]
    if files:
        lines.append("r_sent || return")
        lines += [_here(name, data) for name, data in files.items()]
    if "stdin" in files:
        lines.append('r_in="$r_dir/stdin"')
    lines.append(f"rec run guard sh -c {shlex.quote(_inner(task))} sh {_words(task, files)}")
    if files:
        lines.append('rm -rf -- "$r_dir"; trap - EXIT HUP INT PIPE TERM')
    return "\n".join(lines)


def _inner(task: Task) -> str:
    parts = ["exec 2>&4 4>&-", "umask 022"]
    if task.cwd:
        parts.append(f"cd -- {shlex.quote(task.cwd)} || exit")
    parts += [f"export {name}={shlex.quote(value)}" for name, value in task.env.items()]
    parts.append('exec "$@"')
    return "\n".join(parts)


def _files(task: Task) -> dict[str, bytes]:
    """What goes into files there: by name."""
    files = {}
    if task.script is not None:
        files["script"] = task.script
    elif task.shell is not None and len(task.shell.encode()) > MAX_WORD:
        files["script"] = task.shell.encode()
    if task.stdin is not None:
        files["stdin"] = task.stdin
    return files


def _words(task: Task, files: dict[str, bytes]) -> str:
    if "script" in files:
        return f'{shlex.join(interpreter(files["script"]))} "$r_dir/script" {shlex.join(task.argv)}'
    if task.shell is not None:
        return shlex.join(["sh", "-c", task.shell])
    return shlex.join(task.argv)


def interpreter(script: bytes) -> tuple[str, ...]:
    """What a script's `#!` line names, as the kernel reads it: a path and at most one argument.
    Called by name, so that a /tmp that forbids execution does not matter.
    """
    first = script.split(b"\n", 1)[0][:255]
    words = first[2:].decode(errors="replace").split(maxsplit=1) if first[:2] == b"#!" else []
    return tuple(word.strip() for word in words) or ("sh",)


def _here(name: str, data: bytes) -> str:
    text = base64.encodebytes(data).decode()
    # `|| return`: where there is no room, half a script would be run
    return f"base64 -d >\"$r_dir/{name}\" <<'LVSFAB_END' || return\n{text}LVSFAB_END"
