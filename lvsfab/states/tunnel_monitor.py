"""The tunnel monitor: a daemon on a real server that sees its end of the tunnel dead (the device
gone or down, the UDP port of GUE closed, an address lost, no director answering inside it) and
restores it.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from lvsfab.errors import InputError
from lvsfab.session import Command
from lvsfab.states.address import Address
from lvsfab.states.base import Context, Resource, State
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.daemon import Daemon
from lvsfab.states.fou import Fou
from lvsfab.states.inner import Inner
from lvsfab.states.module import Module
from lvsfab.states.route import Route
from lvsfab.states.tunnel import MODULES, Tunnel

INTERVAL = 2  # s between two looks
PATIENCE = 15  # looks between two restorations while only the far end is silent: it may be down


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    wanted: bool
    dev: str
    type: Literal["ipip", "gre", "gue"] = "ipip"


class TunnelMonitor(Composite):
    """Recipe word `tunnel_monitor`: wanted; type and dev, as `tunnel` has them."""

    kind: ClassVar[str] = "tunnel_monitor"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        found = arguments(args, _Args, self.kind)
        if context.cluster is None or found.dev not in MODULES:
            raise InputError("tunnel_monitor stands in a recipe with a tunnel", key=self.kind)
        if not found.wanted:
            return ()
        vip = Address(address=str(ipaddress.ip_network(context.cluster.service.vip)), dev=found.dev)
        tunnel = Tunnel().build({"dev": found.dev, "type": found.type}, context)
        inner = Inner().build({"dev": found.dev}, context)
        end = [vip, *(resource.state for resource in (*tunnel, *inner))]
        return wanted(Daemon(name="tunnel", program=program(found.dev, end)))


def program(dev: str, end: Sequence[State | None]) -> str:
    """The monitor's text, for a device and what this host's end of the tunnel consists of: modules,
    ports, the addresses on the device and the ways into the tunnel.
    """
    modules = dict.fromkeys(state.name for state in end if isinstance(state, Module))
    ports = [state for state in end if isinstance(state, Fou)]
    addresses = [state for state in end if isinstance(state, Address)]
    routes = [state for state in end if isinstance(state, Route)]
    make: list[Command] = []
    for state in (*ports, *addresses, *routes):
        make += state.commands(state.key, None, state)
    lost = "\n".join(
        [
            f"  ip {'-6' if p.ipv6 else '-4'} fou show 2>/dev/null | grep -q '^port {p.port} ' || "
            f"{{ echo 'UDP port {p.port} is closed'; return 0; }}"
            for p in ports
        ]
        + [
            f"  ip -o addr show dev {dev} | grep -qF ' {a.address} ' || "
            f"{{ echo '{a.address} is not on {dev}'; return 0; }}"
            for a in addresses
        ]
    )
    peers = [r.to.partition("/")[0] for r in routes]
    asked = "\n".join(
        f"  ping -n -q -c 2 -i 0.5 -W 1 -I {r.src} {shlex.quote(peer)} >/dev/null 2>&1 && return 1"
        for r, peer in zip(routes, peers, strict=True)
    )
    silent = f"{asked}\n  echo 'no answer from {', '.join(peers)}'" if routes else "  return 1"
    load = "\n".join(f"  modprobe {name}" for name in modules)
    mend = "\n".join(f"  {each.script()}" for each in make)
    return f"""\
#!/bin/sh
# Put here by lvsfab: sees this host's end of the tunnel dead, and restores it.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
broken() {{
  ip -o link show dev {dev} up 2>/dev/null | grep -q . || {{ echo '{dev} is not up'; return 0; }}
{lost}
  return 1
}}
silent() {{ # of several directors one is enough: another may be down
{silent}
}}
mend() {{ # what is there already says so, and stays
{load}
  ip link set dev {dev} down
  ip link set dev {dev} up
  echo 2 >/proc/sys/net/ipv4/conf/{dev}/rp_filter
{mend}
}}
mute=0
while :; do
  if why=$(broken); then mute=0
  elif why=$(silent); then mute=$((mute + 1))
  else mute=0 why=
  fi
  if [ -n "$why" ] && {{ [ "$mute" -le 1 ] || [ $((mute % {PATIENCE})) = 0 ]; }}; then
    logger -t lvsfab-tunnel "LVS-TUN: $why, restoring {dev}" 2>/dev/null
    mend 2>/dev/null
  fi
  sleep {INTERVAL}
done
"""
