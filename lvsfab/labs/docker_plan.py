"""What the Docker lab asks of the engine: names, labels, subnets, addresses, privileges. Pure.

The engine's networks are layer-2 segments to us: it wants subnets and addresses for them, gets
the inventory's, and its address of an interface serves to tell the container's interfaces apart
(docker/entrypoint takes them off again). Its bridges have no address of their own but on the
management network, so that this machine is no neighbour on the lab's networks, answers for
nothing there and routes nothing; and nothing is masqueraded.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs import boot
from lvsfab.model import Host, Inventory, Network

LAB = "lvsfab.lab"  # label of every object: the lab's name
HOST = "lvsfab.host"  # label of a container: the host's name ("" is the gate, docker_dial.py)
HOME = "lvsfab.directory"  # label of every object: where on the user's machine its lab is kept
UNPROTECTED = (1, 48)  # API of Docker 28, which guards containers against packets from elsewhere
KILLED = 137  # exit status of a container that was killed
# MiB: the engine's seccomp profile leaves addresses random, and a kernel adds the random gap after
# its program (32 MiB at most) to its memory
SLACK = 64
LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}

# /proc/sys/net of a container's own network namespace is the container's to write; all else that
# the engine keeps read-only stays so (runc's defaults, /proc/sys taken apart).
READ_ONLY = [
    *("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"),
    *(f"/proc/sys/{part}" for part in ("abi", "debug", "dev", "fs", "kernel", "user", "vm")),
]


@dataclass(frozen=True, slots=True)
class Segment:
    """A network of the engine's. `subnet` None: the engine chooses one, to tell interfaces apart
    (an inventory network without IPv4). `bridge_address`: the bridge itself has an address.
    """

    name: str
    network: str
    subnet: IPv4Network | None
    gateway: IPv4Address | None
    addresses: Mapping[str, IPv4Address]  # by host
    mtu: int
    bridge_address: bool = False

    def create(self, labels: Mapping[str, str], api: tuple[int, ...]) -> dict[str, Any]:
        """Keyword arguments of the SDK's `APIClient.create_network`, but for `ipam`. `api`: the
        engine's API version.
        """
        options = {
            "com.docker.network.bridge.enable_ip_masquerade": "false",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.driver.mtu": str(self.mtu),
        }
        if api >= UNPROTECTED:
            # else frames for a container on another bridge are dropped where they are first seen
            options["com.docker.network.bridge.gateway_mode_ipv4"] = "nat-unprotected"
        if not self.bridge_address:
            options["com.docker.network.bridge.inhibit_ipv4"] = "true"
        return {
            "name": self.name,
            "driver": "bridge",
            "options": options,
            "labels": dict(labels),
            "check_duplicate": True,
        }


def container_name(lab: str, host: str) -> str:
    return f"lvsfab.{lab}.{host}"


def gate_name(lab: str) -> str:
    return f"lvsfab.{lab}"


def network_name(lab: str, network: str | None) -> str:
    """None: the management network."""
    return f"lvsfab.{lab}.{network}" if network else f"lvsfab.{lab}"


def gate_address(inventory: Inventory) -> IPv4Address:
    return boot.lab_spec(inventory).management.network_address + 2


def segments(inventory: Inventory) -> tuple[Segment, ...]:
    """The engine's networks, the management network first. LabError for what the engine cannot."""
    management = boot.lab_spec(inventory).management
    found = [
        Segment(
            network_name(inventory.name, None),
            "",
            management,
            management.network_address + 1,
            boot.management_addresses(inventory),
            boot.MANAGEMENT_MTU,
            bridge_address=True,
        )
    ]
    return (*found, *(_segment(inventory, one) for one in inventory.networks.values()))


def _segment(inventory: Inventory, network: Network) -> Segment:
    members = [host for host in inventory.hosts.values() if _legs(host, network.name)]
    for host in members:
        if len(_legs(host, network.name)) > 1:
            raise LabError(
                f"{host.name} has two interfaces in network {network.name}: the Docker engine "
                "connects a container to a network once",
                tip="use the rootless lab for this inventory: --backend rootless",
            )
    subnet = _subnet(inventory, network)
    name = network_name(inventory.name, network.name)
    if subnet is None:
        return Segment(name, network.name, None, None, {}, network.mtu)
    taken = {address for host in inventory.hosts.values() for address in _own(host)}
    taken |= set(_mentioned(inventory))
    free = (a for a in reversed(range_of(subnet)) if a not in taken)
    addresses = {}
    try:
        gateway = next(free)
        for host in members:
            own = [address for address in _own(host, network.name) if address in subnet]
            addresses[host.name] = own[0] if own else next(free)
    except StopIteration:
        raise LabError(
            f"network {network.name}: {subnet} has no address left over for the Docker engine's "
            "bridge",
            tip="use the rootless lab for this inventory: --backend rootless",
        ) from None
    return Segment(name, network.name, subnet, gateway, addresses, network.mtu)


def range_of(subnet: IPv4Network) -> list[IPv4Address]:
    """The subnet's last 256 host addresses (all of a smaller one), in order."""
    end = int(subnet.broadcast_address)
    first = max(int(subnet.network_address) + 1, end - 256)
    return [IPv4Address(number) for number in range(first, end)]


def _subnet(inventory: Inventory, network: Network) -> IPv4Network | None:
    for subnet in network.subnets:
        if isinstance(subnet, IPv4Network):
            return subnet
    for host in inventory.hosts.values():
        for face in _legs(host, network.name):
            for own in face.addresses:
                if isinstance(own.network, IPv4Network):
                    return own.network
    return None


