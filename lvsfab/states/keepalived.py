"""keepalived's configuration: VRRP for the addresses that move between directors, the virtual
service, and how its real servers are checked (keepalived.conf(5)).

`keepalived -t` reads it before it is put in place, and a daemon that runs takes it up at once
(SIGHUP): connections, and the VIP, stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from lvsfab.errors import InputError
from lvsfab.model import Cluster, ForwardingMethod, IPAddress, Keepalived, RealServer
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Resource
from lvsfab.states.file import File

PATH = "/etc/keepalived/keepalived.conf"
# how `ip address` calls the protocol of its addresses; keepalived would write it, and leave it
PROTOCOL_FILE = "/etc/iproute2/rt_addrprotos.d/keepalived.conf"
PROTOCOL = "18\tkeepalived\t# added by keepalived\n"
PRIORITY = 100  # of the first director; each further one has 10 less
_KIND = {ForwardingMethod.NAT: "NAT", ForwardingMethod.DR: "DR", ForwardingMethod.TUN: "TUN"}
# a real server's weight, which `render` puts at the head of its block
_WEIGHT = re.compile(r"^( *real_server (\S+) \d+ \{\n *weight )\d+", re.MULTILINE)

HELPERS = r"""
keepalived_pid() { # of the parent process, if it runs
  k_pid=$(cat /run/keepalived.pid /run/keepalived/keepalived.pid 2>/dev/null | head -n 1)
  [ -n "$k_pid" ] && kill -0 "$k_pid" 2>/dev/null && echo "$k_pid"
}
keepalived_put() { # as put_file
  k_dir=$(mktemp -d) || return 1
  k_new=$k_dir/conf
  file_fill "$k_new" "$5" "$6" || { rm -rf "$k_dir"; return 1; }
  if ! k_said=$(keepalived -t -f "$k_new" 2>&1); then
    printf '%s\n' "$k_said"; rm -rf "$k_dir"; return 1
  fi
  rm -rf "$k_dir"
  mkdir -p /run/lvsfab && : >/run/lvsfab/keepalived.pending && put_file "$@" || return 1
  keepalived_take
}
keepalived_drop() { # as drop_file; a daemon that runs goes on with what it has
  drop_file "$@" && keepalived_taken
}
keepalived_take() {
  k_pid=$(keepalived_pid) && { kill -HUP "$k_pid" || return 1; }
  keepalived_taken
}
keepalived_taken() {
  rm -f /run/lvsfab/keepalived.pending; rmdir /run/lvsfab 2>/dev/null; return 0
}
"""


class KeepalivedConfig(File, frozen=True, kw_only=True):
    """`content`: the configuration. `taken_up` is only ever read: whether the daemon was told."""

    kind: ClassVar[str] = "keepalived"
    moves_addresses: ClassVar[bool] = True  # VRRP does
    read_only: ClassVar[frozenset[str]] = File.read_only | {"taken_up"}
    reader: ClassVar[str] = "\n".join(
        ("  [ -e /run/lvsfab/keepalived.pending ] && echo pending", File.reader.strip("\n"))
    )

    path: str = PATH
    taken_up: bool = True

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        pending = output.startswith("pending\n")
        found = super().parse(key, output.removeprefix("pending\n"))
        if found is None or not pending:
            return found
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        return cls(**{**fields, "taken_up": False})

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        found = super().changes(have)
        if not found and have is not None and not have.taken_up:
            return (Change("taken up by the daemon", "no", "yes"),)
        return found

    def drained(self, addresses: Collection[str]) -> Self | None:
        def weightless(found: re.Match[str]) -> str:
            return f"{found[1]}0" if found[2] in addresses else found[0]

        content = _WEIGHT.sub(weightless, self.content or "")
        return replace(self, content=content) if content != (self.content or "") else None

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        (file,) = super().commands(key, have, want)
        if file.argv[0] == "drop_file":
            return (command("keepalived_drop", *file.argv[1:], shown=file.shown),)
        shown = f"keepalived -t, then {file.shown}"
        return (command("keepalived_put", *file.argv[1:], shown=shown),)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        if "path" in args:
            raise InputError(f"keepalived's configuration is always {PATH}", key=cls.kind)
        return super().build(args, context)


@dataclass(frozen=True, slots=True)
class _Instance:
    """One VRRP instance: the address that it moves, and the device for it."""

    name: str
    router_id: int
    device: str
    address: IPAddress


def render(cluster: Cluster, settings: Keepalived, context: Context) -> str:
    """The configuration for the director that `context` is about. Pure."""
    host = context.host
    rank = cluster.directors.index(host.name)
    instances = _instances(cluster, settings, context)
    lines = [
        f"# lvsfab, recipe {cluster.recipe}",
        "global_defs {",
        f"    router_id {host.name}",
        "    vrrp_garp_master_refresh 60",  # a neighbour that missed the first ARP hears the next
    ]
    if settings.connection_sync and cluster.backups:
        last = instances[-1]
        lines.append(f"    lvs_sync_daemon {last.device} {last.name} id {settings.router_id}")
    lines.append("}")
    if len(instances) > 1:  # one address never moves without the other
        names = " ".join(instance.name for instance in instances)
        lines += ["vrrp_sync_group lvsfab {", f"    group {{ {names} }}", "}"]
    for instance in instances:
        lines += _vrrp(instance, settings, rank, single=not cluster.backups)
    return "\n".join([*lines, *_service(cluster, settings), ""])


def _instances(cluster: Cluster, settings: Keepalived, context: Context) -> tuple[_Instance, ...]:
    face = context.host.interface_on(cluster.vip_network or "")
    outside = _Instance(
        "outside", settings.router_id, face.name if face else "", cluster.service.vip
    )
    if settings.gateway is None:
        return (outside,)
    inner = context.host.interface_for(settings.gateway)
    inside = _Instance(
        "inside", settings.router_id + 1, inner.name if inner else "", settings.gateway
    )
    return (outside, inside)


def _vrrp(instance: _Instance, settings: Keepalived, rank: int, *, single: bool) -> list[str]:
    # nopreempt counts only for those that begin as backups
    master = single or (settings.preempt and rank == 0)
    lines = [
        f"vrrp_instance {instance.name} {{",
        f"    state {'MASTER' if master else 'BACKUP'}",
        f"    interface {instance.device}",
        f"    virtual_router_id {instance.router_id}",
        f"    priority {PRIORITY - 10 * rank}",
        f"    advert_int {settings.advert}",
    ]
    if not settings.preempt and not single:
        lines.append("    nopreempt")
    if settings.password:
        secret = ("auth_type PASS", f"auth_pass {settings.password}")
        lines += ["    authentication {", *(f"        {line}" for line in secret), "    }"]
    address = ip_network(instance.address)
    lines.append(f"    virtual_ipaddress {{\n        {address} dev {instance.device}\n    }}")
    return [*lines, "}"]


def _service(cluster: Cluster, settings: Keepalived) -> list[str]:
    service = cluster.service
    lines = [
        f"virtual_server {service.vip} {service.port} {{",
        f"    delay_loop {settings.check_every}",
        f"    lb_algo {service.scheduler}",
        f"    lb_kind {_KIND[cluster.method]}",
        f"    protocol {service.protocol.upper()}",
    ]
    lines += [f"    {flag}" for flag in service.flags]
    if service.persistence:
        lines.append(f"    persistence_timeout {service.persistence}")
    if service.netmask:
        lines.append(f"    persistence_granularity {service.netmask}")
    for server in cluster.real_servers:
        lines += _real_server(server, settings)
    return [*lines, "}"]


def _real_server(server: RealServer, settings: Keepalived) -> list[str]:
    return [
        f"    real_server {server.address} {server.port} {{",
        f"        weight {server.weight}",
        *(["        inhibit_on_failure"] if settings.inhibit else []),
        "        TCP_CHECK {",
        f"            connect_timeout {settings.check_timeout}",
        f"            retry {settings.check_retries}",
        f"            delay_before_retry {settings.check_delay}",
        f"            connect_port {server.port or 80}",
        "        }",
        "    }",
    ]
