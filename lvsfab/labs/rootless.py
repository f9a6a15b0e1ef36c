"""The rootless lab: one User-Mode Linux kernel for each host, in namespaces of the user's own.

Needs no root, no Docker, no KVM, and is the same when root starts it. The lab itself is one
process, the keeper (keeper.py); this class starts it, speaks to it, and can always clear away
what it left: the keeper's end is the end of every process, mount and network of the lab, and what
then remains is one directory (runtime.py).
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs import boot, cache, connect, data, keeping, keys, runtime, waiting
from lvsfab.labs.base import LabHostStatus, LabLogin, Progress
from lvsfab.labs.image import build_image, find_image
from lvsfab.labs.kernel import Kernel, build_kernel, find_kernel
from lvsfab.labs.made import Made
from lvsfab.model import Inventory

SSH_WAIT = 90.0  # seconds for a host to answer SSH: 2 to 5 s on two cores
KILL_WAIT = 10.0  # seconds for a killed kernel to be gone
LAST_LINES = 15  # of a dead host's console


class RootlessLab(Made):
    """A lab made from `inventory`. `directory` takes the place of the user's runtime directory;
    `image` and `kernel` that of those in the cache.
    """

    backend = "rootless"

    def __init__(
        self,
        inventory: Inventory,
        *,
        directory: Path | None = None,
        image: Path | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.name = inventory.name
        self._inventory = inventory
        self._spec = boot.lab_spec(inventory)
        self._base = directory
        self._image = image
        self._kernel = kernel

    # -- up and down ---------------------------------------------------------------------------

    def up(self, progress: Progress) -> None:
        begun = time.monotonic()
        directory = self.directory
        started = 0
        with runtime.locked(directory) as lock:
            if self._alive(progress):
                self._check_same()
                for name, host in self._status()["hosts"].items():
                    if not host["pid"]:
                        progress(f"{name}: was dead ({host['exit']}), started again")
                        self._ask({"do": "start", "host": name})
                        started += 1
            else:
                self._check_alone()
                image, kernel = self._parts(progress)
                runtime.clean(directory, itself=False)
                with ExitStack() as held:  # the keeper takes over what we hold
                    if self._image is None:
                        held.enter_context(cache.use(image.parent))
                    if self._kernel is None:
                        held.enter_context(cache.use(kernel.entry))
                    self._prepare(image, kernel)
                    keeping.start(directory, lock)
                started = len(self._inventory.hosts)
                progress(f"{started} kernels ({kernel.version}) started in {directory}")
        self._wait_all(tuple(self._inventory.hosts), progress)
        if started:
            progress(f"lab {self.name}: up in {time.monotonic() - begun:.1f} s")

    def down(self, progress: Progress) -> None:
        if not self.directory.exists():
            with suppress(OSError):
                self.directory.parent.rmdir()
            return
        with runtime.locked(self.directory):
            keeping.end(self.directory)
            runtime.clean(self.directory, itself=True)
        progress(f"lab {self.name}: down, nothing is left of it")

    def running(self) -> bool:
        try:
            return "hosts" in connect.ask(self.directory, {"do": "status"})
        except OSError:
            return False

    def whole(self) -> bool:
        if not self.running():
            return False
        hosts: dict[str, dict[str, Any]] = self._status()["hosts"]
        return all(host["pid"] for host in hosts.values())

    def _parts(self, progress: Progress) -> tuple[Path, Kernel]:
        """Image and kernel, built if need be."""
        more = self._spec.packages
        image = self._image or find_image(*more) or build_image(progress, *more)
        kernel = self._kernel
        if kernel is None and self._spec.kernel == "auto":
            kernel = (
                find_kernel("built")
                or find_kernel("prebuilt")
                or build_kernel("prebuilt", progress)
            )
        elif kernel is None:
            kernel = find_kernel(self._spec.kernel) or build_kernel(self._spec.kernel, progress)
        return image, kernel

    def _prepare(self, image: Path, kernel: Kernel) -> None:
        client = keys.generate()
        own = {name: keys.generate() for name in self._inventory.hosts}
        spec = boot.spec(
            self._inventory,
            tree=str(image),
            linux=str(kernel.linux),
            modules=str(kernel.modules),
            version=kernel.version,
            keys=own,
            client_key=client.public,
            init=data.text("init"),
            hold=tuple(str(entry) for entry in (image.parent, kernel.entry)),
        )
        keys.write_secret(self.directory / "key", client.private)
        public = {name: key.public for name, key in own.items()}
        keys.write_secret(self.directory / "known_hosts", keys.known_hosts(public))
        keys.write_secret(self.directory / "spec", json.dumps(spec))

    def _alive(self, progress: Progress) -> bool:
        """Whether the keeper answers. One that lives but does not is ended."""
        if self.running():
            return True
        if runtime.recorded_keeper(self.directory) is not None:
            progress(f"lab {self.name}: its keeper does not answer; starting anew")
            keeping.end(self.directory)
        return False

    # -- the keeper's answers ------------------------------------------------------------------

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        try:
            answer = connect.ask(self.directory, request)
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._down_error() from None
        except (OSError, ValueError) as error:
            raise LabError(
                f"the keeper of the lab {self.name} does not answer: {error}",
                tip="`lvsfab lab up` starts it anew",
            ) from error
        if "error" in answer:
            raise LabError(f"the keeper of the lab {self.name} says: {answer['error']}")
        return answer

    def _status(self) -> dict[str, Any]:
        return self._ask({"do": "status"})

    # -- hosts ---------------------------------------------------------------------------------

    def status(self) -> tuple[LabHostStatus, ...]:
        addresses = boot.management_addresses(self._inventory)
        if not self.running():
            return tuple(
                LabHostStatus(
                    name, "absent", "", str(address), self._memory(name), None, None, False
                )
                for name, address in addresses.items()
            )
        made, now = self._check_same(), self._status()["hosts"]
        answering = waiting.in_parallel(
            lambda name: waiting.banner(self.directory, str(addresses[name]), 2.0), addresses
        )
        found = []
        for name, address in addresses.items():
            ssh, host = answering[name] == "", now[name]
            state = "dead" if not host["pid"] else "running" if ssh else "starting"
            detail = "" if ssh else answering[name]
            if state == "dead":
                detail = f"{host['exit']}\n{self._last_lines(name)}"
            found.append(
                LabHostStatus(
                    name=name,
                    state=state,
                    kernel=made["kernel"],
                    address=str(address),
                    memory=self._memory(name),
                    resident=host["resident"],
                    since=host["since"],
                    ssh=ssh,
                    detail=detail,
                )
            )
        return tuple(found)

    def _memory(self, name: str) -> int:
        return self._inventory.hosts[name].memory or self._spec.memory

    def reboot(self, host: str, *, keep: bool, progress: Progress) -> None:
        """As `Lab.reboot`. With `keep` the host powers off in order, or after waiting.STOP_WAIT s
        has its power cut.
        """
        self._host(host)
        with runtime.locked(self.directory, shared=True):  # while it is off nobody's `up` starts it
            if keep:
                with suppress(LabError):  # a kernel too broken to listen
                    self._ask({"do": "stop", "host": host, "orderly": True})
                if not self._gone(host, waiting.STOP_WAIT):
                    progress(f"{host}: {waiting.CUT}")
            self.kill(host)
            self._ask({"do": "start", "host": host, "keep": keep})
        self._wait_all((host,), progress)

    def kill(self, host: str) -> None:
        """Cut a host's power and leave it off; `up` starts it again, pristine."""
        self._host(host)
        self._ask({"do": "stop", "host": host})
        if not self._gone(host, KILL_WAIT):
            raise LabError(f"{host}: its kernel did not end within {KILL_WAIT:.0f} s of SIGKILL")

    def _gone(self, host: str, timeout: float) -> bool:
        return waiting.until(lambda: not self._status()["hosts"][host]["pid"], timeout)

    def log(self, host: str) -> Path:
        self._host(host)
        return self.directory / "console" / f"{host}.log"

    def login(self, host: str) -> LabLogin:
        known = self._host(host)
        key = self.directory / "key"
        return LabLogin(host, known["address"], keys.PORT, keys.USER, key, known["public"])

    def dial(self, host: str, timeout: float) -> socket.socket:
        address = self._host(host)["address"]
        try:
            return connect.dial(self.directory, address, keys.PORT, timeout)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if self.running():
                raise LabError(f"{host}: no SSH server there: {error}") from error
            raise self._down_error() from None
        except OSError as error:
            raise LabError(f"{host}: cannot be reached in the lab: {error}") from error

    def ssh_config(self) -> str:
        hosts = self._check_same()["hosts"]
        addresses = {name: host["address"] for name, host in hosts.items()}
        return keys.ssh_config(
            self.directory, addresses, lambda address: connect.command(self.directory, address)
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
        for last in (False, True):
            why = self._answers(host, deadline - time.monotonic())
            if why != "dead":
                break
            if not last:
                progress(f"{host}: its kernel died at the start; once more with seccomp=off")
                self._ask({"do": "start", "host": host, "seccomp": False})
        if not why:
            return ""
        status = self._status()["hosts"][host]
        what = f"its kernel ended ({status['exit']})" if why == "dead" else why
        return f"{what}; the end of its console:\n{self._last_lines(host)}"

    def _answers(self, host: str, timeout: float) -> str:
        address = str(boot.management_addresses(self._inventory)[host])

        def look() -> str:
            why = waiting.banner(self.directory, address, 5.0)
            if why and not self._status()["hosts"][host]["pid"]:
                return "dead"
            return why

        return waiting.answers(look, timeout)

    def _last_lines(self, host: str) -> str:
        with suppress(OSError):
            text = (self.directory / "console" / f"{host}.log").read_text(errors="replace")
            return "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:])
        return "  (no console output)"
