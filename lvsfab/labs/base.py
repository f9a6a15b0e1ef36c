"""What every lab backend does, and the values it speaks in. The rest of the house knows labs by
this protocol alone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[str], None]  # one plain line about what is being done, or done


@dataclass(frozen=True, slots=True)
class LabLogin:
    """How to log in to a lab host: always root, with the lab's own key and the pinned host key.
    `host_key` is an OpenSSH public key line ("ssh-ed25519 AAAA..."); `address` is the host's
    management address.
    """

    host: str
    address: str
    port: int
    user: str
    key: Path
    host_key: str


@dataclass(frozen=True, slots=True)
class LabHostStatus:
    """One lab host as it is now. `state`: running, starting, dead or absent. `memory` in MiB
    (as given to its kernel), `resident` in MiB (as used), `since` seconds since it started.
    """

    name: str
    state: str
    kernel: str
    address: str
    memory: int
    resident: int | None
    since: float | None
    ssh: bool
    detail: str = ""


class Lab(Protocol):
    """A lab made from one inventory. Every method may raise LabError."""

    name: str

    def up(self, progress: Progress) -> None:
        """Bring up what is not up, and wait (bounded) until every host answers SSH. Idempotent;
        also the way back after a crash of anything.
        """
        ...

    def down(self, progress: Progress) -> None:
        """Leave nothing: no process, namespace, mount, socket or file. Idempotent."""
        ...

    def running(self) -> bool: ...

    def whole(self) -> bool:
        """Running, and no host of it is dead (one that does not answer may still be alive)."""
        ...

    def status(self) -> tuple[LabHostStatus, ...]: ...

    def reboot(self, host: str, *, keep: bool, progress: Progress) -> None:
        """Power-cycle one host; `keep` its disk, else it comes back pristine. Waits for SSH."""
        ...

    def log(self, host: str) -> Path:
        """The file that holds the host's console output."""
        ...

    def login(self, host: str) -> LabLogin: ...

    def dial(self, host: str, timeout: float) -> socket.socket:
        """A connected TCP socket to the host's SSH server, wherever its network lives."""
        ...

    def ssh_config(self) -> str:
        """An ssh_config(5) by which people's own ssh reaches every host by name."""
        ...
