"""keepalived's configuration: VRRP for the addresses that move between directors, the virtual
service, and how its real servers are checked (keepalived.conf(5)).

`keepalived -t` reads it before it is put in place, and a daemon that runs takes it up at once
(SIGHUP): connections, and the VIP, stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from lvsfab.errors import InputError
from lvsfab.model import Cluster, ForwardingMethod, IPAddress, Keepalived, Protocol
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Resource, Way
from lvsfab.states.file import File
from lvsfab.states.ipvs import catches
from lvsfab.states.ipvs_server import RealServerState
from lvsfab.states.ipvs_service import VirtualServiceState

PATH = "/etc/keepalived/keepalived.conf"
# how `ip address` calls the protocol of its addresses; keepalived would write it, and leave it
PROTOCOL_FILE = "/etc/iproute2/rt_addrprotos.d/keepalived.conf"
PROTOCOL = "18\tkeepalived\t# added by keepalived\n"
PRIORITY = 100  # of the first director; each further one has 10 less
_CHECKSUM = {"no": "nocsum", "yes": "csum", "remote": "remcsum"}
# a real server's weight, which `render` puts at the head of its block
_WEIGHT = re.compile(r"^( *real_server (\S+) \d+ \{\n *weight )\d+", re.MULTILINE)
_MOVED = re.compile(r"\bvirtual_ipaddress(?:_excluded)?\s*\{([^}]*)")
_SERVICE = re.compile(r"^\s*virtual_server\s+(\S+)\s+(\d{1,5})\b(.*)", re.DOTALL)
_OTHER = re.compile(r"^\s*protocol\s+(?!TCP\b)", re.MULTILINE)

HELPERS = r"""
keepalived_pid() { # of the parent process, if it runs
  k_pid=$(cat /run/keepalived.pid /run/keepalived/keepalived.pid 2>/dev/null | head -n 1)
  [ -n "$k_pid" ] && kill -0 "$k_pid" 2>/dev/null && echo "$k_pid"
}
keepalived_refuses() { # FILE: says why. Not because all servers are drained: that it serves
  k_said=$(keepalived -t -f "$1" 2>&1) && return 1
  [ -z "$k_said" ] || printf '%s\n' "$k_said" |
    grep -v -e ' exceeds total weight ' -e ' hysteresis '
}
keepalived_put() { # as put_file
  k_dir=/run/lvsfab/keepalived.new # the password is in it: where the next run finds what was left
  rm -rf "$k_dir" && mkdir -p -m 700 /run/lvsfab && mkdir -m 700 "$k_dir" || return 1
  k_new=$k_dir/conf
  file_fill "$k_new" "$5" "$6" || { rm -rf "$k_dir"; return 1; }
  keepalived_refuses "$k_new" && { rm -rf "$k_dir"; return 1; }
  keepalived_forgets sorry_server "$1" "$k_new" && keepalived_not_sorry "$1"
  k_synced=
  keepalived_forgets lvs_sync_daemon "$1" "$k_new" && k_synced=1
  rm -rf "$k_dir"
  : >/run/lvsfab/keepalived.pending && put_file "$@" || return 1
  keepalived_take
}
keepalived_forgets() { # WORD OLD NEW: whether the new configuration has not what the old one had
  grep -q "$1" "$2" 2>/dev/null && ! grep -q "$1" "$3"
}
keepalived_not_sorry() { # a checker that is told to drop a sorry server dies (2.3.3) and starts
  # anew, and lets weights be that the same configuration changes: so it is told of that first
  k_pid=$(keepalived_pid) || return 0
  sed '/sorry_server/d' "$1" >"$k_dir/before" && cat "$k_dir/before" >"$1" && kill -HUP "$k_pid"
  nap 2
}
keepalived_drop() { # as drop_file; a daemon that runs goes on with what it has
  drop_file "$@" && keepalived_taken
}
keepalived_take() {
  k_pid=$(keepalived_pid) && { kill -HUP "$k_pid" || return 1; }
  # it lets the kernel go on with what it is told of no more, and ip_vs stays in use
  [ -z "$k_synced" ] || for k_way in master backup; do
    ipvsadm --stop-daemon "$k_way" >/dev/null 2>&1
  done
  keepalived_taken
}
keepalived_taken() {
  rm -rf /run/lvsfab/keepalived.new /run/lvsfab/keepalived.pending
  rmdir /run/lvsfab 2>/dev/null
  return 0
}
"""


class KeepalivedConfig(File, frozen=True, kw_only=True):
    """`content`: the configuration. `taken_up` is only ever read: whether the daemon was told. A
    run that was cut off leaves what it looked at, too (`strays`).
    """

    kind: ClassVar[str] = "keepalived"
    moves_addresses: ClassVar[bool] = True  # VRRP does
    comes_back: ClassVar[bool] = True
    # its start comes later, its end before; a master is who heard none for 3.6 s (at 1 s each)
    shows_after: ClassVar[int] = 5
    read_only: ClassVar[frozenset[str]] = File.read_only | {"taken_up"}
    reader: ClassVar[str] = "\n".join(
        (
            "  [ -e /run/lvsfab/keepalived.pending ] && echo pending",
            "  [ -e /run/lvsfab/keepalived.new ] && echo stray /run/lvsfab/keepalived.new",
            File.reader.strip("\n"),
        )
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
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        """Covered: the addresses that VRRP moves, on the director that is told of them, and virtual
        services as of ipvsadm's. What it tracks, and its scripts, may do anything.
        """
        del key
        for state in (have, want):
            text = re.sub(r"[!#].*", "", (state.content or "") if state is not None else "")
            for address in sorted(set(_moved(text)) & way.ends):
                return f"keepalived moves {address}, which is on the way to this controller"
            for each in re.split(r"^(?=\s*virtual_server\b)", text, flags=re.MULTILINE):
                found = _SERVICE.match(each)
                if found is None or not _addresses(found[1]) or _OTHER.search(found[3]):
                    continue
                told = catches("tcp", found[1], int(found[2]), way)
                if told:
                    return told
        return ""

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
        return super().build({"mode": mode_of(str(args.get("content"))), **args}, context)


def mode_of(content: str) -> str | None:
    """Whose a configuration is where nobody says: root's alone if it has a password, else any."""
    return "0600" if "auth_pass" in content else None


