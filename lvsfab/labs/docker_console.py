"""What a Docker lab's host said, and how it ended: the engine's log of its container, and what was
kept of containers that came before it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs.docker_engine import asking
from lvsfab.labs.docker_objects import Objects

LAST_LINES = 15  # of a dead host's console


@dataclass(frozen=True, slots=True)
class Console:
    """The consoles of one lab's hosts."""

    objects: Objects

    def file(self, host: str) -> Path:
        """All that is known of the host's console, written anew."""
        now, old = self._path(host, ""), self._path(host, ".old")
        now.write_bytes((old.read_bytes() if old.exists() else b"") + self._said(host))
        return now

    def keep(self, host: str) -> None:
        """Before its container is made anew."""
        with suppress(LabError):
            if said := self._said(host):
                with self._path(host, ".old").open("ab") as old:
                    old.write(said)

    def end(self, host: str) -> str:
        """How a host that does not run ended, and its last words."""
        state = self._state(host)
        if state is None:
            return "its container was removed"
        return f"{ended(state)}\n{self.last_lines(host)}"

    def kernel_died(self, host: str) -> bool:
        """Whether what ended a host that does not run was its own kernel's death."""
        state = self._state(host)
        return state is not None and kernel_died(state)

    def _state(self, host: str) -> dict[str, Any] | None:
        there = self.objects.containers().get(host)
        if there is None:
            return None
        with asking(f"{host}: looking at its container"):
            found: dict[str, Any] = self.objects.engine.api.inspect_container(there["Id"])["State"]
        return found

    def last_lines(self, host: str) -> str:
        lines = self._said(host).decode(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(f"  {line.rstrip()}" for line in lines) or "  (no console output)"

    def _said(self, host: str) -> bytes:
        with asking(f"{host}: reading its console"):
            there = self.objects.containers().get(host)
            return bytes(self.objects.engine.api.logs(there["Id"])) if there is not None else b""

    def _path(self, host: str, suffix: str) -> Path:
        directory = self.objects.directory / "console"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory / f"{host}.log{suffix}"


def ended(state: dict[str, Any]) -> str:
    """How a container ended, by the engine's word on its state."""
    code = int(state.get("ExitCode", 0))
    text = f"signal {code - 128}" if code > 128 else f"exit status {code}"
    if state.get("OOMKilled"):
        text += ", out of memory"
    return f"{text}: {state['Error']}" if state.get("Error") else text


def kernel_died(state: dict[str, Any]) -> bool:
    """Whether a User-Mode kernel died by a signal, or gave up by itself (exit status 1). Other
    failures are docker/entrypoint's; and of memory no other way to run would make more.
    """
    code = int(state.get("ExitCode", 0))
    return (code == 1 or code > 128) and not (state.get("OOMKilled") or state.get("Error"))


def age(since: str, now: datetime) -> float:
    """Seconds since an engine's time stamp (RFC 3339 with nanoseconds), 0 at least."""
    started = datetime.fromisoformat(since[:19]).replace(tzinfo=UTC)
    return max((now - started).total_seconds(), 0.0)
