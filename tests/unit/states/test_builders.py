from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from lvsfab.errors import InputError
from lvsfab.model import Cluster, ForwardingMethod, Host, Inventory, RealServer, VirtualService
from lvsfab.states import BUILDERS
from lvsfab.states.address import Address
from lvsfab.states.base import Context
from lvsfab.states.ipvs_server import RealServerState


def context(method: ForwardingMethod, vip: str = "10.1.1.100", tunnel: str = "ipip") -> Context:
    rip = "fd00::2" if ":" in vip else "192.168.10.2"
    cluster = Cluster(
        recipe="x",
        method=method,
        service=VirtualService(ip_address(vip), 80, persistence=None),
        real_servers=(RealServer("rs1", ip_address(rip), 80, 3),),
        director="director",
        tunnel=tunnel,
    )
    return Context(Inventory("lab", {}), Host("rs1"), {}, cluster)


def ids(kind: str, args: dict[str, Any], where: Context) -> list[str]:
    return [resource.id for resource in BUILDERS[kind].build(args, where)]


def test_arp_each_way() -> None:
    where = context(ForwardingMethod.DR)
    args = {"vip": "10.1.1.100", "address": "192.168.10.2", "dev": "eth0"}
    assert ids("arp", args, where) == [
        "sysctl:net.ipv4.conf.all.arp_ignore",
        "sysctl:net.ipv4.conf.all.arp_announce",
    ]
    assert ids("arp", args | {"by": "arptables"}, where) == [
        "package:arptables",
        "module:arptable_filter",
        "module:arpt_mangle",
        "arptables:INPUT,-d,10.1.1.100,-i,eth0,-j,DROP",
        "arptables:OUTPUT,-s,10.1.1.100,-o,eth0,-j,mangle,--mangle-ip-s,192.168.10.2",
    ]
    assert ids("arp", args | {"by": "nft"}, where) == [
        "package:nftables",
        "module:nf_tables",
        "nft:arp/lvsfab_10_1_1_100",
    ]
    assert ids("arp", {"vip": "fd00::100", "by": "nft"}, where) == []


def test_arp_input() -> None:
    where = context(ForwardingMethod.DR)
    for args in ({"vip": "x"}, {"vip": "10.1.1.1", "by": "nft"}, {"vip": "10.1.1.1", "by": "luck"},
                 {"vip": "10.1.1.1", "dev": 'e" drop'}, {}):  # fmt: skip
        with pytest.raises(InputError):
            BUILDERS["arp"].build(args, where)


def test_ipvs_is_the_clusters_table() -> None:
    assert ids("ipvs", {}, context(ForwardingMethod.NAT)) == [
        "module:ip_vs",
        "module:ip_vs_rr",
        "virtual_service:tcp:10.1.1.100:80",
        "real_server:tcp:10.1.1.100:80->192.168.10.2:80",
    ]
    *_, last = BUILDERS["ipvs"].build({}, context(ForwardingMethod.TUN, "fd00::100", "gue"))
    server = last.state
    assert isinstance(server, RealServerState)
    assert last.key == "tcp:[fd00::100]:80->[fd00::2]:80"
    assert (server.weight, server.tun_type, server.tun_port) == (3, "gue", 6080)
    with pytest.raises(InputError):
        BUILDERS["ipvs"].build({}, Context(Inventory("lab", {}), Host("d"), {}))


def test_vip_of_ipv6_is_never_a_source_address() -> None:
    for vip, deprecated in (("10.1.1.100", None), ("fd00::100", True)):
        (resource,) = BUILDERS["vip"].build({"dev": "eth0"}, context(ForwardingMethod.TUN, vip))
        assert isinstance(resource.state, Address)
        assert resource.state.deprecated is deprecated


def test_tunnel_by_version() -> None:
    where = context(ForwardingMethod.TUN)
    assert ids("tunnel", {"dev": "tunl0"}, where) == ["module:ipip", "link:tunl0"]
    assert ids("tunnel", {"dev": "ip6tnl0", "type": "gue"}, where) == [
        "module:ip6_tunnel",
        "module:fou",
        "fou:6080,6",
        "link:ip6tnl0",
    ]
