"""Files that their user names, or that those name: read whole, but never more than is said."""

from __future__ import annotations

import stat
from glob import escape, glob
from pathlib import Path

from lvsfab.errors import InputError

MAX_BYTES = 4 * 1024 * 1024
MAX_LINE = 16 * 1024  # shlex takes the square of a word's length: 78 s for one of 1 MB
MAX_FILES = 1024  # that one ssh_config includes, and how often it does; what all come to:
MAX_SUM = 4 * MAX_BYTES
_GIVEN = {Path("/dev/fd"), Path("/proc/self/fd")}


def content(path: Path, most: int = MAX_BYTES, *, given: bool = False) -> bytes:
    """A file, whole. InputError when it is larger than `most`, or is a device or a FIFO, which may
    have no end. `given`: on the command line, where `<(...)` and /dev/stdin are as good as files.
    """
    try:
        mode = path.stat().st_mode
        ends = stat.S_ISREG(mode) or stat.S_ISDIR(mode)  # to open a directory says what is wrong
        handed = given and (path.parent in _GIVEN or path == Path("/dev/stdin"))
        if not ends and not handed:  # to open a FIFO would wait
            raise InputError("is no regular file", path=path)
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    except ValueError as error:  # a NUL in its name
        raise InputError(f"cannot be read: {error}", path=path) from None
    if len(found) > most:
        raise InputError(f"larger than {most} bytes", path=path)
    return found


def home(text: str) -> Path:
    """A path as people write it, with `~` and `~user`."""
    try:
        path = Path(text).expanduser()
    except (RuntimeError, ValueError):
        raise InputError(f"`{text}`: nobody knows that home directory") from None
    if "\0" in text:
        raise InputError(f"`{text}` has a NUL in it")
    return path


class Reading:
    """An ssh_config and all that it includes: one that includes itself twice doubles 16 times."""

    def __init__(self) -> None:
        self._files = self._sum = self._includes = 0

    def included(self, pattern: str, by: Path, line: int) -> list[tuple[Path, list[str]]]:
        """The files that Include means, with their lines; its last name may be a pattern."""
        self._includes += 1
        if self._includes > MAX_FILES:
            raise InputError(f"more than {MAX_FILES} times Include", path=by, line=line)
        try:
            base = by.parent / home(pattern)
            # Path.glob takes fewer patterns than ssh, and raises for the others
            found = glob(f"{escape(str(base.parent))}/{base.name}")  # noqa: PTH207
            files = [path for path in map(Path, sorted(found)) if not path.is_dir()]
            return [(path, self.lines(path)) for path in files]
        except InputError as error:
            raise InputError(str(error), path=by, line=line) from None

    def lines(self, path: Path, *, given: bool = False) -> list[str]:
        raw = content(path, given=given)
        self._files += 1
        self._sum += len(raw)
        if self._files > MAX_FILES or self._sum > MAX_SUM:
            raise InputError(f"beyond {MAX_FILES} files or {MAX_SUM} bytes by Include", path=path)
        return lines(raw.decode(errors="replace"), path)


def lines(text: str, path: Path) -> list[str]:
    found = text.splitlines()
    for number, line in enumerate(found, 1):
        if len(line) > MAX_LINE:
            raise InputError(f"a line longer than {MAX_LINE}", path=path, line=number)
    return found
