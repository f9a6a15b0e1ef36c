"""What was done by whom: JSON lines of each run that can change hosts or take files or packets from
them, on the controller. One before it comes to its hosts, for it may be killed, and one at its end.

The file is its user's alone (0600 in a folder of 0700) and is only ever appended to, a whole line
at a time. Values that look like secrets are masked; of commands only the program's name is in it,
of file contents nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from lvsfab.errors import LvsfabError

SCHEMA = "lvsfab.history/1"
MASK = "***"
MAX_BYTES = 64 * 1024 * 1024  # of the file that are read back, from its end
MAX_WORD = 200  # characters of one word of a command line
CONTENTS = ("content", "data", "text")  # fields of kinds that hold what a file says
_PROGRAM = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
_URL = re.compile(r"(://)[^/@\s]*@")
_SECRET = re.compile(r"pass|secret|token|credential|auth|(^|[^a-z])key([^a-z]|$)", re.IGNORECASE)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `at`: UTC, ISO 8601; `asked`: the words of the command line; `changed`: host ->
    resources, `-` before what was undone; `exit`: the exit code. Of a run that ended before it had
    an outcome no host is in `done`, `failed`, `not_reached` or `returned`; so it is of one that has
    not `ended`, whose `exit` is -1.
    """

    schema: str = SCHEMA
    at: str
    seconds: float
    who: str
    command: str
    asked: list[str]
    inventory: str = ""
    recipe: str = ""
    sets: dict[str, str] = {}
    persist: bool = False
    adopt: bool = False
    skip_unreachable: bool = False
    rollback: bool = False
    changed: dict[str, list[str]] = {}
    done: list[str] = []
    failed: dict[str, str] = {}
    not_reached: list[str] = []
    returned: list[str] = []
    ended: bool = True
    exit: int = 0

    @property
    def left(self) -> tuple[str, ...] | None:
        """The hosts that are not as the run wanted them, those that it brought back among them;
        None: any may be, the run ended before it could say.
        """
        out = dict.fromkeys((*self.failed, *self.not_reached, *self.returned))
        return tuple(out) if out or self.done else None


class Given(NamedTuple):
    """One parameter as it was given: its name, the `option` that it was given by ("": none) and
    its values, each a word.
    """

    name: str
    option: str
    words: Sequence[str] = ()


def asked(command: str, given: Iterable[Given]) -> list[str]:
    """The words of a command line without what may be secret: of what is run on hosts only the
    program's name; no content of a file, no variable, no value whose name looks like a secret.
    """
    found = command.split()
    given = tuple(given)
    scripts = any(parameter.name == "script" for parameter in given)
    for parameter in given:
        words = _shown(command, parameter, scripts=scripts)
        if not parameter.option:
            found += words
        elif not parameter.words:
            found.append(parameter.option)
        else:
            found += [each for word in words for each in (parameter.option, word)]
    return [_URL.sub(rf"\1{MASK}@", word[:MAX_WORD] + "..." * (len(word) > MAX_WORD))
            for word in found]  # fmt: skip


def _shown(command: str, given: Given, *, scripts: bool) -> list[str]:
    if scripts and given.name == "command":  # a script's arguments
        return ["--", "..."] if given.words else []
    if command == "run" and given.name in ("command", "shell"):
        return _program(given)
    if given.name == "env":
        return [f"{word.partition('=')[0]}={MASK}" for word in given.words]
    return [_masked(word) for word in given.words]


def _program(given: Given) -> list[str]:
    """`ip ...` for `ip addr add ...`: what else stands there may hold anything."""
    words = [word for text in given.words for word in text.split()]
    if not words:
        return []
    plain = words[0] if _PROGRAM.fullmatch(words[0]) else MASK
    told = [plain, *(["..."] if len(words) > 1 else [])]
    return [" ".join(told)] if given.option else ["--", *told]


def _masked(word: str) -> str:
    name, equals, value = word.partition("=")
    file = value.startswith("@") and not value.startswith("@@")  # content=@FILE
    hidden = name in CONTENTS and not file
    return f"{name}={MASK}" if equals and (hidden or _SECRET.search(name)) else word


def masked_sets(sets: Mapping[str, str]) -> dict[str, str]:
    return {name: MASK if _SECRET.search(name) else value for name, value in sets.items()}


def append(folder: Path, run: Run) -> None:
    """Add a line. LvsfabError when it cannot be written, or the file is not its user's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(_file(folder), flags, 0o600)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                raise LvsfabError(
                    f"{_file(folder)} is not a file of yours: the run is not recorded"
                )
            if stat.S_IMODE(about.st_mode) & 0o077:
                os.fchmod(handle, 0o600)
            _add(handle, msgspec.json.encode(run) + b"\n")
        finally:
            os.close(handle)
    except OSError as error:
        raise LvsfabError(
            f"the run cannot be recorded: {error}",
            tip="`lvsfab up --resume` does not know of it",
        ) from None


def _add(handle: int, line: bytes) -> None:
    """All of a line or nothing of it. One that a killed run left half is ended first, or the two
    would be one that cannot be read.
    """
    with suppress(OSError):  # a file system without locks: lines are short, and written at once
        fcntl.flock(handle, fcntl.LOCK_EX)
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        while line:
            line = line[os.write(handle, line) :]
    except OSError:
        os.ftruncate(handle, size)
        raise


def read(folder: Path) -> list[Run]:
    """The runs recorded, oldest first; a line that is not whole is passed over, and so is that of a
    run's beginning where its end follows.
    """
    try:
        with _file(folder).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_BYTES))
            lines = file.read(MAX_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LvsfabError(f"the history cannot be read: {error}") from None
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Run))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return _settled(found)


def _settled(lines: Iterable[Run]) -> list[Run]:
    found: list[Run] = []
    ends: set[tuple[str, str, str]] = set()
    for run in reversed(tuple(lines)):
        which = (run.at, run.who, run.command)
        if run.ended:
            ends.add(which)
        elif which in ends:
            ends.remove(which)
            continue
        found.append(run)
    return found[::-1]


def last_up(folder: Path, inventory: str) -> Run | None:
    """The last `up` on this inventory that came to its hosts, unless a `down` came after it."""
    for run in reversed(read(folder)):
        if run.inventory == inventory and run.command in ("down", "lab down"):
            return None
        if run.inventory == inventory and run.command == "up" and run.recipe:
            return run
    return None


def _file(folder: Path) -> Path:
    return folder / "history.jsonl"
