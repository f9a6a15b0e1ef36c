from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import boot
from lvsfab.labs.keys import HostKey
from lvsfab.model import Host, Interface, Inventory, LabSpec, Network, Route, mac_address

HOSTS = (
    Host(
        "client",
        interfaces=(
            Interface("eth0", "a", (ip_interface("10.0.0.2/24"), ip_interface("fd00::2/64"))),
        ),
        gateways=(ip_address("10.0.0.1"), ip_address("fd00::1")),
        routes=(Route(ip_network("10.9.0.0/16"), ip_address("10.0.0.9")),),
    ),
    Host(
        "router",
        forward=True,
        memory=64,
        interfaces=(
            Interface("eth0", "a", (ip_interface("10.0.0.1/24"),)),
            Interface("wan", "b", (ip_interface("10.1.0.1/24"), ip_interface("10.1.0.2/24"))),
        ),
    ),
    Host("bare"),
)
INVENTORY = Inventory(
    "demo",
    {host.name: host for host in HOSTS},
    {"a": Network("a"), "b": Network("b", mtu=9000)},
    lab=LabSpec(IPv4Network("100.64.0.0/24")),
)
KEY = HostKey("PRIVATE\n", "ssh-ed25519 AAAA")


def batch(name: str) -> list[str]:
    files = boot.host_files(INVENTORY, name, KEY, "ssh-ed25519 CLIENT", "#!/bin/sh\n")
    return files["net"][1].splitlines()


def test_management_addresses_follow_the_order_of_hosts() -> None:
    assert list(map(str, boot.management_addresses(INVENTORY).values())) == [
        "100.64.0.11",
        "100.64.0.12",
        "100.64.0.13",
    ]


def test_a_management_network_too_small_is_refused() -> None:
    tight = replace(INVENTORY, lab=LabSpec(IPv4Network("100.64.0.0/29")))
    with pytest.raises(LabError, match="too small"):
        boot.management_addresses(tight)


def test_an_inventory_without_a_lab_is_refused() -> None:
    with pytest.raises(LabError, match="no `lab:` section"):
        boot.digest(replace(INVENTORY, lab=None))


def test_wires_are_numbered_by_host_and_interface() -> None:
    plugged = boot.wires(INVENTORY)
    assert [(w.name, w.inside, w.outside, w.bridge, w.mtu) for w in plugged["router"]] == [
        ("mgmt", "h1v0", "p1v0", "mgmt", 1500),
        ("eth0", "h1v1", "p1v1", "br0", 1500),
        ("wan", "h1v2", "p1v2", "br1", 9000),
    ]
    assert plugged["router"][2].mac == mac_address("demo", "router", "wan")
    names = [name for legs in plugged.values() for w in legs for name in (w.inside, w.outside)]
    assert len(set(names)) == len(names)


def test_interface_names_fit_the_kernel_however_many_hosts() -> None:
    many = replace(INVENTORY, hosts={f"h{i}": Host(f"h{i}") for i in range(200)})
    assert max(len(w.outside) for legs in boot.wires(many).values() for w in legs) <= 15


def test_kernel_arguments() -> None:
    arguments = boot.kernel_arguments(96, boot.wires(INVENTORY)["router"], seccomp=True)
    assert "mem=96M" in arguments
    assert "seccomp=on" in arguments
    mac = mac_address("demo", "router", "wan")
    device = f"vec2:transport=raw,ifname=h1v2,depth=64,mac={mac},mtu=9000"
    assert arguments[-1] == f"{device},bpffile=/lvsfab/vec2.bpf"
    assert "seccomp=off" in boot.kernel_arguments(96, (), seccomp=False)


def test_a_host_numbers_its_interfaces_before_it_routes() -> None:
    assert batch("client") == [
        "link set lo up",
        "link set vec0 name mgmt mtu 1500 gso_max_segs 1",
        "link set vec1 name eth0 mtu 1500 gso_max_segs 1",
        "link set mgmt addrgenmode none",
        "address add 100.64.0.11/24 broadcast + dev mgmt",
        "address add 10.0.0.2/24 broadcast + dev eth0",
        "address add fd00::2/64 nodad dev eth0",
        "link set mgmt up",
        "link set eth0 up",
        "route add default via 10.0.0.1",
        "route add default via fd00::1",
        "route add 10.9.0.0/16 via 10.0.0.9",
    ]
    assert "address add 10.1.0.2/24 broadcast + dev wan" in batch("router")
    assert batch("bare")[-1] == "link set mgmt up"


