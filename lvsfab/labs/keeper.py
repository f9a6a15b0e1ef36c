"""The one process that keeps a lab: first process of the lab's PID namespace, so that its end, by
whatever cause, makes the kernel end every process, mount and network of the lab.

`python -m lvsfab.labs.keeper DIRECTORY READY_FD LOCK_FD` is started by rootless.py. It obeys
`spec` in DIRECTORY (`boot.spec`), says on READY_FD how the start went (a line of JSON),
and then answers requests on the socket `s` (connect.py): status, socket, start, stop, shutdown.
Standard library alone, one thread; it never waits for anything but its selector.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lvsfab.labs import namespaces
from lvsfab.labs.connect import MAX_REQUEST, NETWORK_FAILED, SOCKET
from lvsfab.labs.machine import Machine

CLIENT_TIME = 5.0  # seconds a client may take over its one line
MAX_CLIENTS = 64
LOOK_AROUND = 2.0  # seconds between looks whether the lab's directory is still there


@dataclass
class Client:
    """One connection and what it has sent so far."""

    talk: socket.socket
    since: float = field(default_factory=time.monotonic)
    data: bytes = b""


class Keeper:
    def __init__(self, directory: Path, spec: dict[str, Any]) -> None:
        self.directory = directory
        self.spec = spec
        self.tree = directory / "t" / "tree"
        self.machines: dict[str, Machine] = {}
        self.clients: dict[int, Client] = {}
        self.selector = selectors.DefaultSelector()
        self.inode = directory.stat().st_ino
        self.ending = False

    def prepare(self) -> None:
        """Mounts, networks, the socket. The first OSError or failed command ends the lab."""
        self._hold()
        stage = self.directory / "t"
        stage.mkdir(mode=0o700)
        namespaces.mount("lvsfab", stage, "tmpfs", namespaces.NOSUID, "mode=700,size=1m")
        self.tree.mkdir()
        namespaces.bind(self.spec["tree"], self.tree, readonly=True)
        modules = self.tree / "usr/lib/modules"
        namespaces.bind(self.spec["modules"], modules, readonly=True)
        self._devices()
        self._network(self.spec["network"])
        (self.directory / "console").mkdir(mode=0o700)
        cpus = sorted(os.sched_getaffinity(0))
        for number, (name, host) in enumerate(self.spec["hosts"].items()):
            self.machines[name] = Machine(
                name,
                host,
                tree=self.tree,
                linux=self.spec["linux"],
                home=stage / name,
                log=self.directory / "console" / f"{name}.log",
                cpu=cpus[number % len(cpus)],
                disk=self.spec["disk"],
                watch=self._watch,
            )
            self.machines[name].prepare()

    def _hold(self) -> None:
        """Keep the cache from pruning what we run from (`cache.use` for our lifetime)."""
        for entry in self.spec["hold"]:
            with suppress(OSError):  # an image or kernel from outside the cache, maybe read-only
                held = os.open(Path(entry) / "held", os.O_RDWR | os.O_CLOEXEC)
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _devices(self) -> None:
        """The kernels are shut into the tree: they see nothing of the machine but /dev/null, and
        a list of mounts, empty, that mke2fs looks into.
        """
        for name, file in (("dev", "null"), ("proc", "mounts")):
            where = self.tree / name
            namespaces.mount(name, where, "tmpfs", namespaces.NOSUID, "mode=755,size=64k")
            (where / file).touch()
        namespaces.bind("/dev/null", self.tree / "dev/null")

    def _network(self, batch: str) -> None:
        if not Path("/proc/sys/net/ipv6").exists():  # a machine booted with ipv6.disable=1
            batch = batch.replace(" addrgenmode none", "")
        done = subprocess.run(
            ["/usr/sbin/chroot", str(self.tree), "/usr/sbin/ip", "-batch", "-"],
            input=batch.encode(),
            capture_output=True,
            timeout=20,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"{NETWORK_FAILED}: {done.stderr.decode(errors='replace').strip()}")

    def listen(self) -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(self.directory)  # a socket's address has room for 108 bytes
        server.bind(SOCKET)
        os.chdir("/")
        server.listen(MAX_CLIENTS)
        server.setblocking(False)
        self.selector.register(server, selectors.EVENT_READ, lambda: self._accept(server))

    def _watch(self, fd: int, ready: Callable[[], bool]) -> None:
        """Call `ready` whenever `fd` has something; it says whether there may be more."""

        def read() -> None:
            if not ready():
                self.selector.unregister(fd)
                os.close(fd)

        self.selector.register(fd, selectors.EVENT_READ, read)

    def run(self) -> None:
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self._watch(wake, lambda: bool(os.read(wake, 512)))
        for machine in self.machines.values():
            machine.start()
        while not self.ending:
            self.turn(LOOK_AROUND)
            self._reap()

    def turn(self, timeout: float) -> None:
        """Serve what comes within `timeout` seconds."""
        for key, _ in self.selector.select(timeout):
            key.data()
        self._sweep()

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            self.selector.unregister(key.fileobj)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self.selector.close()

    def _end(self, *_: object) -> None:
        self.ending = True

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for machine in self.machines.values():
                    machine.ended(*found)

    def _sweep(self) -> None:
        """Slow clients, and the end of the directory: without it nobody can find the lab."""
        now = time.monotonic()
        for client in list(self.clients.values()):
            if now - client.since > CLIENT_TIME:
                self._drop(client)
        try:
            gone = self.directory.stat().st_ino != self.inode
        except OSError:
            gone = True
        if gone:  # `|=` would forget a signal that came between its reading and its writing
            self.ending = True

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            talk, _ = server.accept()
            if not self._trusted(talk) or len(self.clients) >= MAX_CLIENTS:
                talk.close()
                return
            talk.setblocking(False)
            client = Client(talk)
            self.clients[talk.fileno()] = client
            self.selector.register(talk, selectors.EVENT_READ, lambda: self._hear(client))

    def _trusted(self, talk: socket.socket) -> bool:
        """Our own user is 0 in our namespace; everybody else is unknown there."""
        creds = talk.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return bool(struct.unpack("3i", creds)[1] == 0)

    def _drop(self, client: Client) -> None:
        self.clients.pop(client.talk.fileno(), None)
        self.selector.unregister(client.talk)
        client.talk.close()

    def _hear(self, client: Client) -> None:
        try:
            part = client.talk.recv(MAX_REQUEST)
            client.data += part
            if client.data.endswith(b"\n"):
                self._answer(client)
            elif part and len(client.data) < MAX_REQUEST:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(client)

    def _answer(self, client: Client) -> None:
        """A reply fits into the socket's buffer, so that sending it cannot hold the lab up."""
        given: list[int] = []
        try:
            reply, given = self._obey(json.loads(client.data))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        try:
            socket.send_fds(client.talk, [json.dumps(reply).encode() + b"\n"], given)
        finally:
            for fd in given:
                os.close(fd)

    def _obey(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        match request["do"]:
            case "status":
                hosts = {name: machine.status() for name, machine in self.machines.items()}
                return {"digest": self.spec["digest"], "hosts": hosts}, []
            case "socket":
                return {}, [socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()]
            case "start":
                self.machines[request["host"]].start(
                    keep=request.get("keep") is True, seccomp=request.get("seccomp") is not False
                )
                return {}, []
            case "stop":
                self.machines[request["host"]].stop(orderly=request.get("orderly") is True)
                return {}, []
            case "shutdown":
                self.ending = True
                return {}, []
        raise ValueError(f"no such request: {request['do']}")


def report(ready: int, answer: dict[str, str]) -> None:
    with suppress(OSError):  # whoever started us may be gone
        os.write(ready, json.dumps(answer).encode() + b"\n")
    os.close(ready)


def keep(directory: Path, ready: int, lock: int) -> int:
    """What the first process of the namespace does until its end."""
    try:
        keeper = Keeper(directory, json.loads((directory / "spec").read_text()))
        keeper.prepare()
        keeper.listen()
    except (OSError, subprocess.SubprocessError) as error:
        number = getattr(error, "errno", None) or 0
        report(ready, {"error": f"the lab could not be prepared: {error}", "errno": str(number)})
        return 1
    report(ready, {})
    os.close(lock)
    keeper.run()
    return 0


def record(directory: Path, pid: int) -> None:
    """Who the keeper is, for a time when it does not answer (runtime.Identity)."""
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fd = os.open(directory / "keeper", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, json.dumps([pid, int(start), boot]).encode())
    os.close(fd)


def main(argv: list[str]) -> NoReturn:
    directory, ready, lock = Path(argv[0]), int(argv[1]), int(argv[2])
    os.umask(0o077)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        namespaces.enter()
    except OSError as error:
        report(ready, {"errno": str(error.errno or 0), "forbidden": "yes"})
        sys.exit(1)
    go, going = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(going)
        if os.read(go, 1) != b"g":  # our parent could not record us: end with it
            os._exit(1)
        os.close(go)
        sys.exit(keep(directory, ready, lock))
    record(directory, pid)
    os.write(going, b"g")
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
