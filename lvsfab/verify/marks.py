"""Single out one real server: a firewall-mark service with that server alone (seesaw's probe).

The client's source port chooses the mark, so the probe takes the real path: the same VIP and port,
the same router, the same tunnel. IPVS looks for a mark's service before it looks for an address's
(ip_vs_service_find, net/netfilter/ipvs/ip_vs_ctl.c). Needs nft or iptables on the director.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lvsfab.model import Cluster, ForwardingMethod, IPAddress, RealServer

MARK_BASE = 0x4C5600  # "LV": unlike the small marks that people and routing daemons use
PORT_BASE = 61000  # above the kernel's default range for outgoing connections (32768-60999)
PORTS_EACH = 8


def test_port(cluster: Cluster) -> int:
    """The port that requests go to: of a service of all ports, the page's own."""
    return cluster.service.port or cluster.real_servers[0].port or 80


@dataclass(frozen=True, slots=True)
class MarkPlan:
    """How one server is singled out: packets of the client from these source ports get `mark`."""

    server: RealServer
    mark: int
    first_port: int

    @property
    def last_port(self) -> int:
        return self.first_port + PORTS_EACH - 1


def mark_plans(servers: Iterable[RealServer]) -> tuple[MarkPlan, ...]:
    """One plan each, for at most as many servers as there are ports above PORT_BASE."""
    most = (65536 - PORT_BASE) // PORTS_EACH
    return tuple(
        MarkPlan(server, MARK_BASE + index, PORT_BASE + index * PORTS_EACH)
        for index, server in enumerate(tuple(servers)[:most])
    )


def marks_on(
    cluster: Cluster, marks: Sequence[MarkPlan], client: IPAddress | None, life: int
) -> str:
    """A firewall-mark service per server, with that server alone; its packets are marked by the
    client's source port. Gone after the test, or after `life` seconds by itself.
    """
    vip, port = cluster.service.vip, test_port(cluster)
    six = vip.version == 6
    family, tool, flag = ("ip6", "ip6tables", " -6") if six else ("ip", "iptables", "")
    proto = cluster.service.protocol
    source = f"{family} saddr {client} " if client else ""
    rules = "\n".join(
        f"    {source}{family} daddr {vip} {proto} dport {port} "
        f"{proto} sport {m.first_port}-{m.last_port} meta mark set {m.mark}"
        for m in marks
    )
    only = f"-s {client} " if client else ""
    legacy = [
        f"PREROUTING {only}-d {vip} -p {proto} --dport {port} "
        f"--sport {m.first_port}:{m.last_port} -j MARK --set-mark {m.mark}"
        for m in marks
    ]
    add = " && ".join(f"{tool} -w 5 -t mangle -A {rule}" for rule in legacy)
    remove = "\n    ".join(f"{tool} -w 5 -t mangle -D {rule} >/dev/null 2>&1" for rule in legacy)
    services = "\n  ".join(
        f"ipvsadm -A -f {m.mark}{flag} -s rr && "
        f"lv_mark_server {m.mark} '{_endpoint(m.server)}' '{_mark_endpoint(cluster, m.server)}' "
        "|| return 6"
        for m in marks
    )
    gone = "\n  ".join(f"ipvsadm -D -f {m.mark}{flag} >/dev/null 2>&1" for m in marks)
    method = {"nat": "-m", "dr": "-g", "tun": "-i"}[cluster.method]
    return f"""
lv_how=
lv_mark_server() {{ # a tunnel's type and port as the service itself has them
  lv_tun=$(ipvsadm -Sn | awk -v R="$2" '$1=="-a" {{for(i=2;i<NF;i++) if($i=="-r" && $(i+1)==R) hit=1
    if(hit) {{if(sub(/^.*--tun-type/,"--tun-type")) print; exit}}}}')
  case $lv_tun in *[!a-z0-9\\ -]*) lv_tun=;; esac
  ipvsadm -a -f "$1"{flag} -r "$3" {method} -w 1 $lv_tun
}}
lv_modules() {{ cut -d' ' -f1 /proc/modules | grep -E '^(nf|xt?_|ip6?_?table|ip_vs_)'; }}
lv_unload() {{ # what the marks made the kernel load goes with them, the last loaded first
  for lv_try in 1 2 3 4 5; do
    lv_left=
    for lv_module in $(lv_modules); do
      case " $lv_before " in *" $lv_module "*) continue ;; esac
      rmmod "$lv_module" 2>/dev/null || lv_left=$lv_module
    done
    [ -z "$lv_left" ] && return
    sleep 0.2
  done
}}
lv_marks_off() {{
  {gone}
  case $lv_how in
  nft) nft delete table {family} lvsfab_verify ;;
  iptables)
    {remove} ;;
  esac >/dev/null 2>&1
  lv_unload
  return 0
}}
lv_before=$(lv_modules | tr '\\n' ' ')
lv_marks_on() {{
  [ -e /proc/net/ip_vs ] && has ipvsadm || {{ echo "no IPVS table"; return 3; }}
  nft delete table {family} lvsfab_verify >/dev/null 2>&1
  if has nft && nft -f - <<'EOF'
table {family} lvsfab_verify {{
  chain marks {{
    type filter hook prerouting priority -150;
{rules}
  }}
}}
EOF
  then lv_how=nft
  elif has {tool} && {{ lv_how=iptables; {add}; }}; then :
  else
    lv_marks_off; lv_how=
    echo "this kernel marks packets neither by nft nor by {tool}"; return 5
  fi
  {services}
  echo "how $lv_how"
}}
lv_marks_done() {{ lv_marks_off; kill "$lv_marks_timer" 2>/dev/null; return 0; }}
rec marks lv_marks_on || lv_marks_off
lv_after {life} lv_marks_off; lv_marks_timer=$lv_timer
"""


def _endpoint(server: RealServer) -> str:
    host = f"[{server.address}]" if server.address.version == 6 else str(server.address)
    return f"{host}:{server.port}"


def _mark_endpoint(cluster: Cluster, server: RealServer) -> str:
    """A mark service has no port of its own: 0 keeps the packet's, NAT names the real one."""
    if cluster.method is ForwardingMethod.NAT:
        return _endpoint(server)
    return f"[{server.address}]:0" if server.address.version == 6 else f"{server.address}:0"
