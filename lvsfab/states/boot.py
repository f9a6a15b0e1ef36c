"""What runs a program once when the host has booted and its network is there: a unit of systemd,
or a script of OpenRC or SysV, whichever the host has. The program itself is a file apart
(lvsfab/persist.py).

It is enabled, never started here: what it would do has been done, and a mark in /run says so. It
comes before the tunnel monitor, which would make the same.
"""

from __future__ import annotations

from typing import ClassVar, Self

from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, Others, State

HELPERS = r"""
boot_file() { # NAME
  case $(init_system) in
  systemd) echo "/etc/systemd/system/lvsfab-$1.service" ;;
  *) echo "/etc/init.d/lvsfab-$1" ;;
  esac
}
boot_text() { # NAME. KillMode: what it started stays when the unit goes
  case $(init_system) in
  systemd) cat <<UNIT
[Unit]
Description=what lvsfab up --persist made of this host ($1)
Wants=network-online.target
After=network-online.target firewalld.service nftables.service iptables.service
Before=lvsfab-tunnel.service

[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
ExecStart=/etc/lvsfab/boot-$1

[Install]
WantedBy=multi-user.target
UNIT
    ;;
  openrc) cat <<SCRIPT
#!/sbin/openrc-run
description="what lvsfab up --persist made of this host ($1)"
depend() {
  need net
  after firewall iptables nftables
  before lvsfab-tunnel
}
start() {
  ebegin "Making what lvsfab up --persist made ($1)"
  /etc/lvsfab/boot-$1
  eend \$?
}
SCRIPT
    ;;
  *) cat <<SCRIPT
#!/bin/sh
# chkconfig: 2345 98 02
# description: what lvsfab up --persist made of this host ($1)
### BEGIN INIT INFO
# Provides:          lvsfab-$1
# Required-Start:    \$network \$remote_fs
# Required-Stop:
# Should-Start:      iptables nftables
# X-Start-Before:    lvsfab-tunnel
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: what lvsfab up --persist made of this host
### END INIT INFO
case \$1 in
start) exec /etc/lvsfab/boot-$1 ;;
status) [ -d /run/lvsfab/$1/booted ] ;;
esac
SCRIPT
    ;;
  esac
}
boot_links() { # NAME: those of SysV, at the end of each runlevel that serves
  for b_dir in /etc/rc[2-5].d; do
    [ -d "$b_dir" ] && echo "$b_dir/S99lvsfab-$1"
  done
  return 0
}
boot_enabled() { # NAME
  case $(init_system) in
  systemd) systemctl is-enabled -q "lvsfab-$1.service" 2>/dev/null ;;
  openrc) [ -e "/etc/runlevels/default/lvsfab-$1" ] ;;
  *) ls /etc/rc[2-5].d/S[0-9][0-9]"lvsfab-$1" >/dev/null 2>&1 ;;
  esac
}
boot_put() { # NAME
  b_mode=755
  [ "$(init_system)" = systemd ] && b_mode=644
  put_file "$(boot_file "$1")" "$b_mode" root root text "$(boot_text "$1")$f_nl" || return 1
  boot_enable "$1" || return 1
  mkdir -p "/run/lvsfab/$1/booted"
}
boot_enable() { # NAME
  case $(init_system) in
  systemd) systemctl daemon-reload && systemctl enable "lvsfab-$1.service" ;;
  openrc) rc-update add "lvsfab-$1" default ;;
  *)
    if has chkconfig; then chkconfig --add "lvsfab-$1"
    elif has insserv; then insserv "lvsfab-$1"
    else
      for b_link in $(boot_links "$1"); do
        ln -sf "../init.d/lvsfab-$1" "$b_link" || return 1
      done
    fi ;;
  esac
}
boot_drop() { # NAME
  case $(init_system) in
  systemd) systemctl disable "lvsfab-$1.service"; systemctl stop "lvsfab-$1.service" ;;
  openrc) rc-update del "lvsfab-$1" default ;;
  *)
    if has chkconfig; then chkconfig --del "lvsfab-$1"
    elif has insserv; then insserv -r "lvsfab-$1"
    fi
    rm -f $(boot_links "$1") ;;
  esac
  rm -f "$(boot_file "$1")" || return 1
  [ "$(init_system)" = systemd ] && systemctl daemon-reload
  rmdir "/run/lvsfab/$1/booted" "/run/lvsfab/$1" /run/lvsfab 2>/dev/null
  return 0
}
"""


class Boot(State, frozen=True, kw_only=True):
    """`name`: the inventory's; the program is /etc/lvsfab/boot-NAME. `intact` is only ever read:
    whether the unit or script is the one that is put there.
    """

    kind: ClassVar[str] = "boot"
    volatile: ClassVar[bool] = False
    at_boot: ClassVar[bool] = True
    read_only: ClassVar[frozenset[str]] = frozenset({"intact"})
    reader: ClassVar[str] = r"""
  b_file=$(boot_file "$1")
  [ -e "$b_file" ] || return 0
  [ "$(boot_text "$1")" = "$(cat "$b_file")" ] && echo 'intact yes' || echo 'intact no'
  boot_enabled "$1" && echo 'enabled yes' || echo 'enabled no'
"""

    name: str
    enabled: bool = True
    intact: bool = True

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said = words.pairs(output)
        if "intact" not in said:
            return None
        return cls(name=key, enabled=said.get("enabled") == "yes", intact=said["intact"] == "yes")

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if have is None:
            return (Change("enabled", "absent", "yes"),)
        return super().changes(have)

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or have.intact:
            return ""
        return f"there is a unit or script lvsfab-{key} of other content"

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            return (command("boot_drop", key, shown=f"disable and remove lvsfab-{key}"),)
        return (command("boot_put", key, shown=f"install and enable lvsfab-{key}"),)
