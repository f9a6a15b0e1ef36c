from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_interface
from pathlib import Path

import pytest

from lvsfab import inventory
from lvsfab.errors import LabError
from lvsfab.labs import boot
from lvsfab.labs import docker_plan as plan
from lvsfab.model import Inventory, Network

ROOT = Path(__file__).parent.parent.parent.parent
DEFAULT = inventory.load(ROOT / "inventory/lab.yml")


def by_network(found: Inventory = DEFAULT) -> dict[str, plan.Segment]:
    return {segment.network: segment for segment in plan.segments(found)}


def test_the_engines_networks_are_the_inventorys() -> None:
    found = by_network()
    assert list(found) == ["", "outside", "front", "inner", "far"]
    assert found[""].subnet == IPv4Network("100.64.10.0/24")
    assert found["inner"].subnet == IPv4Network("192.168.10.0/24")
    assert found["inner"].addresses == {
        "router": IPv4Address("192.168.10.254"),
        "director": IPv4Address("192.168.10.250"),
        "rs1": IPv4Address("192.168.10.1"),
        "rs2": IPv4Address("192.168.10.2"),
    }


def test_only_the_management_bridge_is_a_neighbour() -> None:
    for network, segment in by_network().items():
        options = segment.create({"a": "b"}, (1, 41))["options"]
        assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"
        inhibited = options.get("com.docker.network.bridge.inhibit_ipv4")
        assert inhibited == (None if network == "" else "true")
        assert "com.docker.network.bridge.gateway_mode_ipv4" not in options


def test_docker_28_lets_the_labs_packets_pass_from_bridge_to_bridge() -> None:
    for segment in by_network().values():
        options = segment.create({}, (1, 48))["options"]
        assert options["com.docker.network.bridge.gateway_mode_ipv4"] == "nat-unprotected"


def test_a_gateway_is_no_hosts_address_and_no_vip() -> None:
    taken = {a.ip for h in DEFAULT.hosts.values() for i in h.interfaces for a in i.addresses}
    vips = {IPv4Address(str(p["vip"])) for p in DEFAULT.parameters.values()}
    for segment in plan.segments(DEFAULT):
        assert segment.gateway not in taken | vips
        assert segment.subnet is not None
        assert segment.gateway in segment.subnet
    assert by_network()["inner"].gateway == IPv4Address("192.168.10.253")


def test_a_vip_at_the_end_of_the_subnet_is_left_alone() -> None:
    changed = replace(DEFAULT, parameters={"dr": {"vip": "192.168.10.253"}})
    assert by_network(changed)["inner"].gateway == IPv4Address("192.168.10.252")


def tiny(subnet: str, *addresses: str) -> Inventory:
    """The default with network far as small as can be."""
    host = DEFAULT.hosts["rs3"]
    face = replace(host.interfaces[0], addresses=tuple(map(ip_interface, addresses)))
    hosts = {
        "rs3": replace(host, interfaces=(face,), gateways=()),
        "client": DEFAULT.hosts["client"],
    }
    networks = dict(DEFAULT.networks)
    networks["far"] = Network("far", (IPv4Network(subnet),) if subnet else ())
    return replace(DEFAULT, hosts=hosts, networks=networks)


def test_a_subnet_without_room_for_the_engine_is_said() -> None:
    with pytest.raises(LabError, match=r"network far: 198.51.100.0/32 has no address") as raised:
        plan.segments(tiny("198.51.100.0/32"))
    assert "rootless" in raised.value.tip


def test_a_network_without_ipv4_is_the_engines_choice() -> None:
    found = by_network(tiny("", "fd00:51::22/64"))["far"]
    assert (found.subnet, found.gateway, dict(found.addresses)) == (None, None, {})


def test_a_network_without_subnets_has_its_hosts() -> None:
    assert by_network(tiny("", "198.51.100.22/24"))["far"].subnet == IPv4Network("198.51.100.0/24")


def test_two_interfaces_in_one_network_are_refused() -> None:
    host = DEFAULT.hosts["client"]
    twice = replace(
        host,
        interfaces=(*host.interfaces, replace(host.interfaces[0], name="eth1", addresses=())),
    )
    with pytest.raises(LabError, match="client has two interfaces in network outside"):
        plan.segments(replace(DEFAULT, hosts={"client": twice}))


