"""A channel to a shell on this machine: readers and commands run for real, without a network."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile

import pytest

SHELLS = {"bash": ["bash", "-s"], "busybox": ["busybox", "ash", "-s"], "dash": ["dash", "-s"]}


def shell_argv(name: str) -> list[str]:
    """How one of SHELLS is begun; skips, and says what to do, where it is not installed."""
    argv = SHELLS[name]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed here; as root: apt-get install {argv[0]}")
    return argv


@contextmanager
def _open() -> Iterator[None]:
    """A stream that was closed, here or by another thread, as a channel says it."""
    try:
        yield
    except ValueError as error:
        raise ConnectionResetError("the channel is closed") from error


class LocalChannel:
    """`argv` (a shell that reads its script from standard input), as `session.Channel`."""

    def __init__(self, argv: Sequence[str] = ("dash", "-s")) -> None:
        self._errors = TemporaryFile()  # noqa: SIM115  (closed with the channel)
        self.process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    def send(self, data: bytes, timeout: float) -> None:
        del timeout  # a shell of ours reads what it is sent
        assert self.process.stdin is not None
        with _open():
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def recv(self, timeout: float) -> bytes:
        assert self.process.stdout is not None
        with _open():
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            if not ready:
                raise TimeoutError(f"nothing within {timeout} s")
            return os.read(self.process.stdout.fileno(), 65536)

    def stderr(self) -> bytes:
        self._errors.seek(0)
        return self._errors.read(65536)

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not sent when the shell ended
                    stream.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.close()