def _moved(text: str) -> Iterator[str]:
    """What VRRP moves: the first word of each line of its blocks."""
    for block in _MOVED.findall(text):
        for line in block.splitlines():
            yield from _addresses(line.strip().partition(" ")[0].partition("/")[0])


def _addresses(word: str) -> tuple[str, ...]:
    """The address that a word is, as others write it; none: it is something else."""
    try:
        return (str(ip_address(word)),)
    except ValueError:
        return ()


@dataclass(frozen=True, slots=True)
class _Instance:
    """One VRRP instance: the address that it moves, and the device for it."""

    name: str
    router_id: int
    device: str
    address: IPAddress


def render(
    cluster: Cluster,
    settings: Keepalived,
    context: Context,
    service: VirtualServiceState,
    servers: Sequence[RealServerState],
) -> str:
    """The configuration for the director that `context` is about; `service` and `servers` (in the
    cluster's order) are what ipvsadm would be told in its place. Pure.
    """
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
    return "\n".join([*lines, *_service(cluster, settings, service, servers), ""])


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
    address = f"{ip_network(instance.address)} dev {instance.device}"
    if instance.address.version == 6:
        address += " preferred_lft 0"  # deprecated, for the reasons that `vip` tells
    lines.append(f"    virtual_ipaddress {{\n        {address}\n    }}")
    return [*lines, "}"]


def _service(
    cluster: Cluster,
    settings: Keepalived,
    service: VirtualServiceState,
    servers: Sequence[RealServerState],
) -> list[str]:
    mark = f"fwmark {service.mark}" if service.mark else ""
    lines = [
        f"virtual_server {mark or f'{service.address} {service.port}'} {{",
        f"    delay_loop {settings.check_every}",
        f"    lb_algo {service.scheduler}",
        f"    lb_kind {_method(servers[0])}",
    ]
    if not mark:
        lines.append(f"    protocol {service.protocol.upper()}")
    elif service.ipv6:
        lines.append("    ip_family inet6")
    lines += [f"    {flag}" for flag in service.flags]
    lines += ["    ops"] if service.ops else []
    if service.engine:
        lines.append(f"    persistence_engine {service.engine}")
    if service.persistence:
        lines.append(f"    persistence_timeout {service.persistence}")
    if service.mask:
        lines.append(f"    persistence_granularity {service.mask}")
    for named, server in zip(cluster.real_servers, servers, strict=True):
        if named.name == settings.sorry:
            # in the table before it is needed, with weight 0, as where ipvsadm makes it
            sorry = f"sorry_server {server.address} {named.port}"
            lines += [f"    {sorry}", "    sorry_server_inhibit"]
        else:
            lines += _real_server(server, named.port, settings, checks_of(cluster, named.port))
    return [*lines, "}"]


def _method(server: RealServerState) -> str:
    """A forwarding method, and how TUN wraps packets: where nothing is said, as IP in IP."""
    words = [server.method.upper()]
    if server.tun_type != "ipip":
        words += ["type", server.tun_type]
        words += ["port", str(server.tun_port)] if server.tun_type == "gue" else []
        words.append(_CHECKSUM[server.tun_checksum])
    return " ".join(words)


def checks_of(cluster: Cluster, port: int) -> list[tuple[str, int | None]]:
    """Checkers, each with the port it asks; all must be content. What serves UDP by DR or TUN may
    listen at the VIP alone, which no director can ask: there the host is asked, by ping.
    """
    if cluster.service.protocol is Protocol.UDP:
        nat = cluster.method is ForwardingMethod.NAT
        return [("UDP_CHECK", port) if nat else ("PING_CHECK", None)]
    if cluster.service.ports:
        return [("TCP_CHECK", each) for each in cluster.service.every_port]
    return [("TCP_CHECK", port or 80)]


def _real_server(
    server: RealServerState,
    port: int,
    settings: Keepalived,
    checks: Sequence[tuple[str, int | None]],
) -> list[str]:
    lines = [f"    real_server {server.address} {port} {{", f"        weight {server.weight}"]
    lines += [f"        uthreshold {server.upper}"] if server.upper else []
    lines += [f"        lthreshold {server.lower}"] if server.lower else []
    lines += ["        inhibit_on_failure"] if settings.inhibit else []
    for checker, asked in checks:
        lines += [
            f"        {checker} {{",
            f"            connect_timeout {settings.check_timeout}",
            f"            retry {settings.check_retries}",
            f"            delay_before_retry {settings.check_delay}",
            *([f"            connect_port {asked}"] if asked is not None else []),
            "        }",
        ]
    return [*lines, "    }"]
