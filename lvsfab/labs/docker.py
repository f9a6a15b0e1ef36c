"""The Docker lab: one container for each host, on an engine that the user has.

Where the engine's kernel has LVS the hosts share it; else each container runs a User-Mode Linux
kernel, which takes over the container's interfaces. Everything on the engine carries the lab's
labels (docker_objects.py); what is on this machine is one directory: keys, and `spec`, from which
a host can be made again at any time.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs import (
    boot,
    data,
    docker_dial,
    docker_engine,
    docker_image,
    docker_kernel,
    keys,
    runtime,
    waiting,
)
from lvsfab.labs import docker_plan as plan
from lvsfab.labs.base import LabHostStatus, LabLogin, Progress
from lvsfab.labs.docker_console import Console, age
from lvsfab.labs.docker_engine import Engine, asking, connect
from lvsfab.labs.docker_objects import Objects, lives
from lvsfab.labs.made import Made
from lvsfab.model import Inventory

SSH_WAIT = 90.0  # seconds for a host to answer SSH: 2 to 8 s on two cores
LOOK = 0.5  # seconds between looks whether a host that does not answer is dead


class DockerLab(Made):
    """A lab made from `inventory`. `directory` takes the place of the user's runtime directory,
    `engine` that of the user's own.
    """

    backend = "docker"

    def __init__(
        self,
        inventory: Inventory,
        *,
        directory: Path | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.name = inventory.name
        self._inventory = inventory
        self._spec = boot.lab_spec(inventory)
        self._base = directory
        self._given = engine

    @cached_property
    def _engine(self) -> Engine:
        return self._given or connect()

    @cached_property
    def _objects(self) -> Objects:
        bases = runtime.places() if self._base is None else ()
        others = tuple(runtime.lab_directory(self.name, self.backend, base) for base in bases)
        return Objects(self._engine, self._inventory, self.directory, others)

    @cached_property
    def _console(self) -> Console:
        return Console(self._objects)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lab's lock. A directory without a spec is no lab: it goes again."""
        with runtime.locked(self.directory):
            try:
                yield
            finally:
                if not self._has_spec():
                    runtime.clean(self.directory, itself=True)

    def _has_spec(self) -> bool:
        return (self.directory / "spec").exists()

    # -- up and down ---------------------------------------------------------------------------

    def up(self, progress: Progress) -> None:
        begun = time.monotonic()
        engine = self._engine
        segments = plan.segments(self._inventory)
        with self._locked():
            if self.running():
                self._check_same()
            else:
                self._check_alone()
                self._objects.remove()
                runtime.clean(self.directory, itself=False)
                self._objects.check(segments)
                self._prepare(engine, progress)
            made = self._made()
            self._objects.make_networks(segments)
            self._gate(made, progress)
            started = self._start_dead(made, segments, progress)
        self._wait_all(tuple(self._inventory.hosts), progress)
        if started:
            progress(f"lab {self.name}: up in {time.monotonic() - begun:.1f} s")

    def down(self, progress: Progress) -> None:
        with self._locked():  # an `up` that is at work ends first: it would go on making things
            there = self._has_spec()
            there = self._objects.remove() > 0 or there
            (self.directory / "spec").unlink(missing_ok=True)
        if there:
            progress(f"lab {self.name}: down, nothing is left of it")

    def remains(self) -> bool:
        """Whether the engine has anything of it."""
        return bool(self._objects.containers() or self._objects.networks())

    def running(self) -> bool:
        return self._has_spec() and bool(self._alive() - {""})

    def whole(self) -> bool:
        if not self._has_spec():
            return False
        gate = [""] if self._made()["gate"] else []
        return self._alive() >= {*self._inventory.hosts, *gate}

    def _alive(self) -> set[str]:
        """The hosts whose containers live; "" is the gate."""
        there = self._objects.containers()
        return {host for host, one in there.items() if lives(one)}

    def _prepare(self, engine: Engine, progress: Progress) -> None:
        kernel = docker_kernel.choose(engine, self._spec.kernel, self._objects.labels, progress)
        image = docker_image.build(engine, kernel, progress, *self._spec.packages)
        client = keys.generate()
        own = {name: keys.generate() for name in self._inventory.hosts}
        spec = boot.spec(
            self._inventory,
            tree="",
            linux="",
            modules="",
            version=kernel.version if kernel else f"{engine.kernel} (the engine's)",
            keys=own,
            client_key=client.public,
            init=data.text("init"),
        )
        spec |= {"image": image, "own": kernel is None, "ptrace": [], "gate": False}
        keys.write_secret(self.directory / "key", client.private)
        public = {name: key.public for name, key in own.items()}
        keys.write_secret(self.directory / "known_hosts", keys.known_hosts(public))
        self._note(spec)

    def _note(self, spec: dict[str, Any]) -> None:
        new = self.directory / "spec.new"
        new.unlink(missing_ok=True)
        keys.write_secret(new, json.dumps(spec))
        new.rename(self.directory / "spec")

    def _gate(self, made: dict[str, Any], progress: Progress) -> None:
        """See whether this machine reaches the hosts by itself; if not, through the gate."""
        bridge = str(self._spec.management.network_address + 1)
        gate = not (self._engine.here and docker_dial.is_here(bridge))
        if gate:
            if not made["gate"]:
                progress("the engine's networks are not on this machine: going through a gate")
            network = plan.network_name(self.name, None)
            self._objects.start_gate(made["image"], network, plan.gate_address(self._inventory))
        if gate != made["gate"]:
            self._note(made | {"gate": gate})

    def _start_dead(
        self, made: dict[str, Any], segments: tuple[plan.Segment, ...], progress: Progress
    ) -> int:
        there = self._objects.containers()
        hosts = self._inventory.hosts
        dead = [host for host in hosts if not lives(there.get(host, {}))]
        for host in dead:
            if len(dead) < len(hosts):
                said = there[host]["Status"] if host in there else "removed"
                progress(f"{host}: was dead ({said}), started again")
        waiting.in_parallel(lambda host: self._start(made, segments, host), dead)
        if dead:
            progress(f"{len(dead)} containers started, kernel {made['kernel']}")
        return len(dead)

    def _start(self, made: dict[str, Any], segments: tuple[plan.Segment, ...], host: str) -> None:
        self._console.keep(host)
        known, own, ptrace = made["hosts"][host], made["own"], host in made["ptrace"]
        addresses = self._objects.addresses(segments, host)
        files = {path: (mode, text) for path, (mode, text) in known["files"].items()}
        files["plugs"] = (0o644, plan.plugs(self._inventory, host, addresses.values(), own=own))
        if not own:
            words = known["arguments_ptrace" if ptrace else "arguments"]
            files["arguments"] = (0o644, plan.kernel_arguments(words))
            files["disk.size"] = (0o644, f"{made['disk']}M\n")
            files["number"] = (0o644, f"{list(made['hosts']).index(host)}\n")
        self._objects.start(
            host,
            image=made["image"],
            addresses=addresses,
            mac=boot.wires(self._inventory)[host][0].mac,
            files=files,
            config=plan.host_config(known["memory"], own=own, ptrace=ptrace),
        )

    # -- hosts ---------------------------------------------------------------------------------

    def status(self) -> tuple[LabHostStatus, ...]:
        addresses = boot.management_addresses(self._inventory)
        if not self._has_spec():
            return tuple(self._absent(name) for name in addresses)
        made = self._check_same()
        there = self._objects.containers()
        found = waiting.in_parallel(lambda name: self._status(made, name, there), addresses)
        return tuple(found.values())

    def _absent(self, name: str, detail: str = "") -> LabHostStatus:
        address = str(boot.management_addresses(self._inventory)[name])
        memory = self._inventory.hosts[name].memory or self._spec.memory
        return LabHostStatus(name, "absent", "", address, memory, None, None, False, detail)

    def _status(
        self, made: dict[str, Any], name: str, there: dict[str, dict[str, Any]]
    ) -> LabHostStatus:
        absent = self._absent(name, "its container was removed; lvsfab lab up makes it again")
        if name not in there:
            return absent
        container = there[name]["Id"]
        with asking(f"{name}: looking at its container"):
            state = self._engine.api.inspect_container(container)["State"]
        running = state["Running"]
        try:
            why = (
                waiting.greeting(lambda t: self._connected(made, name, t), 2.0)
                if running
                else self._console.end(name)
            )
        except LabError as error:  # the way there
            why = f"{error.message}; {error.tip}"
        return LabHostStatus(
            name=name,
            state="dead" if not running else "running" if not why else "starting",
            kernel=made["kernel"],
            address=absent.address,
            memory=absent.memory,
            resident=docker_engine.resident(self._engine, container) if running else None,
            since=age(state["StartedAt"], datetime.now(UTC)) if running else None,
            ssh=running and not why,
            detail=why,
        )

    def reboot(self, host: str, *, keep: bool, progress: Progress) -> None:
        """As `Lab.reboot`. With `keep` the host powers off in order, or after
        waiting.STOP_WAIT s has its power cut.
        """
        self._host(host)
        there = self._objects.containers().get(host)
        if keep and there is not None:
            # while it is off nobody's `up` makes it anew
            with runtime.locked(self.directory, shared=True), asking(f"{host}: rebooting"):
                self._engine.api.stop(there["Id"], timeout=waiting.STOP_WAIT)
                state = self._engine.api.inspect_container(there["Id"])["State"]
                if state["ExitCode"] == plan.KILLED:
                    progress(f"{host}: {waiting.CUT}")
                self._engine.api.start(there["Id"])
        else:
            with self._locked():
                self._start(self._made(), plan.segments(self._inventory), host)
        self._wait_all((host,), progress)

    def kill(self, host: str) -> None:
        """Cut a host's power and leave it off; `up` starts it again, pristine."""
        self._host(host)
        with asking(f"{host}: cutting its power"):
            self._engine.api.kill(plan.container_name(self.name, host))
            self._engine.api.wait(plan.container_name(self.name, host), timeout=20)

    def log(self, host: str) -> Path:
        self._host(host)
        return self._console.file(host)

    # -- reaching them -------------------------------------------------------------------------

    def login(self, host: str) -> LabLogin:
        known = self._host(host)
        key = self.directory / "key"
        return LabLogin(host, known["address"], keys.PORT, keys.USER, key, known["public"])

    def dial(self, host: str, timeout: float) -> socket.socket:
        made = self._check_same()
        self._host(host)
        try:
            return self._connected(made, host, timeout)
        except OSError as error:
            there = self._objects.containers().get(host, {})
            if not lives(there):
                raise LabError(
                    f"{host}: its container is dead: {self._console.end(host)}", tip="lvsfab lab up"
                ) from error
            raise LabError(f"{host}: cannot be reached in the lab: {error}") from error

    def _connected(self, made: dict[str, Any], host: str, timeout: float) -> socket.socket:
        address = made["hosts"][host]["address"]
        if made["gate"]:
            return docker_dial.through(self._engine, plan.gate_name(self.name), address)
        return docker_dial.direct(address, timeout)

    def ssh_config(self) -> str:
        made = self._check_same()
        addresses = {name: host["address"] for name, host in made["hosts"].items()}
        if not made["gate"]:
            return keys.ssh_config(self.directory, addresses, None)
        gate = plan.gate_name(self.name)
        return keys.ssh_config(
            self.directory, addresses, lambda address: docker_dial.command(gate, address)
        )

    # -- waiting -------------------------------------------------------------------------------

    def _wait_all(self, hosts: tuple[str, ...], progress: Progress) -> None:
        failed = waiting.in_parallel(lambda name: self._wait_ssh(name, progress), hosts)
        lines = [f"{name}: {why}" for name, why in failed.items() if why]
        if lines:
            raise LabError("the lab is not complete: " + "\n".join(lines))

    def _wait_ssh(self, host: str, progress: Progress) -> str:
        """Wait until `host` answers SSH; why it does not, or "". A kernel that dies before it
        does is started once more, by ptrace: the way that older machines can go.
        """
        deadline = time.monotonic() + SSH_WAIT
        why = self._answers(host, deadline)
        made = self._made()
        traced = made["own"] or host in made["ptrace"]
        if why == "dead" and not traced and self._console.kernel_died(host):
            progress(f"{host}: its kernel died at the start; once more with seccomp=off")
            with self._locked():
                made = self._made()
                made["ptrace"].append(host)
                self._note(made)
                self._start(made, plan.segments(self._inventory), host)
            why = self._answers(host, deadline)
        if not why:
            return ""
        return (
            self._console.end(host) if why == "dead" else f"{why}\n{self._console.last_lines(host)}"
        )

    def _answers(self, host: str, deadline: float) -> str:
        made = self._made()
        looked = time.monotonic()

        def look() -> str:
            nonlocal looked
            why = waiting.greeting(lambda timeout: self._connected(made, host, timeout), 5.0)
            if why and time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                if not lives(self._objects.containers().get(host, {})):
                    return "dead"
            return why

        return waiting.answers(look, deadline - time.monotonic())
