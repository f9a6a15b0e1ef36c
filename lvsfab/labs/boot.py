"""What each lab host is started with: its kernel's arguments and the files it finds. Pure.

The guest's first program is docker/init; it finds in /lvsfab what `host_files` puts there: `net`
(ip -batch), `hostname`, `forward`, and `files/`, which becomes the first content of its own disk.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from lvsfab.errors import LabError
from lvsfab.labs.keys import HostKey
from lvsfab.model import Host, Inventory, LabSpec, mac_address

MANAGEMENT = "mgmt"  # the interface, in every host and in the lab's own network namespace
MANAGEMENT_MTU = 1500
FIRST_HOST = 11  # offset in the management network; the lab itself is 1
DISK = 1024  # MiB, sparse: what one host may write
# What leaves a kernel is frames of the wire's size: the vector device at the other end has room for
# no more, so segmentation left to the "hardware" would lose every long transfer.
ONE_FRAME = "gso_max_segs 1"
VECTOR_MTU = 1500  # a vector device takes no more, but for what its `mtu=` says at its making
QUEUE_DEPTH = 64  # frames a vector device takes at once: its NAPI weight allows no more

# mount(8) does all of it at once, after proc and dev
FSTAB = """\
sys /sys sysfs nosuid,nodev,noexec 0 0
devpts /dev/pts devpts gid=5,mode=620,ptmxmode=666 0 0
shm /dev/shm tmpfs nosuid,nodev 0 0
run /run tmpfs nosuid,nodev,mode=755 0 0
tmp /tmp tmpfs nosuid,nodev,mode=1777 0 0
cgroup2 /sys/fs/cgroup cgroup2 nosuid,nodev,noexec 0 0
"""

# Packages with an /sbin/init: docker/init hands a host over to it. Only the lab can press
# ctrl-alt-del, and means that the host shall power off.
OWN_INIT = frozenset({"init", "systemd-sysv", "sysvinit-core"})
CTRL_ALT_DEL = """\
[Unit]
Description=Power off, as the lab asks
DefaultDependencies=no
Requires=systemd-poweroff.service
After=systemd-poweroff.service
AllowIsolate=yes
"""


@dataclass(frozen=True, slots=True)
class Wire:
    """One interface of one host as the lab makes it: a veth pair, whose `inside` end the host's
    kernel takes over and whose `outside` end is a port of the bridge `bridge`.
    """

    name: str
    inside: str
    outside: str
    bridge: str
    mac: str
    mtu: int


def lab_spec(inventory: Inventory) -> LabSpec:
    if inventory.lab is None:
        raise LabError(
            f"the inventory {inventory.path or inventory.name} has no `lab:` section",
            tip="without one its hosts are machines of your own, reached by SSH",
        )
    return inventory.lab


def management_addresses(inventory: Inventory) -> dict[str, IPv4Address]:
    """Host name -> its address on the management network, in the inventory's order."""
    network = lab_spec(inventory).management
    if network.num_addresses < FIRST_HOST + len(inventory.hosts) + 1:
        raise LabError(f"the management network {network} is too small for the hosts")
    first = network.network_address + FIRST_HOST
    return {name: first + index for index, name in enumerate(inventory.hosts)}


def wires(inventory: Inventory) -> dict[str, tuple[Wire, ...]]:
    """Every host's interfaces, the management interface first (vec0), as the lab wires them."""
    bridges = {name: f"br{index}" for index, name in enumerate(inventory.networks)}
    found = {}
    for number, (name, host) in enumerate(inventory.hosts.items()):
        legs = [(MANAGEMENT, MANAGEMENT, MANAGEMENT_MTU)]
        legs += [
            (face.name, bridges[face.network], inventory.networks[face.network].mtu)
            for face in host.interfaces
        ]
        found[name] = tuple(
            Wire(
                name=leg,
                inside=f"h{number}v{index}",
                outside=f"p{number}v{index}",
                bridge=bridge,
                mac=mac_address(inventory.name, name, leg),
                mtu=mtu,
            )
            for index, (leg, bridge, mtu) in enumerate(legs)
        )
    return found


