"""What verify asks of each host, as POSIX scripts. Pure: values in, text out.

Three phases over the shells that are open anyway: `before` on every host at once, the batch on
the client (client.py), `after` on every host at once. Background work (captures, the firewall
marks) has a life of its own that ends by itself when the controller does not come back.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from lvsfab.model import Cluster, ForwardingMethod, IPAddress, IPNetwork, RealServer
from lvsfab.states import ipvs
from lvsfab.states.ipvs import service_words
from lvsfab.states.ipvs_cluster import table_of
from lvsfab.verify.capture import CAPTURE_OFF, capture_on
from lvsfab.verify.marks import MarkPlan, marks_on, test_port
from lvsfab.verify.sources import SOURCES_OFF, sources_on

MAX_CONNECTIONS = 2000  # lines of ipvsadm -Lnc
MAX_PORTS = 65536

# A background job that must end: its own sleep ends with it, so nothing is left behind.
TIMER = r"""
lv_after() { # $1: seconds, then a command; prints nothing, the timer's pid is $lv_timer
  lv_wait=$1; shift
  ( trap 'kill $!; exit 0' TERM; trap - EXIT; sleep "$lv_wait" & wait $!; "$@"
  ) </dev/null >/dev/null 2>&1 &
  lv_timer=$!
}
"""

_SNAPSHOT = r"""
lv_conf() { # dash's read takes byte by byte, which these files do not give: grep it is
  grep -s . /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/arp_ignore \
    /proc/sys/net/ipv4/conf/*/arp_announce /proc/sys/net/ipv4/conf/*/send_redirects \
    /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
    /proc/sys/net/ipv4/vs/conn_reuse_mode
  return 0
}
lv_listen() { # $1: tcp or udp. 0A is LISTEN, 07 an unconnected UDP socket
  for lv_f in "/proc/net/$1" "/proc/net/${1}6"; do
    [ -r "$lv_f" ] && awk '($4=="0A" || $4=="07") && n++<500 {print $2}' "$lv_f"
  done; return 0
}
lv_log() { # $1: lines to wait for, then logs. A line follows its answer, on a busy machine late
  lv_least=$1; shift; [ -r "$1" ] || return 1
  lv_lines=-1 lv_tries=0
  while lv_was=$lv_lines; lv_lines=$(cat "$@" | wc -l); [ "$lv_tries" -lt 25 ]; do
    [ "$lv_lines" -ge "$lv_least" ] && [ "$lv_lines" = "$lv_was" ] && break
    lv_tries=$((lv_tries + 1)); sleep 0.15
  done
  echo "$lv_lines"
}
"""

# The counters that ipvsadm shows are brought up to date by an estimator every 2 s
# (net/netfilter/ipvs/ip_vs_est.c); what each CPU counted is exact at once, but of all services
# together. `lv_lag` is how far the shown connections stay behind the exact ones: what it was
# before the batch (services removed since boot leave a constant), it must be again after it. Before
# the batch they are looked at once nothing is on its way to them.
_DIRECTOR = r"""
lv_table() { # ipvsadm by itself would load ip_vs: look first
  [ -e /proc/net/ip_vs ] || { echo "ip_vs is not loaded (kernel $(uname -r))"; return 3; }
  has ipvsadm || { echo "ipvsadm is not installed"; return 4; }
  ipvsadm -Ln
}
lv_shown() { ipvsadm -Ln --stats --exact; }
lv_count() { # lv_exact: connections; lv_sum: as the estimator has them
  lv_exact=0 lv_sum=0
  while read -r lv_cpu lv_conns lv_rest; do
    case $lv_cpu in "~") lv_sum=$((0x$lv_conns)); break ;; esac  # then come rates
    case $lv_cpu$lv_conns in *[!0-9A-F]*|"") ;; *) lv_exact=$((lv_exact + 0x$lv_conns)) ;; esac
  done </proc/net/ip_vs_stats_percpu
}
lv_quiet() { # no connection of late: the sum is up to date, and the rates went down to 0
  [ -r /proc/net/ip_vs_stats_percpu ] || return 1
  lv_count
  [ "$lv_sum" = "$lv_exact" ] && ! tail -n 1 /proc/net/ip_vs_stats_percpu | grep -q '[1-9A-F]'
}
lv_lag() { # prints two numbers: for services, for servers
  lv_count
  lv_shown | awk -v E="$lv_exact" '$1=="->" && NF>=7 {r+=$(NF-4)}
    $1~/^(TCP|UDP|SCTP|FWM)$/ {s+=$(NF-4)} END {print E-s, E-r}'
}
lv_settled() { # waits until nothing lags: 2.1 s, and 3 s more on a busy machine
  [ -r /proc/net/ip_vs_stats_percpu ] && has awk || { sleep 2.1; return 0; }
  for lv_i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
    lv_now=$(lv_lag)
    [ "$lv_now" = "$lv_lag0" ] && return 0
    # less than before the batch: something lagged then
    [ "${lv_now% *}" -lt "${lv_lag0% *}" ] || [ "${lv_now#* }" -lt "${lv_lag0#* }" ] && {
      lv_late=yes; sleep 2.1; return 0; }
    sleep 0.2
  done; return 0
}
lv_still() { # waits until the lag has not changed for 2.1 s; 6 s at most
  [ -r /proc/net/ip_vs_stats_percpu ] && has awk || { sleep 2.1; return 0; }
  lv_same=0 lv_then=
  for lv_i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    lv_now=$(lv_lag)
    if [ "$lv_now" = "$lv_then" ]; then lv_same=$((lv_same + 1)); else lv_same=0; fi
    [ "$lv_same" -ge 7 ] && return 0
    lv_then=$lv_now; sleep 0.3
  done; return 0
}
lv_stats_before() {
  [ -e /proc/net/ip_vs ] && has ipvsadm || return 3
  lv_late=no
  lv_quiet || lv_still
  lv_lag0=$(lv_lag); lv_shown
}
lv_stats() { [ -e /proc/net/ip_vs ] && has ipvsadm || return 3; lv_settled; lv_shown; }
"""


def _line(record: str, *argv: str) -> str:
    return f"rec {record} {shlex.join(argv)}"


def _common() -> list[str]:
    """Every host, before and after. Link details tell a tunnel's far end."""
    return [
        _line("links", "ip", "-o", "-d", "link", "show"),
        _line("addresses", "ip", "-o", "addr", "show"),
        "rec conf lv_conf",
        _line("dev", "cat", "/proc/net/dev"),
        _line("netstat", "cat", "/proc/net/netstat", "/proc/net/snmp"),
        _line("snmp6", "grep", "-s", "^Icmp6Out", "/proc/net/snmp6"),
    ]


