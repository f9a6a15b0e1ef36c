"""What to run on each host, and what came of it: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lvsfab.errors import CommandError, InputError, UnreachableError

MAX_SENT = 64 * 1024 * 1024  # bytes of a script or of standard input; `lvsfab put` takes more
MAX_TIMEOUT = 365 * 86400.0  # s; and what stands for none: waits take no infinity
TIMED_OUT = 124  # exit status that stands for a time-out, as timeout(1) has it


@dataclass(frozen=True, slots=True)
class Task:
    """One of `argv` (quoted by construction), `shell` (text for `sh -c`) or `script` (a file's
    content, run by what its first line names, else sh; `argv` are its arguments).

    `stdin`: what it reads; None: nothing. `cwd`, `env`: where and with what. `timeout`: seconds
    on each host, then it is stopped there; 0: none. `shown`: how a person would name it.
    """

    argv: tuple[str, ...] = ()
    shell: str | None = None
    script: bytes | None = None
    stdin: bytes | None = None
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 0.0
    shown: str = ""

    def __post_init__(self) -> None:
        if (self.shell is not None) + (self.script is not None) > 1:
            raise InputError("a shell text or a script, not both")
        if self.shell is not None and self.argv:
            raise InputError("a shell text takes no further words")
        if self.shell is None and self.script is None and not self.argv:
            raise InputError("nothing to run", tip="lvsfab run TARGET -- COMMAND...")
        if not 0 <= self.timeout <= MAX_TIMEOUT:  # nan and inf are not either
            raise InputError(f"`{self.timeout:g}`: seconds, 0 for no limit", key="--timeout")
        for name in self.env:
            if not name.replace("_", "a").isalnum() or name[0].isdigit() or not name.isascii():
                raise InputError(f"`{name}` is no name of an environment variable", key="--env")
        for text in (*self.argv, self.shell or "", self.cwd, *self.env.values()):
            if "\0" in text:
                raise InputError("a NUL byte cannot be in a command")
        for data in (self.script, self.stdin):
            if data is not None and len(data) > MAX_SENT:
                raise InputError(
                    f"more than {MAX_SENT >> 20} MiB cannot be sent with a command",
                    tip="lvsfab put sends files of any size",
                )


def content(path: Path) -> bytes:
    """A file that is sent with a command: whole, or more than Task takes (/dev/zero has no end)."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_SENT + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"  # its command ended with another status than 0, or timed out
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"  # by Ctrl-C
    NOT_RUN = "not_run"  # the run ended before its turn


@dataclass(frozen=True, slots=True)
class HostResult:
    """How it went on one host. `status`: the exit status, None where there is none; `output`:
    both streams as they came; `error`: why, where it is not the command's own exit status;
    `seconds` from the first byte to the last; `changes`: of states, how many were made.
    """

    host: str
    state: State
    status: int | None = None
    output: str = ""
    error: str = ""
    tip: str = ""
    seconds: float = 0.0
    changes: int = 0


def exit_code(results: Mapping[str, HostResult]) -> int:
    """0 only if all succeeded; 4 when a host was unreachable, else 5; 130 when it was stopped."""
    states = {result.state for result in results.values()}
    if State.STOPPED in states:
        return 130
    if State.UNREACHABLE in states:
        return UnreachableError.exit_code
    return CommandError.exit_code if states & {State.FAILED, State.NOT_RUN} else 0