def network_batch(inventory: Inventory) -> str:
    """`ip -batch` text that makes the lab's networks: a bridge for each, a cable to each host.

    A host's neighbour entry is fixed: a connection tried before the host is up must not put the
    next try off by the resolution's one-second timer.
    """
    management = lab_spec(inventory).management
    address = IPv4Interface((management.network_address + 1, management.prefixlen))
    mtus = {f"br{i}": net.mtu for i, net in enumerate(inventory.networks.values())}
    lines = ["link set lo up"]
    for bridge, mtu in {MANAGEMENT: MANAGEMENT_MTU, **mtus}.items():
        lines += [
            f"link add {bridge} mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {bridge} addrgenmode none up",
        ]
    for plugged in wires(inventory).values():
        for wire in plugged:
            lines += [
                f"link add {wire.inside} mtu {wire.mtu} type veth peer name {wire.outside}",
                f"link set {wire.outside} mtu {wire.mtu}",
                f"link set {wire.inside} addrgenmode none promisc on up",
                f"link set {wire.outside} master {wire.bridge} addrgenmode none up",
            ]
    lines.append(f"link set {MANAGEMENT} {ONE_FRAME}")
    lines.append(f"address add {address} dev {MANAGEMENT}")
    for name, own in management_addresses(inventory).items():
        mac = wires(inventory)[name][0].mac
        lines.append(f"neighbour add {own} lladdr {mac} dev {MANAGEMENT} nud permanent")
    return "\n".join(lines) + "\n"


def kernel_arguments(memory: int, plugged: tuple[Wire, ...], seccomp: bool) -> list[str]:
    """User-mode Linux's command line (without the program). `memory` in MiB."""
    devices = [
        f"vec{index}:transport=raw,ifname={wire.inside},depth={QUEUE_DEPTH},mac={wire.mac}"
        f",mtu={max(wire.mtu, VECTOR_MTU)},bpffile=/lvsfab/vec{index}.bpf"
        for index, wire in enumerate(plugged)
    ]
    return [
        f"mem={memory}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "init=/lvsfab/init",
        "ubd0=/lvsfab/disk",
        "uml_dir=/lvsfab/",
        "umid=uml",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "quiet",
        "seccomp=on" if seccomp else "seccomp=off",
        *devices,
    ]


def echo_filter(mac: str) -> str:
    """A classic BPF program (struct sock_filter, 8 bytes each) that drops frames from `mac`.

    The raw transport sends by one packet socket and receives by another, which is given what the
    first one sent: without this each kernel would hear all that it says
    (arch/um/drivers/vector_user.c has the same filter, but does not always attach it).
    """
    high, low = bytes.fromhex(mac.replace(":", ""))[:2], bytes.fromhex(mac.replace(":", ""))[2:]
    program = [
        (0x20, 0, 0, 8),  # A = last four bytes of the source
        (0x15, 0, 3, int.from_bytes(low, "big")),
        (0x28, 0, 0, 6),  # A = its first two
        (0x15, 0, 1, int.from_bytes(high, "big")),
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0x40000),  # keep
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program).decode("ascii")


def interface_batch(host: Host, plugged: tuple[Wire, ...], address: IPv4Interface) -> str:
    """`ip -batch` text that the host itself runs at boot."""
    lines = ["link set lo up"]
    for index, wire in enumerate(plugged):
        lines.append(f"link set vec{index} name {wire.name} mtu {wire.mtu} {ONE_FRAME}")
    lines.append(f"link set {MANAGEMENT} addrgenmode none")
    lines.append(f"address add {address} broadcast + dev {MANAGEMENT}")
    for face in host.interfaces:
        for own in face.addresses:
            # without nodad an IPv6 address is of no use for its first second
            extra = "broadcast +" if own.version == 4 else "nodad"
            lines.append(f"address add {own} {extra} dev {face.name}")
    lines += [f"link set {wire.name} up" for wire in plugged]
    for gateway in host.gateways:
        lines.append(f"route add default via {gateway}")
    for route in host.routes:
        lines.append(f"route add {route.to} via {route.via}")
    return "\n".join(lines) + "\n"


def hosts_file(inventory: Inventory, name: str) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for other in inventory.hosts.values():
        own = [other.address(version) for version in (4, 6)]
        lines += [f"{address} {other.name}" for address in own if address is not None]
    if inventory.hosts[name].address() is None:
        lines.append(f"127.0.1.1 {name}")
    return "\n".join(lines) + "\n"


def sshd_config(address: IPv4Address) -> str:
    """Key-only root login on the management address. No speed limits for new connections: they
    are against strangers, and here there are none.
    """
    return f"""\
ListenAddress {address}:22
HostKey /etc/ssh/ssh_host_ed25519_key
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
PermitRootLogin prohibit-password
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
X11Forwarding no
MaxStartups 200
MaxSessions 200
PerSourcePenalties no
Subsystem sftp internal-sftp
"""