def test_the_lab_plugs_every_host_into_its_networks() -> None:
    lines = boot.network_batch(INVENTORY).splitlines()
    assert "link set p1v2 master br1 addrgenmode none up" in lines
    assert "link add h1v2 mtu 9000 type veth peer name p1v2" in lines
    assert "address add 100.64.0.1/24 dev mgmt" in lines
    mac = mac_address("demo", "bare", "mgmt")
    assert f"neighbour add 100.64.0.13 lladdr {mac} dev mgmt nud permanent" in lines


def test_files_of_a_host() -> None:
    files = boot.host_files(INVENTORY, "router", KEY, "ssh-ed25519 CLIENT", "#!/bin/sh\n")
    assert files["init"] == (0o755, "#!/bin/sh\n")
    assert files["files/upper/etc/ssh/ssh_host_ed25519_key"] == (0o600, "PRIVATE\n")
    assert files["files/upper/root/.ssh/authorized_keys"] == (0o600, "ssh-ed25519 CLIENT lvsfab\n")
    assert "forward" in files
    assert "forward" not in boot.host_files(INVENTORY, "client", KEY, "", "")
    assert "ListenAddress 100.64.0.12:22\n" in files["files/upper/etc/ssh/sshd_config"][1]
    assert all(not Path(path).is_absolute() and ".." not in path for path in files)


def test_a_host_with_an_init_of_its_own_is_stopped_by_it() -> None:
    assert INVENTORY.lab is not None
    own = replace(INVENTORY, lab=replace(INVENTORY.lab, packages=("nginx", "systemd-sysv")))
    files = boot.host_files(own, "bare", KEY, "ssh-ed25519 CLIENT", "#!/bin/sh\n")
    assert "files/upper/usr/sbin/reboot" not in files
    assert "poweroff" in files["files/upper/etc/systemd/system/ctrl-alt-del.target"][1]


def test_every_host_knows_every_other() -> None:
    text = boot.hosts_file(INVENTORY, "bare")
    for line in ("10.0.0.2 client", "fd00::2 client", "10.0.0.1 router", "127.0.1.1 bare"):
        assert line in text.splitlines()
    assert "127.0.1.1" not in boot.hosts_file(INVENTORY, "client")


@pytest.mark.parametrize(
    "changed",
    [
        replace(INVENTORY, name="other"),
        replace(INVENTORY, networks={**INVENTORY.networks, "c": Network("c")}),
        replace(INVENTORY, hosts={host.name: host for host in HOSTS[:2]}),
        replace(INVENTORY, lab=LabSpec(IPv4Network("100.64.0.0/24"), memory=256)),
        replace(INVENTORY, hosts={**INVENTORY.hosts, "bare": Host("bare", forward=True)}),
        replace(INVENTORY, hosts={**INVENTORY.hosts, "bare": Host("bare", memory=99)}),
    ],
)
def test_the_digest_tells_labs_apart(changed: Inventory) -> None:
    assert boot.digest(changed) != boot.digest(INVENTORY)


@pytest.mark.parametrize(
    "changed",
    [
        replace(INVENTORY, parameters={"nat": {"vip": "10.0.0.5"}}),
        replace(INVENTORY, path=Path("/elsewhere.yml")),
        replace(INVENTORY, hosts={**INVENTORY.hosts, "bare": Host("bare", weight=7)}),
    ],
)
def test_the_digest_leaves_out_what_may_change_while_it_runs(changed: Inventory) -> None:
    assert boot.digest(changed) == boot.digest(INVENTORY)


def test_spec_holds_every_host() -> None:
    keys = dict.fromkeys(INVENTORY.hosts, KEY)
    spec = boot.spec(
        INVENTORY,
        tree="/t",
        linux="/l",
        modules="/m",
        version="7.2",
        keys=keys,
        client_key="ssh-ed25519 CLIENT",
        init="",
    )
    hosts = spec["hosts"]
    assert isinstance(hosts, dict)
    assert [hosts[name]["memory"] for name in ("client", "router", "bare")] == [128, 64, 128]


def test_no_kernel_hears_what_it_says_itself() -> None:
    """The filter is text (it travels as text), and a whole number of instructions."""
    found = boot.echo_filter("02:7f:01:02:03:04")
    assert found.isascii()
    assert len(found) == 6 * 8
    assert b"\x04\x03\x02\x01" in found.encode() or b"\x01\x02\x03\x04" in found.encode()
