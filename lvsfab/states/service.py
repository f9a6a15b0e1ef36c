"""A service of the host's init system: systemd, OpenRC or SysV scripts, whichever runs there."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import State, Way

_NETWORKING = re.compile(
    r"(ssh|sshd|dropbear|network|networking|NetworkManager|systemd-networkd|firewalld|nftables|"
    r"iptables|ip6tables|netfilter-persistent|ufw|shorewall|dhcpcd|connman)([.@].*)?$"
)

HELPERS = r"""
init_system() {
  if [ -d /run/systemd/system ]; then echo systemd
  elif [ -e /run/openrc/softlevel ]; then echo openrc
  else echo sysv; fi
}
service_pid() { # NAME: by its pid file
  for v_file in "/run/$1.pid" "/run/$1/$1.pid"; do
    [ -r "$v_file" ] && read -r v_pid <"$v_file" && kill -0 "$v_pid" 2>/dev/null && echo "$v_pid"
  done
  return 0
}
service_running() { # NAME: by its script of SysV; not every script knows `status`
  if grep -q '^ *\(.*| *\)*status *[|)]' "/etc/init.d/$1"; then
    "/etc/init.d/$1" status >/dev/null 2>&1
  else
    [ -n "$(service_pid "$1")" ]
  fi
}
service_turn() { # NAME enable|disable: its links in each runlevel that serves; 1: there are none
  v_from=K v_to=S v_status=1
  [ "$2" = disable ] && v_from=S v_to=K
  for v_link in /etc/rc[2-5].d/$v_from[0-9][0-9]"$1"; do
    [ -e "$v_link" ] || continue
    mv "$v_link" "${v_link%/*}/$v_to${v_link##*/$v_from}" && v_status=0
  done
  return "$v_status"
}
service_do() { # NAME start|stop|enable|disable
  set -- "$(service_named "$1")" "$2"
  case $(init_system):$2 in
  systemd:*) systemctl "$2" "$1.service" ;;
  openrc:start | openrc:stop) rc-service "$1" "$2" ;;
  openrc:enable) rc-update add "$1" default ;;
  openrc:disable) rc-update del "$1" default ;;
  *:start | *:stop)
    v_pid=$(service_pid "$1") v_tries=0
    # a daemon that keeps our output open would keep the run waiting
    s_out=$(mktemp /run/lvsfab-service.XXXXXXXXXX) || return 1
    while :; do
      "/etc/init.d/$1" "$2" >"$s_out" 2>&1 </dev/null
      v_status=$? v_tries=$((v_tries + 1))
      # one that is still about to end runs already, says its script; and then it has ended
      [ "$2" = stop ] || [ "$v_status" != 0 ] || service_running "$1" ||
        [ "$v_tries" -gt 4 ] && break
      nap 1
    done
    [ "$2" = stop ] && for v_try in 1 2 3 4 5 6 7 8 9 10; do # not every script waits for the end
      [ -n "$v_pid" ] && kill -0 "$v_pid" 2>/dev/null && nap 0.5 || break
    done
    cat "$s_out"; rm -f "$s_out"; return "$v_status" ;;
  *)
    if ! has insserv && ! has chkconfig && service_turn "$1" "$2"; then return 0
    elif has update-rc.d; then
      [ "$2" = enable ] && update-rc.d "$1" defaults >/dev/null
      update-rc.d "$1" "$2"
    elif has chkconfig; then
      [ "$2" = enable ] && set -- "$1" on || set -- "$1" off
      chkconfig "$1" "$2"
    else
      echo "no update-rc.d, no chkconfig: $1 cannot be set to start at boot"; return 1
    fi ;;
  esac
}
"""


class Service(State, frozen=True, kw_only=True):
    """`running` now, `enabled` at boot; what is not said stays as it is."""

    kind: ClassVar[str] = "service"
    volatile: ClassVar[bool] = False  # `enabled` outlives a reboot
    reader: ClassVar[str] = r"""
  v_run=no v_boot=no
  set -- "$(service_named "$1")"
  case $(init_system) in
  systemd)
    systemctl cat "$1.service" >/dev/null 2>&1 || return 0
    systemctl is-active -q "$1.service" && v_run=yes
    systemctl is-enabled -q "$1.service" 2>/dev/null && v_boot=yes ;;
  openrc)
    [ -x "/etc/init.d/$1" ] || return 0
    rc-service -q "$1" status >/dev/null 2>&1 && v_run=yes
    [ -e "/etc/runlevels/default/$1" ] && v_boot=yes ;;
  sysv)
    [ -x "/etc/init.d/$1" ] || return 0
    service_running "$1" && v_run=yes
    v_level=$(sed -n 's/^id:\([0-9]\):initdefault:.*/\1/p' /etc/inittab 2>/dev/null)
    for v_link in "/etc/rc${v_level:-2}.d"/S[0-9][0-9]"$1"; do
      [ -e "$v_link" ] && v_boot=yes
    done ;;
  esac
  printf 'running %s\nenabled %s\n' "$v_run" "$v_boot"
"""

    name: str
    running: bool | None = None
    enabled: bool | None = None

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)
        if self.running is None and self.enabled is None:
            raise InputError("say `running`, `enabled` or both", key=self.kind)

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said = words.pairs(output)
        if "running" not in said:
            return None
        return cls(name=key, running=said["running"] == "yes", enabled=said.get("enabled") == "yes")

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have, want, way
        return f"{key} could take the network or the login along" if _NETWORKING.match(key) else ""

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None:
            return ()  # a service goes with the package that brought it
        steps = []
        if want.enabled is not None and (have is None or have.enabled != want.enabled):
            verb = "enable" if want.enabled else "disable"
            steps.append(_do(key, verb))
        if want.running is not None and (have is None or have.running != want.running):
            steps.append(_do(key, "start" if want.running else "stop"))
        return tuple(steps)

    @classmethod
    def reverse(cls, key: str, now: Self | None, before: Self | None) -> tuple[Command, ...]:
        if before is None and now is not None and now.running:  # its package is there by now
            return (_do(key, "stop"),)
        return cls.commands(key, now, before)


def _do(name: str, verb: str) -> Command:
    return command("service_do", name, verb, shown=f"service {name} {verb}")
