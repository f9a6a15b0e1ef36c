"""Bounded waits of the lab: for SSH to greet, for something to come true. tenacity is loaded where
there is something to wait for: it brings asyncio, and tornado where that is installed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lvsfab.labs import connect, keys

T = TypeVar("T")

STOP_WAIT = 60  # seconds for a host to power off in order: systemd gives a service up to 90
CUT = f"did not power off in {STOP_WAIT} s; its power is cut"
CONNECT_WAIT = 0.5  # seconds: a host that boots drops what it cannot yet hear; ask again soon


def banner(directory: Path, address: str, timeout: float) -> str:
    """Why the SSH server at `address` in the lab does not greet; "" when it does."""
    return greeting(lambda wait: connect.dial(directory, address, keys.PORT, wait), timeout)


def greeting(dial: Callable[[float], socket.socket], timeout: float) -> str:
    """Why what `dial(seconds)` connects to does not greet as an SSH server; "" when it does."""
    try:
        with dial(min(timeout, CONNECT_WAIT)) as talk:
            talk.settimeout(timeout)
            said = talk.recv(256)
    except OSError as error:
        return str(error)
    return "" if said.startswith(b"SSH-2.0-") else f"it says {said!r}"


def answers(look: Callable[[], str], timeout: float) -> str:
    """Ask `look` until it says "" or "dead", or `timeout` seconds are over; the last it said."""
    from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

    looking = Retrying(
        retry=retry_if_result(lambda why: why not in ("", "dead")),
        stop=stop_after_delay(max(timeout, 0)),
        wait=wait_fixed(0.04),
    )
    try:
        return str(looking(look))
    except RetryError as error:
        return f"no SSH after {timeout:.0f} s: {error.last_attempt.result()}"


def until(done: Callable[[], bool], timeout: float) -> bool:
    """Whether `done` became true within `timeout` seconds."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

    waiting = Retrying(
        retry=retry_if_result(lambda result: not result),
        stop=stop_after_delay(timeout),
        wait=wait_fixed(0.05),
        retry_error_callback=lambda _: False,
    )
    return bool(waiting(done))


def in_parallel(work: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    listed = list(names)
    with ThreadPoolExecutor(min(len(listed), 32) or 1) as pool:
        return dict(zip(listed, pool.map(work, listed), strict=True))
