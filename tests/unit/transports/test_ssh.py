"""A channel ends when its time is over, whatever the host does with what it is sent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from paramiko import SSHException

from lvsfab.transports import ssh
from lvsfab.transports.ssh import MAX_STDERR, SSHChannel


class Host:
    """What paramiko's channel is to ours. `take`: how many bytes of these it takes, in its time."""

    def __init__(self, take: Callable[[Host, bytes], int]) -> None:
        self._take = take
        self.closed = threading.Event()
        self.taken = bytearray()
        self.timeout = 0.0

    def settimeout(self, timeout: float) -> None:
        self.timeout = timeout

    def send(self, data: bytes) -> int:
        number = self._take(self, data)
        self.taken += data[:number]
        return number

    def close(self) -> None:
        self._take(self, b"close")

    def shutdown_write(self) -> None:
        self._take(self, b"eof")

    def recv(self, number: int) -> bytes:
        del number
        raise SSHException("Key-exchange timed out")

    def recv_stderr_ready(self) -> bool:
        return True

    def recv_stderr(self, number: int) -> bytes:
        return b"x" * number

    def channel(self) -> SSHChannel:
        return SSHChannel(self.closed.set, cast("Any", self))


def a_byte_now_and_then(host: Host, data: bytes) -> int:
    """A window that is opened by one byte, each time before the channel's own time is over."""
    time.sleep(min(0.1, host.timeout * 0.9))
    return 1


def stuck(host: Host, data: bytes) -> int:
    """TCP takes nothing: paramiko tries again until the connection is closed on our side."""
    assert host.closed.wait(30)
    raise EOFError


def lost(host: Host, data: bytes) -> int:
    raise SSHException("lost")


def parts(host: Host, data: bytes) -> int:
    return min(len(data), 1000)


def test_all_is_sent_in_whatever_parts() -> None:
    host, data = Host(parts), bytes(range(256)) * 1000
    host.channel().send(data, 10)
    assert host.taken == data
    assert not host.closed.is_set()


@pytest.mark.parametrize("take", [a_byte_now_and_then, stuck])
def test_sending_ends_when_its_time_is_over(take: Callable[[Host, bytes], int]) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Host(take).channel().send(b"x" * 100_000, 0.5)
    assert 0.4 < time.monotonic() - began < 3


def test_a_host_that_takes_nothing_cannot_keep_us_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lvsfab.transports.ssh.END_TIMEOUT", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Host(stuck).channel().end_input()
    Host(stuck).channel().close()
    assert time.monotonic() - began < 3


def test_paramikos_own_errors_are_a_lost_link() -> None:
    with pytest.raises(ConnectionError, match="lost"):
        Host(lost).channel().send(b"x", 1)
    with pytest.raises(ConnectionError, match="Key-exchange"):
        Host(lost).channel().recv(1)


def test_errors_without_end_keep_nobody() -> None:
    assert len(Host(parts).channel().stderr()) == MAX_STDERR


def test_a_host_that_is_gone_is_seen_in_90_s() -> None:
    """A command may take as long as it likes: nothing else would see it for two hours."""
    with socket.socket() as sock:
        ssh.lively(sock)
        idle, between, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + between * count == 90
