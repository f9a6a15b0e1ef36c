"""What was done by whom: one JSON line for each run that can change hosts, on the controller.

The file is its user's alone (0600 in a folder of 0700) and is only ever appended to, one write a
line. Values that look like secrets are masked; commands and file contents are not in it at all.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lvsfab.errors import LvsfabError

SCHEMA = "lvsfab.run/1"
MASK = "***"
MAX_BYTES = 64 * 1024 * 1024  # of the file that are read back, from its end
MAX_WORD = 200  # characters of one word of a command line
_SECRET = re.compile(r"pass|secret|token|credential|auth|(^|[^a-z])key([^a-z]|$)", re.IGNORECASE)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `at`: UTC, ISO 8601; `asked`: the words of the command line; `changed`: host ->
    resources, `-` before what was undone; `exit`: the exit code.
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
    changed: dict[str, list[str]] = {}
    done: list[str] = []
    failed: dict[str, str] = {}
    not_reached: list[str] = []
    returned: list[str] = []
    exit: int = 0


def masked(words: Sequence[str]) -> list[str]:
    """Command-line words with the values of what looks like a secret masked: `password=x`,
    `--token=x`, `--token x`. A long word (a script) is cut.
    """
    found: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = bool(_SECRET.search(name))
        if hide:
            found.append(MASK)
        elif equals and secret:
            found.append(f"{name[:MAX_WORD]}={MASK}")
        elif len(word) > MAX_WORD:
            found.append(word[:MAX_WORD] + "...")
        else:
            found.append(word)
        hide = not hide and secret and not equals and word.startswith("-")
    return found


def masked_sets(sets: Mapping[str, str]) -> dict[str, str]:
    return {name: MASK if _SECRET.search(name) else value for name, value in sets.items()}


def append(folder: Path, run: Run) -> None:
    """Add a line. LvsfabError when it cannot be written, or the file is not its user's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(_file(folder), flags, 0o600)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                raise LvsfabError(
                    f"{_file(folder)} is not a file of yours: the run is not recorded"
                )
            if stat.S_IMODE(about.st_mode) & 0o077:
                os.fchmod(handle, 0o600)
            os.write(handle, msgspec.json.encode(run) + b"\n")
        finally:
            os.close(handle)
    except OSError as error:
        raise LvsfabError(f"the run cannot be recorded: {error}") from None


def read(folder: Path) -> list[Run]:
    """The runs recorded, oldest first; a line that is not whole is passed over."""
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
        except (msgspec.MsgspecError, ValueError):
            continue
    return found


def last_up(folder: Path, inventory: str) -> Run | None:
    """The last `up` on this inventory, unless a `down` came after it."""
    for run in reversed(read(folder)):
        if run.inventory == inventory and run.command in ("up", "down"):
            return run if run.command == "up" and run.recipe else None
    return None


def _file(folder: Path) -> Path:
    return folder / "history.jsonl"
