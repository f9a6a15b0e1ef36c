"""A host that speaks SSH against its rules is unreachable, like any other that cannot be used; it
costs neither memory nor the run of the others.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest

from lvsfab.errors import UnreachableError
from lvsfab.model import Secret
from lvsfab.session import Shell
from lvsfab.transports import bounded, ssh
from lvsfab.transports.endpoint import Endpoint


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does `serve` with each connection."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                serve(connection)
                done.wait(20)

        def accept() -> None:
            while not done.is_set():
                with suppress(TimeoutError):
                    connection, _ = server.accept()
                    threading.Thread(target=one, args=[connection], daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            thread.join(5)


def packet(payload: bytes) -> bytes:
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    head = struct.pack(">IB", 1 + len(payload) + padding, padding)
    return head + payload + bytes(padding)


NO_TEXT = struct.pack(">I", 4) + b"\xff\xfe\xff\xff"
SAID = {
    "no packet": (packet(b""), "IndexError"),
    "no text in KEXINIT": (packet(b"\x14" + bytes(16) + NO_TEXT), "UnicodeDecodeError"),
    "no text in DISCONNECT": (
        packet(b"\x01" + struct.pack(">I", 2) + NO_TEXT + struct.pack(">I", 0)),
        "UnicodeDecodeError",
    ),
    "half a KEXINIT": (packet(b"\x14" + bytes(16)), "no acceptable kex"),
    "a length of 4 GiB": (struct.pack(">I", 0xFFFFFFF4) + bytes(100), "a packet of 42949672"),
}


@pytest.mark.parametrize(("said", "told"), SAID.values(), ids=SAID.keys())
def test_ssh_that_is_none_is_an_unreachable_host(said: bytes, told: str) -> None:
    with (
        listening(lambda sock: sock.sendall(b"SSH-2.0-x\r\n" + said)) as port,
        pytest.raises(UnreachableError, match=told) as raised,
    ):
        ssh.connect(Endpoint("bad", "127.0.0.1", port=port, user="u", connect_timeout=5.0))
    assert str(raised.value).startswith(f"bad: no SSH connection to 127.0.0.1 port {port}: ")


class Server(paramiko.ServerInterface):
    """`shell`: what it does with a command's channel."""

    def __init__(self, shell: Callable[[Any], None]) -> None:
        self._shell = shell

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        del username, key
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[attr-defined,no-any-return,unused-ignore]

    def get_allowed_auths(self, username: str) -> str:
        del username
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        del kind, chanid
        return paramiko.OPEN_SUCCEEDED  # type: ignore[attr-defined,no-any-return,unused-ignore]

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        del command
        threading.Thread(target=self._shell, args=[channel], daemon=True).start()
        return True


def test_a_host_that_sends_beyond_its_window_is_left(tmp_path: Path) -> None:
    """Nobody reads a shell while other hosts have their turn."""
    key, host_key, sent = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate(), [0]
    key.write_private_key_file(str(tmp_path / "key"))

    def flood(channel: Any) -> None:
        channel.out_window_size = 1 << 40
        with suppress(OSError, EOFError):
            while sent[0] < 40 << 20:
                sent[0] += channel.send(bytes(30_000))

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(host_key)
        transport.start_server(server=Server(flood))
        transport.join(20)

    known = f"{host_key.get_name()} {host_key.get_base64()}"
    with listening(serve) as port:
        login = Endpoint(
            "bad", "127.0.0.1", port=port, user="u", key=tmp_path / "key", host_key=known
        )
        with pytest.raises(UnreachableError):  # there and then, if it is as quick as that
            channel = ssh.connect(login)
            transport, ends = channel._channel.get_transport(), time.monotonic() + 10
            while transport.is_active() and time.monotonic() < ends:
                time.sleep(0.02)
            with closing(Shell("bad", channel)) as shell:
                shell.run("rec x true", timeout=5)
    assert sent[0] < 4 * bounded.MAX_UNREAD


PASSWORD = Secret("Canary-pässword")


class Sudo:
    """A channel whose sudo asks for the password, and says it back."""

    def __init__(self, says: Callable[[bytes], bytes]) -> None:
        self._read, self._write = os.pipe()
        self._says, self._error = says, b""
        self.eof_received = self.closed = False

    def fileno(self) -> int:
        return self._read

    def exec_command(self, command: str) -> None:
        self._error = command.split("'")[1].encode()
        os.write(self._write, b"x")

    def recv_stderr_ready(self) -> bool:
        return bool(self._error)

    def recv_stderr(self, number: int) -> bytes:
        del number
        said, self._error = self._error, b""
        return said

    def recv_ready(self) -> bool:
        return False

    def sendall(self, data: bytes) -> None:
        self._error, self.eof_received = self._says(data), True

    def end(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.mark.parametrize("says", [
    lambda word: b"echo: " + word,
    lambda word: word.strip() + b"x" * 494,  # what is shown begins within it
    lambda word: word * 20,
])  # fmt: skip
def test_a_sudo_password_that_a_host_says_back_is_shown_to_nobody(
    says: Callable[[bytes], bytes],
) -> None:
    """Not by the error, and not by what -v prints of it."""
    channel = Sudo(says)
    try:
        with pytest.raises(UnreachableError, match=r"\*\*\*|xxx") as raised:
            ssh._by_sudo("h", channel, PASSWORD, 5)
    finally:
        channel.end()
    shown = "".join(traceback.format_exception(raised.value)) + str(raised.value)
    for part in ("Canary", "pä", "ässword", "\\xc3"):
        assert part not in shown
