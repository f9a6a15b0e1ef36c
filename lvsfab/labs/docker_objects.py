"""A lab's networks and containers on the engine: made, listed, removed. Nothing without the lab's
labels is ever changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs import docker_plan as plan
from lvsfab.labs.docker_dial import ENTRY
from lvsfab.labs.docker_engine import Engine, asking
from lvsfab.model import Inventory


def lives(container: Mapping[str, Any]) -> bool:
    """Whether a container, as the engine lists it, runs or is about to. One that restarts is a host
    on the engine's kernel that reboots (docker/init): it keeps its files; made by us it would not.
    """
    return container.get("State") in ("running", "restarting")


@dataclass(frozen=True, slots=True)
class Objects:
    """What the lab of `inventory` that is kept in `directory` has on the engine. It may have been
    kept in one of `others`, which went with a login of its user: then that one is gone.
    """

    engine: Engine
    inventory: Inventory
    directory: Path
    others: tuple[Path, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        return {plan.LAB: self.inventory.name, plan.HOME: str(self.directory)}

    @property
    def _filter(self) -> dict[str, str]:
        return {"label": f"{plan.LAB}={self.inventory.name}"}

    def _ours(self, labels: Mapping[str, str]) -> bool:
        home = Path(labels.get(plan.HOME, ""))
        return home == self.directory or (home in self.others and not (home / "spec").exists())

    def containers(self) -> dict[str, dict[str, Any]]:
        """Host name -> the engine's line about its container. The gate's name is ""."""
        with asking("listing the lab's containers"):
            listed = self.engine.api.containers(all=True, filters=self._filter)
        ours = [one for one in listed if self._ours(one["Labels"])]
        return {one["Labels"].get(plan.HOST, one["Id"]): one for one in ours}

    def networks(self) -> dict[str, dict[str, Any]]:
        """Name -> the engine's line about each network of the lab."""
        with asking("listing the lab's networks"):
            listed = self.engine.api.networks(filters=self._filter)
        return {one["Name"]: one for one in listed if self._ours(one["Labels"])}

    def remove(self) -> int:
        """Remove all of them; how many there were."""
        containers, networks = self.containers(), self.networks()
        for container in containers.values():  # all at once, an old engine miscounts endpoints
            self._remove(container["Id"])
        failed = []
        for network in networks.values():
            try:
                with asking(f"removing network {network['Name']}"):
                    self.engine.api.remove_network(network["Id"])
            except LabError as error:  # the others are removed all the same
                failed.append(error)
        if failed:
            raise failed[0]
        return len(containers) + len(networks)

    def _remove(self, container: str) -> None:
        from docker.errors import NotFound

        with (
            asking("removing a container"),
            suppress(NotFound),
        ):
            self.engine.api.remove_container(container, force=True, v=True)

    def check(self, wanted: tuple[plan.Segment, ...]) -> None:
        """LabError when something in the way is not ours: the lab's name, its subnets."""
        name = self.inventory.name
        with asking("looking at the engine's networks"):
            networks = self.engine.api.networks()
        for network in networks:
            labels = network.get("Labels") or {}
            if labels.get(plan.LAB) == name and not self._ours(labels):
                raise LabError(
                    f"a lab named {name} is on this engine already; it is kept in "
                    f"{labels.get(plan.HOME)}",
                    tip="take it down there, or give this inventory another name",
                )
        found = plan.clashes(wanted, networks, name)
        if self.engine.here:
            routes = Path("/proc/net/route").read_text()
            with_address = [s for s in wanted if s.bridge_address]
            ours = any(network["Name"] == wanted[0].name for network in networks)
            found += [] if ours else plan.route_clashes(with_address, routes)
        if found:
            raise LabError(
                "subnets of the lab are in use:" + "".join(f"\n  {one}" for one in found),
                tip="change them in the inventory, or use the rootless lab, whose networks are its "
                "own: --backend rootless",
            )

    def make_networks(self, wanted: tuple[plan.Segment, ...]) -> None:
        from docker.types import IPAMConfig, IPAMPool

        there = self.networks()
        for segment in wanted:
            if segment.name in there:
                continue
            pools = []
            if segment.subnet is not None:
                pools.append(IPAMPool(subnet=str(segment.subnet), gateway=str(segment.gateway)))
            with asking(f"making network {segment.name}"):
                self.engine.api.create_network(
                    ipam=IPAMConfig(pool_configs=pools),
                    **segment.create(self.labels, self.engine.level),
                )

    def addresses(self, wanted: tuple[plan.Segment, ...], host: str) -> dict[str, IPv4Address]:
        """The engine's address of each of the host's interfaces, by the engine's network; the
        management network first. Where the engine chose the subnet, the host's number in it.
        """
        own = self.inventory.hosts[host]
        by_network = {segment.network: segment for segment in wanted}
        number = list(self.inventory.hosts).index(host)
        found = {}
        for network in ("", *(face.network for face in own.interfaces)):
            segment = by_network[network]
            if host in segment.addresses:
                found[segment.name] = segment.addresses[host]
                continue
            with asking(f"looking at network {segment.name}"):
                made = self.engine.api.inspect_network(segment.name)
            chosen = IPv4Network(made["IPAM"]["Config"][0]["Subnet"])
            found[segment.name] = chosen.network_address + 10 + number
        return found

    def start(
        self,
        host: str,
        *,
        image: str,
        addresses: Mapping[str, IPv4Address],
        mac: str,
        files: Mapping[str, tuple[int, str]],
        config: Mapping[str, Any],
    ) -> None:
        """Make and start the container of `host`, in place of the one that may be there."""
        there = self.containers().get(host)
        if there is not None:
            self._remove(there["Id"])
        (first, address), *others = addresses.items()
        what = {
            "Image": image,
            "Hostname": host,
            "Labels": {**self.labels, plan.HOST: host},
            "MacAddress": mac,
            "HostConfig": {**config, "NetworkMode": first},
            "NetworkingConfig": {
                "EndpointsConfig": {
                    first: {"IPAMConfig": {"IPv4Address": str(address)}, "MacAddress": mac}
                }
            },
        }
        api = self.engine.api
        with asking(f"{host}: making its container"):
            name = plan.container_name(self.inventory.name, host)
            made = api.create_container_from_config(what, name)["Id"]
            api.put_archive(made, "/lvsfab", plan.archive(files))
            for network, own in others:
                api.connect_container_to_network(made, network, ipv4_address=str(own))
            api.start(made)

    def start_gate(self, image: str, network: str, address: IPv4Address) -> None:
        """The container through which an engine elsewhere lets us reach the hosts."""
        if (there := self.containers().get("")) is not None:
            if lives(there):
                return
            self._remove(there["Id"])
        what = {
            "Image": image,
            "Cmd": ["gate"],
            "Labels": {**self.labels, plan.HOST: ""},
            "HostConfig": {
                "NetworkMode": network,
                "LogConfig": plan.LOG,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
            },
            "NetworkingConfig": {
                "EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": str(address)}}}
            },
            "Entrypoint": [ENTRY],
        }
        with asking("making the lab's gate"):
            name = plan.gate_name(self.inventory.name)
            made = self.engine.api.create_container_from_config(what, name)["Id"]
            self.engine.api.start(made)
