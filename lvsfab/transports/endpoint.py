"""Where and how to log in to one host: a value that every transport takes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lvsfab.model import Secret


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`host_key`: its pinned public key ("ssh-ed25519 AAAA..."); empty: known_hosts decides.
    `sudo`: the shell is root's; `sudo_password` is what sudo is told if it asks, None: nothing.
    `connect_timeout`: seconds for TCP, key exchange and login together; None: as usual.
    `dial`: gives a connected socket where the host is not reachable directly (lab networks).
    """

    name: str
    address: str
    port: int | None = None
    user: str = ""
    key: Path | None = None
    host_key: str = ""
    sudo: bool = False
    sudo_password: Secret | None = None
    connect_timeout: float | None = None
    dial: Callable[[float], socket.socket] | None = None
