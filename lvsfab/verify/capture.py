"""An observer's captures: who answers for the VIP, who asks in its name, whence replies come."""

from __future__ import annotations

import shlex

from lvsfab.model import Cluster, Protocol
from lvsfab.verify.marks import test_port

CAPTURED_ARP = 200  # frames: enough to see every owner many times over
CAPTURED_REPLIES = 64


def capture_on(cluster: Cluster, device: str, life: int) -> str:
    """Forget who has the VIP, then watch who says so, and whence the VIP's replies come.

    `-i any -Q in` shows what arrived on any device with its sender's MAC: a reply of a real
    server in another network passes here by another device.
    """
    vip, port = cluster.service.vip, test_port(cluster)
    tcp = cluster.service.protocol is Protocol.TCP
    if vip.version == 4:
        who = f"arp and host {vip}"
        flags = "tcp[13] & 18 = 18"
        ask = f"arping -b -c 2 -w 2 -I {shlex.quote(device)} {vip}"
    else:
        who = "icmp6 and ip6[40] = 136"
        flags = "ip6[53] & 18 = 18"
        ask = f"ping -6 -n -c 1 -W 2 -I {shlex.quote(device)} {vip}"
    replies = f"src host {vip} and {cluster.service.protocol} src port {port}"
    replies += f" and {flags}" if tcp else ""
    return f"""
lv_dir=$(mktemp -d /run/lvsfab-verify.XXXXXXXX 2>/dev/null) || lv_dir=$(mktemp -d)
lv_after {life} rm -rf "$lv_dir"; lv_capture_timer=$lv_timer
lv_dump() {{ # $1: file, $2: packets, then the filter
  lv_out=$lv_dir/$1; lv_n=$2; shift 2
  timeout {life} tcpdump -i any -Q in -e -n -l -p -c "$lv_n" "$@" </dev/null >"$lv_out" \\
    2>"$lv_out.err" &
  lv_pids="$lv_pids $!"
}}
lv_pids=
lv_watch() {{
  has tcpdump || {{ echo "tcpdump is not installed"; return 4; }}
  lv_dump arp {CAPTURED_ARP} '{who}'
  lv_dump replies {CAPTURED_REPLIES} '{replies}'
  for lv_i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    grep -q 'listening on' "$lv_dir/arp.err" && grep -q 'listening on' "$lv_dir/replies.err" &&
      return 0
    sleep 0.1
  done
  cat "$lv_dir/arp.err" "$lv_dir/replies.err"; return 5
}}
rec watch lv_watch
ip -{vip.version} neigh flush to {vip} >/dev/null 2>&1
( {ask} </dev/null >"$lv_dir/ask" 2>&1 ) >/dev/null 2>&1 & lv_ask=$!
"""


CAPTURE_OFF = """
wait "$lv_ask"
lv_capture() { head -c 200000 "$lv_dir/$1"; }
sleep 0.1
[ -n "$lv_pids" ] && kill $lv_pids 2>/dev/null; wait $lv_pids 2>/dev/null
rec ask lv_capture ask
rec arp lv_capture arp
rec replies lv_capture replies
kill "$lv_capture_timer" 2>/dev/null; wait "$lv_capture_timer" 2>/dev/null
rm -rf "$lv_dir"
"""