def _legs(host: Host, network: str) -> list[Any]:
    return [face for face in host.interfaces if face.network == network]


def _own(host: Host, network: str | None = None) -> Iterator[IPv4Address]:
    for face in host.interfaces:
        if network is None or face.network == network:
            yield from (own.ip for own in face.addresses if isinstance(own.ip, IPv4Address))


def _mentioned(inventory: Inventory) -> Iterator[IPv4Address]:
    """Addresses among the recipes' parameters: VIPs, mostly."""
    for parameters in inventory.parameters.values():
        for value in parameters.values():
            try:
                address = ip_address(str(value))
            except ValueError:
                continue
            if isinstance(address, IPv4Address):
                yield address


def clashes(
    wanted: Iterable[Segment], networks: Iterable[Mapping[str, Any]], lab: str
) -> list[str]:
    """Which subnets the engine uses already, in sentences. `networks` as the engine lists them;
    this lab's own are none.
    """
    found = []
    for network in networks:
        if (network.get("Labels") or {}).get(LAB) == lab:
            continue
        for config in (network.get("IPAM") or {}).get("Config") or ():
            text = config.get("Subnet")
            there = ip_network(text, strict=False) if text else None
            if not isinstance(there, IPv4Network):
                continue
            for segment in wanted:
                if segment.subnet is not None and segment.subnet.overlaps(there):
                    what = f"network {segment.network}" if segment.network else "management network"
                    found.append(
                        f"{what}: {segment.subnet} overlaps {there} of the engine's network "
                        f"{network.get('Name')}"
                    )
    return found


def route_clashes(wanted: Iterable[Segment], routes: str) -> list[str]:
    """Which subnets this machine has routes to already, by the text of /proc/net/route (proc(5):
    addresses are hexadecimal, in the machine's byte order). Default routes are none.
    """
    found = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        number, mask = (int(fields[i], 16).to_bytes(4, "little") for i in (1, 7))
        there = IPv4Network((IPv4Address(number), str(IPv4Address(mask))), strict=False)
        if there.prefixlen == 0:
            continue
        found += [
            f"management network: {segment.subnet} overlaps this machine's route to {there} "
            f"({fields[0]})"
            for segment in wanted
            if segment.subnet is not None and segment.subnet.overlaps(there)
        ]
    return found


def plugs(inventory: Inventory, host: str, addresses: Iterable[IPv4Address], *, own: bool) -> str:
    """What docker/entrypoint reads: a line for each interface, the management interface first.
    `addresses` are the engine's, in the same order; `own`: the engine's kernel is the host's.
    """
    lines = [
        f"{address} {f'vec{index}' if own else wire.inside} {wire.mac} {wire.mtu}\n"
        for index, (wire, address) in enumerate(
            zip(boot.wires(inventory)[host], addresses, strict=True)
        )
    ]
    return "".join(lines)


def kernel_arguments(words: Iterable[str]) -> str:
    """A kernel's command line (boot.kernel_arguments), a word a line. This machine's own packets
    come in large pieces (GSO) through the engine's bridge: the management interface takes them.
    """
    return "".join(f"{word},gro=1\n" if word.startswith("vec0:") else f"{word}\n" for word in words)


def host_config(memory: int, *, own: bool, ptrace: bool = False) -> dict[str, Any]:
    """A container's HostConfig: what it may do beyond an ordinary process, and why.

    NET_ADMIN: the interfaces' names and addresses; on the engine's kernel IPVS too. NET_RAW: the
    kernel's frames (packet sockets), ping, tcpdump. Without a kernel of its own a host keeps the
    engine's usual capabilities beside it, for sshd and the services. `memory` in MiB, `ptrace`:
    the kernel traces its processes.
    """
    config: dict[str, Any] = {
        "LogConfig": LOG,
        "SecurityOpt": ["no-new-privileges"],
        "CapAdd": ["NET_ADMIN", "NET_RAW"],
        "RestartPolicy": {"Name": "no"},
    }
    if own:
        # a reboot is an exit status (docker/init); the engine would count them, and stop at a limit
        config["RestartPolicy"] = {"Name": "on-failure"}
        config["ReadonlyPaths"] = READ_ONLY
        config["Tmpfs"] = {
            "/run": "nosuid,nodev,mode=755",
            "/tmp": "nosuid,nodev,mode=1777",  # noqa: S108 - the container's
        }
    else:
        config["CapDrop"] = ["ALL"]
        config["Tmpfs"] = {"/lvsfab/memory": f"exec,nosuid,nodev,mode=700,size={memory + SLACK}m"}
        if ptrace:
            config["CapAdd"] = [*config["CapAdd"], "SYS_PTRACE"]
            config["SecurityOpt"] = [*config["SecurityOpt"], "seccomp=unconfined"]
    return config


def archive(files: Mapping[str, tuple[int, str]]) -> bytes:
    """A tar of /lvsfab, all root's. Directories 0755, but root and .ssh 0700 (boot.host_files)."""
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def directory(path: str) -> None:
            if not path or path in made:
                return
            directory(path.rpartition("/")[0])
            made.add(path)
            entry = tarfile.TarInfo(path)
            entry.type = tarfile.DIRTYPE
            private = path.endswith("/.ssh") or path == "files/upper/root"
            entry.mode = 0o700 if private else 0o755
            tar.addfile(entry)

        for part in ("files/upper", "files/work", "files/root"):
            directory(part)
        for path, (mode, text) in files.items():
            directory(path.rpartition("/")[0])
            entry = tarfile.TarInfo(path)
            entry.mode = mode
            data = text.encode()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
