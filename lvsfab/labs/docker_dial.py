"""TCP connections to a Docker lab's hosts.

An engine on this machine has its bridges here: the management address is a neighbour's. An engine
elsewhere (a virtual machine, another machine) has not: there one more container, the gate, is on
the management network, and a connection is a command in it whose standard streams the engine
hands to us. `python -m lvsfab.labs.docker_dial GATE ADDRESS` is the same for people's own ssh.
"""

from __future__ import annotations

import os
import shlex
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs.docker_engine import Engine, asking, connect
from lvsfab.labs.keys import PORT

ENTRY = "/usr/lib/lvsfab/entrypoint"
FIRST_WAIT = 30  # seconds for an SSH server to greet through the gate: below 1 s
_CHUNK = 65536
_FRAME = struct.Struct(">BxxxI")  # the engine's: which stream, how many bytes (attach API)
_OUT = 1
_NOT_RUNNING = (404, 409)  # how the engine answers who would run a command in such a container


def is_here(address: str) -> bool:
    """Whether `address` is one of this machine's: its engine's bridge, for one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((address, 0))
        except OSError:
            return False
    return True


def direct(address: str, timeout: float) -> socket.socket:
    connection = socket.create_connection((address, PORT), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(None)
    return connection


def through(engine: Engine, gate: str, address: str) -> socket.socket:
    """A socket whose other end two threads connect to ADDRESS by way of the gate. An ADDRESS that
    cannot be reached shows as the end of the stream.
    """
    from docker.errors import APIError

    api = engine.api
    with asking("reaching the lab through its gate"):
        try:
            made = api.exec_create(gate, [ENTRY, "dial", address], stdin=True, stderr=True)
        except APIError as error:
            if error.status_code not in _NOT_RUNNING:
                raise
            raise LabError(
                f"the lab's gate, the container {gate}, is dead: no host can be reached",
                tip="lvsfab lab up",
            ) from error
        # the SDK's own exec_start forgets what came in one piece with the answer's header
        answer = api._post_json(
            api._url("/exec/{0}/start", made["Id"]),
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
            data={"Tty": False, "Detach": False},
            stream=True,
        )
        api._raise_for_status(answer)
        reader = answer.raw._fp.fp
        far = reader.raw._sock
    ours, theirs = socket.socketpair()
    far.settimeout(FIRST_WAIT)

    def down() -> None:
        with suppress(OSError):  # nothing came: the stream ends
            reader.peek(1)
            far.settimeout(None)
            _down(reader, theirs, answer)
            return
        theirs.shutdown(socket.SHUT_WR)
        answer.close()

    for work in (lambda: _up(theirs, far), down):
        threading.Thread(target=work, daemon=True).start()
    return ours


def _up(near: socket.socket, far: Any) -> None:
    with suppress(OSError):
        while data := near.recv(_CHUNK):
            far.sendall(data)
    with suppress(OSError):
        far.shutdown(socket.SHUT_WR)


def _down(reader: Any, near: socket.socket, answer: Any) -> None:
    with suppress(OSError, ValueError):
        while len(head := reader.read(_FRAME.size)) == _FRAME.size:
            stream, size = _FRAME.unpack(head)
            data = reader.read(size)
            if stream == _OUT:
                near.sendall(data)
    with suppress(OSError):
        near.shutdown(socket.SHUT_WR)
    answer.close()


def command(gate: str, address: str) -> tuple[str, bool]:
    """`main` as a ProxyCommand that carries the data itself (keys.ssh_config), for the engine that
    the user speaks to now.
    """
    given = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    given |= {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    argv = ["env", *(f"{name}={value}" for name, value in given.items()), sys.executable]
    return shlex.join([*argv, "-m", "lvsfab.labs.docker_dial", gate, address]), False


def main(argv: list[str]) -> int:
    """ProxyCommand of people's own ssh."""
    try:
        connection = through(connect(), *argv)
    except LabError as error:
        print(f"{error.message}; {error.tip}", file=sys.stderr)
        return 1

    def send() -> None:
        while data := os.read(0, _CHUNK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    while data := connection.recv(_CHUNK):
        os.write(1, data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