def _server_lines(
    cluster: Cluster, server: RealServer, client: IPAddress | None, logged: int
) -> list[str]:
    vip = str(cluster.service.vip)
    ports = (server.port or test_port(cluster), *cluster.service.ports)
    logs = [f"/run/lvsfab/testpage-{port}/access.log" for port in ports]
    lines = [
        _line("route:vip", "ip", "-o", "route", "get", vip),
        f"rec listen lv_listen {cluster.service.protocol}",
    ]
    if client is not None:
        source = str(server.address) if cluster.method is ForwardingMethod.NAT else vip
        lines.append(_line("route:client", "ip", "-o", "route", "get", str(client), "from", source))
    lines.append(_line("log", "lv_log", str(logged), *logs))  # last: what ended of late has a line
    return lines


def _director_lines(cluster: Cluster) -> list[str]:
    key = table_of(cluster)[0].key
    listed = shlex.join(["ipvsadm", "-L", "-n", "--thresholds", *service_words(key)])
    return [
        "rec table lv_table",
        ipvs.HELPERS,
        f"lv_rules() {{ ipvs_rules {shlex.quote(key)} && {listed}; }}",
        "rec rules lv_rules",
    ] + [
        _line(f"route:rip:{server.name}", "ip", "-o", "route", "get", str(server.address))
        for server in cluster.real_servers
    ]


def _neighbours(version: int) -> str:
    return _line("neighbours", "ip", f"-{version}", "neigh", "show")


def _role_lines(
    cluster: Cluster, host: str, client: IPAddress | None, logged: int = 0
) -> list[str]:
    lines = _common()
    for server in cluster.real_servers:
        if server.name == host:
            lines += _server_lines(cluster, server, client, logged)
    if host == cluster.director:
        lines += _director_lines(cluster)
    if host == cluster.client:
        lines.append(_line("route:vip", "ip", "-o", "route", "get", str(cluster.service.vip)))
    return lines


def before_script(
    cluster: Cluster,
    host: str,
    *,
    client: IPAddress | None,
    observe_on: str = "",
    marks: Sequence[MarkPlan] = (),
    pool: Sequence[IPNetwork] = (),
    life: int,
) -> str:
    """Phase 1 on one host. `client` is the client's address, `observe_on` the device by which
    this host observes ("": it does not), `pool` the addresses that the client takes to send from,
    `life` the seconds that background work may last.
    """
    lines = [TIMER, _SNAPSHOT, _DIRECTOR if host == cluster.director else ""]
    lines += _role_lines(cluster, host, client)
    if host == cluster.director:
        lines += ["rec stats lv_stats_before", _open_ports(cluster, client)]
    if host == cluster.director and marks:
        lines.append(marks_on(cluster, marks, client, life))
    if any(server.name == host for server in cluster.real_servers):
        lines.append(_forget_gateway(cluster, client))
    if observe_on:
        lines.append(capture_on(cluster, observe_on, life))
    if host == cluster.client and pool:
        lines.append(sources_on(pool, life))
    return "\n".join(lines)


