"""`ipvsadm -Ln` listings, as ipvsadm 1.31 prints them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.model import ForwardingMethod
from lvsfab.verify.ipvsadm import Counters, parse_connections, parse_table

HEAD = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
"""


def test_services_servers_and_flags() -> None:
    table = parse_table(
        HEAD
        + """TCP  10.0.0.1:80 rr persistent 300 mask 255.255.255.0
  -> 192.168.10.1:80              Masq    1      2          3
  -> 192.168.10.2:8080            Masq    0      0          0
TCP  110.0.0.1:80 sh (sh-fallback,sh-port)
  -> 192.168.10.1:80              Route   10     0          0
UDP  [fd00::1]:53 wlc ops
  -> [fd00::2]:53                 Tunnel  1      0          0
FWM  5 IPv6 rr
  -> [fd00::2]:0                  Local   1      0          0
"""
    )
    assert [service.key for service in table.services] == [
        "tcp:10.0.0.1:80",
        "tcp:110.0.0.1:80",
        "udp:[fd00::1]:53",
        "fwm:5",
    ]
    web = table.service("tcp", ip_address("10.0.0.1"), 80)
    assert web is not None
    assert (web.scheduler, web.persistence, web.netmask) == ("rr", 300, "255.255.255.0")
    drained = web.server(ip_address("192.168.10.2"), 8080)
    assert drained is not None
    assert (drained.weight, drained.method) == (0, ForwardingMethod.NAT)
    other = table.service("tcp", ip_address("110.0.0.1"), 80)
    assert other is not None
    assert other.flags == ("sh-fallback", "sh-port")
    assert other.servers[0].weight == 10
    mark = table.mark(5)
    assert mark is not None
    assert mark.scheduler == "rr"


def test_counters_exact_and_short() -> None:
    table = parse_table(
        """IP Virtual Server version 1.2.1 (size=2048)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.168.10.100:80                  62     870K        0    51941        0
  -> 192.168.10.1:80                    31      466        0    27577        0
"""
    )
    service = table.services[0]
    assert service.scheduler is None
    assert service.counters == Counters(62, 870_000, 0, 51941, 0)
    counters = service.servers[0].counters
    assert counters is not None
    assert counters - Counters(1, 6) == Counters(30, 460, 0, 27577, 0)


def test_connections_and_templates() -> None:
    found = parse_connections(
        """IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:59  FIN_WAIT    172.25.254.67:53938 192.168.10.100:80  192.168.10.1:80
TCP 04:59  NONE        172.25.254.67:0     192.168.10.100:80  192.168.10.1:80
UDP 05:00  UDP         [fd00::1]:5 [fd00::2]:53  [fd00::3]:53
"""
    )
    assert [entry.state for entry in found] == ["FIN_WAIT", "NONE", "UDP"]
    assert found[0].expires == 119
    assert found[1].client[1] == 0
    assert found[2].server == (ip_address("fd00::3"), 53)


@pytest.mark.parametrize(
    "line",
    ["TCP 10.0.0.1 rr", "XYZ  10.0.0.1:80 rr", "TCP  10.0.0.1:99999 rr", "TCP  10.0.0.1:80"],
)
def test_what_fits_nothing_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="cannot read ipvsadm's line"):
        parse_table(HEAD + line)


@given(st.text(max_size=200))
def test_garbage_is_refused_or_empty_never_a_crash(text: str) -> None:
    for parse in (parse_table, parse_connections):
        try:
            parse(text)
        except ValueError as error:
            assert "cannot read" in str(error)
