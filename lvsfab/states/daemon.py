"""A small program of ours that the host's init runs and keeps: a unit of systemd, or a script of
OpenRC or SysV, whichever the host has. It starts at boot too.
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, State, show
from lvsfab.states.file import worded

HELPERS = r"""
daemon_text() { # NAME
  case $(init_system) in
  systemd) cat <<UNIT
[Unit]
Description=lvsfab: $1
After=network.target

[Service]
ExecStart=/etc/lvsfab/$1
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
    ;;
  openrc) cat <<SCRIPT
#!/sbin/openrc-run
description="lvsfab: $1"
supervisor=supervise-daemon
command=/etc/lvsfab/$1
depend() { need net; }
SCRIPT
    ;;
  *) cat <<SCRIPT
#!/bin/sh
# chkconfig: 2345 99 01
# description: lvsfab: $1
### BEGIN INIT INFO
# Provides:          lvsfab-$1
# Required-Start:    \$network \$remote_fs
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: lvsfab: $1
### END INIT INFO
lives() { grep -q -a /etc/lvsfab/$1 "/proc/\$(cat /run/lvsfab-$1.pid 2>/dev/null)/cmdline" 2>/dev/null; }
case \$1 in
start) lives || { setsid /etc/lvsfab/$1 </dev/null >/dev/null 2>&1 & echo \$! >/run/lvsfab-$1.pid; } ;;
stop) lives && kill -s TERM -- "-\$(cat /run/lvsfab-$1.pid)"; rm -f /run/lvsfab-$1.pid ;;
status) lives ;;
esac
SCRIPT
    ;;
  esac
}
daemon_put() { # NAME text|base64 PROGRAM
  put_file "/etc/lvsfab/$1" 755 root root "$2" "$3" || return 1
  d_mode=755
  [ "$(init_system)" = systemd ] && d_mode=644
  put_file "$(boot_file "$1")" "$d_mode" root root text "$(daemon_text "$1")$f_nl" || return 1
  boot_enable "$1" || return 1
  service_do "lvsfab-$1" stop
  service_do "lvsfab-$1" start
}
daemon_drop() { # NAME
  service_do "lvsfab-$1" stop
  boot_drop "$1" || return 1
  rm -f "/etc/lvsfab/$1" && { rmdir /etc/lvsfab 2>/dev/null; return 0; }
}
"""  # noqa: E501


class Daemon(State, frozen=True, kw_only=True):
    """`program`: text, with its `#!` line; it lies in /etc/lvsfab/NAME, the service is lvsfab-NAME.
    `intact` is only ever read: whether unit or script are as they were put there.
    """

    kind: ClassVar[str] = "daemon"
    volatile: ClassVar[bool] = False
    read_only: ClassVar[frozenset[str]] = frozenset({"intact"})
    reader: ClassVar[str] = r"""
  [ -e "/etc/lvsfab/$1" ] || return 0
  printf 'program '; base64 <"/etc/lvsfab/$1" | tr -d '\n'; echo
  [ "$(daemon_text "$1")" = "$(cat "$(boot_file "$1")" 2>/dev/null)" ] && echo 'intact yes'
  boot_enabled "$1" && echo 'enabled yes'
  case $(init_system) in
  systemd) systemctl is-active -q "lvsfab-$1.service" && echo 'running yes' ;;
  openrc) rc-service -q "lvsfab-$1" status >/dev/null 2>&1 && echo 'running yes' ;;
  *) "/etc/init.d/lvsfab-$1" status >/dev/null 2>&1 && echo 'running yes' ;;
  esac
  return 0
"""

    name: str
    program: str
    running: bool = True
    enabled: bool = True
    intact: bool = True

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)
        if not self.program.startswith("#!/") and self.intact and self.running:
            raise InputError("a program begins with the line of its interpreter", key=self.kind)

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said = dict(line.partition(" ")[::2] for line in output.splitlines())
        if "program" not in said:
            return None
        try:
            program = base64.b64decode(said["program"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            program = ""
        yes = {field: said.get(field) == "yes" for field in ("running", "enabled", "intact")}
        if not program.startswith("#!/"):
            yes["intact"] = False
        return cls(name=key, program=program, **yes)

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if have is None:
            return (Change("running", "absent", "yes"),)
        found = []
        if self.program != have.program:
            sums = (f"{binascii.crc32(p.encode()):08x}" for p in (have.program, self.program))
            found.append(Change("program", *sums))
        for field in ("running", "enabled", "intact"):
            want, was = getattr(self, field), getattr(have, field)
            if want != was:
                found.append(Change(field, show(was), show(want)))
        return tuple(found)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            return (command("daemon_drop", key, shown=f"stop and remove lvsfab-{key}"),)
        shown = f"install, enable and start lvsfab-{key}"
        return (command("daemon_put", key, *worded(want.program.encode()), shown=shown),)
