"""paramiko within bounds: what it would read and keep of a host that keeps to no limit of SSH."""

from __future__ import annotations

from typing import Any

from paramiko import SSHException
from paramiko.buffered_pipe import BufferedPipe
from paramiko.packet import Packetizer

MAX_PACKET = 256 * 1024  # bytes; RFC 4253, 6.1 asks for 35000, and the length may say 4 GiB
MAX_UNREAD = 4 * 1024 * 1024  # bytes of a stream; the window that a host is given is the half


class BoundedPackets(Packetizer):
    """Refuses a packet by its length, which comes first, before anybody has logged in."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if n > MAX_PACKET:
            raise SSHException(f"the host sends a packet of {n} bytes")
        return super().read_all(n, check_rekey)


class _Pipe(BufferedPipe):  # type: ignore[type-arg]  # generic in the stubs alone
    def feed(self, data: bytes | str) -> None:
        if len(self) > MAX_UNREAD:
            raise SSHException("the host sends more than it was given room for")
        super().feed(data)


def bound(channel: Any) -> None:
    """Of a channel that nothing has come on: paramiko holds no host to its window."""
    channel.in_buffer, channel.in_stderr_buffer = _Pipe(), _Pipe()
