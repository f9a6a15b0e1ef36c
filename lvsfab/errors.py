"""Every error lvsfab raises on purpose, by whose fault it is.

One root, `LvsfabError`; each leaf has the exit code that the command line ends with (`exit_code`)
and, where there is one, a `tip`: the next thing for a person to do.
"""

from __future__ import annotations

from pathlib import Path


class LvsfabError(Exception):
    """Root of the house's errors. `str(error)` is a sentence for a person."""

    exit_code = 1

    def __init__(self, message: str, *, tip: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.tip = tip


class InputError(LvsfabError):
    """What the author wrote is wrong: inventory, recipe, parameter, target. No host was touched.

    `path`, `line` (1-based) and `key` (dotted) say where, as far as they are known.
    """

    exit_code = 64

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        key: str = "",
        tip: str = "",
    ) -> None:
        super().__init__(message, tip=tip)
        self.path = path
        self.line = line
        self.key = key

    def __str__(self) -> str:
        place = str(self.path) if self.path is not None else ""
        if self.line is not None:
            place += f":{self.line}"
        parts = [part for part in (place, self.key, self.message) if part]
        return ": ".join(parts)


class HostError(LvsfabError):
    """Something about one host; `host` is its inventory name."""

    def __init__(self, host: str, message: str, *, tip: str = "") -> None:
        super().__init__(message, tip=tip)
        self.host = host

    def __str__(self) -> str:
        return f"{self.host}: {self.message}"


class UnreachableError(HostError):
    """The network's fault: no connection, a refused or changed host key, a link that dropped.

    `output`: what an unfinished command had printed by then.
    """

    exit_code = 4
    output = ""


class CommandError(HostError):
    """A command on a host failed, or did not bring the state it was to bring.

    `command` is what ran (as a person would type it), `status` its exit status, `output` what it
    printed (both streams).
    """

    exit_code = 5

    def __init__(
        self,
        host: str,
        message: str,
        *,
        command: str = "",
        status: int | None = None,
        output: str = "",
        tip: str = "",
    ) -> None:
        super().__init__(host, message, tip=tip)
        self.command = command
        self.status = status
        self.output = output

    def __str__(self) -> str:
        text = super().__str__()
        if self.command:
            text += f"\n  command: {self.command}"
        if self.status is not None:
            text += f"\n  exit status: {self.status}"
        if self.output.strip():
            lines = self.output.strip().splitlines()[-20:]
            text += "\n  output: " + "\n          ".join(lines)
        return text


class AnswerError(CommandError):
    """What a host answered cannot be read: its shell is of no more use, another may be."""


class CutOffError(CommandError):
    """A change cut this controller off, and the host undid it by itself."""


class ConflictError(LvsfabError):
    """What somebody else put on a host is in the way of the recipe; nothing was changed."""


class LockedError(HostError):
    """Another controller is changing the host; the message names it."""

    exit_code = 1


class LabError(LvsfabError):
    """The lab could not do what it was asked (build, boot, network)."""