def network(name: str, subnet: str | None, **labels: str) -> dict[str, object]:
    config = [{"Subnet": subnet}] if subnet else None
    return {"Name": name, "Labels": labels or None, "IPAM": {"Config": config}}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([network("bridge", "172.17.0.0/16")], []),
        ([network("host", None), network("six", "fd00:10::/64")], []),
        (
            [network("t", "192.168.10.128/25")],
            ["network inner: 192.168.10.0/24 overlaps 192.168.10.128/25 of the engine's network t"],
        ),
        (
            [network("b", "100.64.0.0/10")],
            ["management network: 100.64.10.0/24 overlaps 100.64.0.0/10 of the engine's network b"],
        ),
        ([network("ours", "192.168.10.0/24", **{plan.LAB: "lab"})], []),
    ],
)
def test_clashes(there: list[dict[str, object]], said: list[str]) -> None:
    assert plan.clashes(plan.segments(DEFAULT), there, "lab") == said


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102000C\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000002C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
vpn0\t00004064\t00000000\t0001\t0\t0\t0\t0000C0FF\t0\t0\t0
"""


def test_this_machines_routes_clash_with_what_gets_an_address_here() -> None:
    segments = plan.segments(DEFAULT)
    assert plan.route_clashes(segments[:1], ROUTES) == [
        "management network: 100.64.10.0/24 overlaps this machine's route to 100.64.0.0/10 (vpn0)"
    ]
    assert plan.route_clashes(segments[1:], ROUTES) == []


def test_plugs_name_interfaces_by_the_engines_addresses() -> None:
    addresses = [IPv4Address("100.64.10.11"), IPv4Address("172.25.254.67")]
    wires = boot.wires(DEFAULT)["client"]
    assert plan.plugs(DEFAULT, "client", addresses, own=False) == (
        f"100.64.10.11 h0v0 {wires[0].mac} 1500\n172.25.254.67 h0v1 {wires[1].mac} 1500\n"
    )
    assert plan.plugs(DEFAULT, "client", addresses, own=True).split()[1::4] == ["vec0", "vec1"]


def test_large_pieces_are_for_the_management_interface_alone() -> None:
    words = boot.kernel_arguments(128, boot.wires(DEFAULT)["client"], seccomp=True)
    lines = plan.kernel_arguments(words).splitlines()
    assert [line[:4] for line in lines if line.endswith(",gro=1")] == ["vec0"]
    assert len(lines) == len(words)


def test_a_kernel_of_its_own_needs_two_capabilities() -> None:
    config = plan.host_config(128, own=False)
    assert config["CapDrop"] == ["ALL"]
    assert config["CapAdd"] == ["NET_ADMIN", "NET_RAW"]
    assert "Privileged" not in config
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert "exec" in config["Tmpfs"]["/lvsfab/memory"]


def test_on_the_engines_kernel_only_the_hosts_own_network_can_be_set() -> None:
    config = plan.host_config(128, own=True)
    assert "Privileged" not in config
    assert "SYS_ADMIN" not in config["CapAdd"]
    for path in ("/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sysrq-trigger"):
        assert path in config["ReadonlyPaths"]
    assert not any("/proc/sys/net".startswith(path) for path in config["ReadonlyPaths"])
    assert config["RestartPolicy"] == {"Name": "on-failure"}  # no limit: each reboot is one


def test_tracing_needs_more() -> None:
    config = plan.host_config(128, own=False, ptrace=True)
    assert "SYS_PTRACE" in config["CapAdd"]
    assert config["SecurityOpt"] == ["no-new-privileges", "seccomp=unconfined"]


def test_archive_is_roots_and_keeps_secrets() -> None:
    files = {
        "init": (0o755, "#!/bin/sh\n"),
        "files/upper/root/.ssh/authorized_keys": (0o600, "key\n"),
    }
    with tarfile.open(fileobj=io.BytesIO(plan.archive(files))) as tar:
        found = {entry.name: entry for entry in tar}
        read = tar.extractfile("init")
        assert read is not None
        assert read.read() == b"#!/bin/sh\n"
    assert found["files/upper/root"].mode == 0o700
    assert found["files/upper/root/.ssh"].mode == 0o700
    assert found["files/work"].isdir()
    assert found["files/upper/root/.ssh/authorized_keys"].mode == 0o600
    assert {(entry.uid, entry.gid) for entry in found.values()} == {(0, 0)}
