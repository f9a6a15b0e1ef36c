"""Speaking with a lab's keeper; and, run by itself, the ProxyCommand of people's own ssh.

One request a connection: a line of JSON to the UNIX socket `s` in the lab's directory, a line of
JSON back, for `socket` with a descriptor (SCM_RIGHTS): a TCP socket that was made inside the
lab's network, to be connected by whoever asked for it.

`python connect.py DIRECTORY ADDRESS` connects to port 22 of ADDRESS and hands the connection to
ssh (ProxyUseFdpass). Standard library alone, and no other file of ours: it starts for every ssh.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import sys
import time
from pathlib import Path

SOCKET = "s"
NETWORK_FAILED = "ip"  # how the keeper's complaint about bridges and cables begins
MAX_REQUEST = 4096  # bytes
MAX_REPLY = 1 << 20  # bytes


def ask(directory: Path, request: dict[str, object], timeout: float = 5.0) -> dict[str, object]:
    """The keeper's answer. OSError when there is no keeper, TimeoutError after `timeout` s."""
    answer, got = _exchange(directory, request, timeout)
    if got is not None:
        got.close()
    return answer


def keeper_pid(directory: Path, timeout: float = 2.0) -> int:
    """The process that listens on the lab's socket, as the kernel says it."""
    with _connected(directory, timeout) as talk:
        return int(
            struct.unpack("3i", talk.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        )


def dial(directory: Path, address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection inside the lab's network."""
    end = time.monotonic() + timeout
    answer, got = _exchange(directory, {"do": "socket"}, timeout)
    if got is None:
        raise OSError(str(answer.get("error", "the keeper sent no socket")))
    try:
        got.settimeout(max(end - time.monotonic(), 0.001))
        got.connect((address, port))
        got.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got.settimeout(None)
    except BaseException:
        got.close()
        raise
    return got


def _connected(directory: Path, timeout: float) -> socket.socket:
    talk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        talk.settimeout(timeout)
        # by way of /proc a path of any length fits into a socket address (108 bytes)
        holder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            talk.connect(f"/proc/self/fd/{holder}/{SOCKET}")
        finally:
            os.close(holder)
    except BaseException:
        talk.close()
        raise
    return talk


def _exchange(
    directory: Path, request: dict[str, object], timeout: float
) -> tuple[dict[str, object], socket.socket | None]:
    end = time.monotonic() + timeout
    with _connected(directory, timeout) as talk:
        talk.sendall(json.dumps(request).encode() + b"\n")
        data, passed = b"", None
        while not data.endswith(b"\n"):
            talk.settimeout(max(end - time.monotonic(), 0.001))
            part, fds, _, _ = socket.recv_fds(talk, 65536, 1)
            for fd in fds:
                passed = socket.socket(fileno=fd)
            data += part
            if not part or len(data) > MAX_REPLY:
                break
    answer = json.loads(data) if data.endswith(b"\n") else {"error": "the keeper hung up"}
    return answer, passed


def command(directory: Path, address: str) -> tuple[str, bool]:
    """The file here as a ProxyCommand, which hands over a descriptor (keys.ssh_config)."""
    # -I -S: nothing of the user's Python setup, and a quick start
    argv = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(directory), address]
    return shlex.join(argv), True


def main(argv: list[str]) -> int:
    directory, address = argv
    try:
        connection = dial(Path(directory), address, 22, 10.0)
    except OSError as error:
        sys.stderr.write(f"lvsfab: the lab's host {address} cannot be reached: {error}\n")
        return 1
    with socket.socket(fileno=os.dup(1)) as out:
        socket.send_fds(out, [b"\0"], [connection.fileno()])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