def _init_files(inventory: Inventory, name: str) -> dict[str, tuple[int, str]]:
    """How a host is stopped: by docker/init's signals, or by an init of its own. A machine-id, for
    without one systemd takes the boot for the first and enables every service.
    """
    if not OWN_INIT.intersection(lab_spec(inventory).packages):
        signals = {"reboot": "TERM", "poweroff": "USR2", "halt": "USR2"}
        return {
            f"files/upper/usr/sbin/{name}": (0o755, f"#!/bin/sh\nexec kill -{number} 1\n")
            for name, number in signals.items()
        }
    number = hashlib.sha256(f"{inventory.name}/{name}".encode()).hexdigest()[:32]
    return {
        "files/upper/etc/machine-id": (0o444, f"{number}\n"),
        "files/upper/etc/systemd/system/ctrl-alt-del.target": (0o644, CTRL_ALT_DEL),
    }


def host_files(
    inventory: Inventory, name: str, key: HostKey, client_key: str, init: str
) -> dict[str, tuple[int, str]]:
    """All that is put in /lvsfab for one host. `client_key` is the public key that may log in,
    `init` the text of docker/init. Directories get mode 0755, but `root` and `.ssh` 0700.
    """
    host = inventory.hosts[name]
    own = management_addresses(inventory)[name]
    management = IPv4Interface((own, lab_spec(inventory).management.prefixlen))
    files = {
        "init": (0o755, init),
        "net": (0o644, interface_batch(host, wires(inventory)[name], management)),
        "hostname": (0o644, f"{name}\n"),
        "fstab": (0o644, FSTAB),
        "files/upper/etc/hostname": (0o644, f"{name}\n"),
        "files/upper/etc/hosts": (0o644, hosts_file(inventory, name)),
        "files/upper/etc/resolv.conf": (0o644, ""),
        "files/upper/etc/ssh/sshd_config": (0o644, sshd_config(own)),
        "files/upper/etc/ssh/ssh_host_ed25519_key": (0o600, key.private),
        "files/upper/etc/ssh/ssh_host_ed25519_key.pub": (0o644, f"{key.public} root@{name}\n"),
        "files/upper/root/.ssh/authorized_keys": (0o600, f"{client_key} lvsfab\n"),
        **_init_files(inventory, name),
    }
    for index, wire in enumerate(wires(inventory)[name]):
        files[f"vec{index}.bpf"] = (0o644, echo_filter(wire.mac))
    if host.forward:
        files["forward"] = (0o644, "")
    return files


def digest(inventory: Inventory) -> str:
    """What a running lab was made from: two inventories with the same digest mean the same lab.
    Roles, parameters and the like are not part of it: they may change while it runs.
    """
    spec = lab_spec(inventory)
    what = {
        "name": inventory.name,
        "management": str(spec.management),
        "packages": spec.packages,
        "network": network_batch(inventory),
        "hosts": {
            name: {
                "memory": host.memory or spec.memory,
                "net": interface_batch(
                    host, wires(inventory)[name], IPv4Interface((own, spec.management.prefixlen))
                ),
                "forward": host.forward,
            }
            for (name, host), own in zip(
                inventory.hosts.items(), management_addresses(inventory).values(), strict=True
            )
        },
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def spec(
    inventory: Inventory,
    *,
    tree: str,
    linux: str,
    modules: str,
    version: str,
    keys: Mapping[str, HostKey],
    client_key: str,
    init: str,
    hold: tuple[str, ...] = (),
) -> dict[str, object]:
    """All that the keeper needs to know, as JSON can hold it. `keys` by host name; `hold`: the
    cache entries that it runs from.
    """
    memory = lab_spec(inventory).memory
    addresses = management_addresses(inventory)
    hosts = {
        name: {
            "address": str(addresses[name]),
            "public": keys[name].public,
            "memory": host.memory or memory,
            "arguments": kernel_arguments(host.memory or memory, plugged, seccomp=True),
            "arguments_ptrace": kernel_arguments(host.memory or memory, plugged, seccomp=False),
            "files": host_files(inventory, name, keys[name], client_key, init),
        }
        for (name, host), plugged in zip(
            inventory.hosts.items(), wires(inventory).values(), strict=True
        )
    }
    return {
        "name": inventory.name,
        "inventory": str(inventory.path or ""),
        "digest": digest(inventory),
        "tree": tree,
        "linux": linux,
        "modules": modules,
        "hold": list(hold),
        "kernel": version,
        "disk": DISK,
        "network": network_batch(inventory),
        "hosts": hosts,
    }