def after_script(
    cluster: Cluster,
    host: str,
    *,
    client: IPAddress | None,
    observe_on: str = "",
    marks: bool = False,
    ports: Iterable[int] = (),
    logged: int = 0,
) -> str:
    """Phase 3 on one host. `ports`: the client's ports whose connections the director shows;
    `logged`: lines that a real server's log comes to at least.
    """
    lines = _role_lines(cluster, host, client, logged)
    if host in (cluster.client, cluster.director):
        lines.append(_neighbours(cluster.service.vip.version))
    if host == cluster.director:
        lines.append(_connections(cluster, ports))
        if cluster.method is ForwardingMethod.TUN:
            lines += [_ping(server) for server in cluster.real_servers]
        lines += ["rec stats lv_stats", 'rec late echo "$lv_late"']
        if marks:
            lines.append("rec marks_off lv_marks_done")
    if observe_on:
        lines.append(CAPTURE_OFF)
    if host == cluster.client:
        lines.append(SOURCES_OFF)
    return "\n".join(lines)


def _ping(server: RealServer) -> str:
    """A full-size packet that must not be cut: what the tunnel's outer packets need to pass."""
    headers = 28 if server.address.version == 4 else 48  # IP and ICMP
    size = f"$(( $(lv_mtu {server.address}) - {headers} ))"
    return (
        "lv_mtu() { ip -o route get \"$1\" | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | "
        'while read -r lv_d; do cat "/sys/class/net/$lv_d/mtu"; done; }\n'
        f'rec ping:{server.name} ping -{server.address.version} -c 1 -W 1 -M do -s "{size}" '
        f"{server.address}"
    )


def _forget_gateway(cluster: Cluster, client: IPAddress | None) -> str:
    """Make a real server ask for its next hop again: a missing arp_announce shows only then.
    A permanent entry stays (ip-neighbour(8): flush leaves permanent and noarp ones).
    """
    if client is None or cluster.method is ForwardingMethod.NAT or client.version == 6:
        return ""
    return (
        f"lv_via=$(ip -o route get {client} | sed -n 's/.* via \\([^ ]*\\) .*/\\1/p')\n"
        '[ -n "$lv_via" ] && ip -4 neigh flush to "$lv_via" >/dev/null 2>&1'
    )


def _open_ports(cluster: Cluster, client: IPAddress | None) -> str:
    """The client's ports that have an entry for the VIP already: a request from such a port may
    follow the old entry, to the old server, and is then no new connection.
    """
    vip = cluster.service.vip
    marks = [f"[{a}]:" if a.version == 6 else f"{a}:" for a in (client or vip, vip)]
    program = (
        'index($4,C)==1 && index($5,V)==1 {p=$4; sub(/.*:/,"",p); '
        f'if (n++<{MAX_PORTS}) print "port " p " " $3}}'
    )
    return (
        "lv_ports() { [ -e /proc/net/ip_vs ] && has ipvsadm && ipvsadm -Lnc | awk "
        f"-v C={shlex.quote(marks[0])} -v V={shlex.quote(marks[1])} {shlex.quote(program)}; }}\n"
        "rec connections lv_ports"
    )


def _connections(cluster: Cluster, ports: Iterable[int]) -> str:
    """The entries of these client ports and templates whole, all others of the service counted
    by server and state: there may be a hundred thousand.
    """
    wanted = " ".join(str(port) for port in ports)
    vip = cluster.service.vip
    virtual = f"[{vip}]:" if vip.version == 6 else f"{vip}:"
    program = (
        'BEGIN {n=split(P,p," "); for(i=1;i<=n;i++) w[p[i]]=1; w["0"]=1} '
        'NR>2 && index($5,V)==1 {s[$6 " " $3]++; q=$4; sub(/.*:/,"",q); '
        f'if (q in w && m++<{MAX_CONNECTIONS}) print "entry " $0}} '
        'END {for (k in s) if (j++<500) print "state " k " " s[k]}'
    )
    return (
        "lv_conns() { [ -e /proc/net/ip_vs ] && has ipvsadm && ipvsadm -Lnc | "
        f"awk -v P={shlex.quote(wanted)} -v V={shlex.quote(virtual)} {shlex.quote(program)}; }}\n"
        "rec connections lv_conns"
    )
