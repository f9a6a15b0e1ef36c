"""A running lab's directory: where it is, who may be in it, and whose process keeps the lab.

DIRECTORY/NAME is one lab: `s` the keeper's socket, `keeper` its pid and identity, `spec` what it
runs, `key` and `known_hosts` for SSH, `console/HOST.log`. All of it dies with the lab.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lvsfab.errors import LabError

LOCK_WAIT = 120.0  # seconds: a first `up` that another lvsfab is busy with


def places() -> tuple[Path, ...]:
    """Where this user's labs may be kept, the best first; the last one is always possible."""
    uid = os.geteuid()
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [Path(given) / "lvsfab"] if given.startswith("/") else []
    return (*found, Path(f"/run/user/{uid}/lvsfab"), Path(f"/tmp/lvsfab-{uid}"))  # noqa: S108 - see `secure`


def base_directory() -> Path:
    """$XDG_RUNTIME_DIR/lvsfab, else the like of it for a login without one; made, 0700, ours."""
    *preferred, last = places()
    return secure(next((place for place in preferred if _ours(place.parent)), last))


def lab_directory(name: str, backend: str, base: Path | None = None) -> Path:
    """One lab's directory. `base` takes the place of the user's own."""
    base = base if base is not None else base_directory()
    return base / (f"{name}.docker" if backend == "docker" else name)  # no lab's name has a dot


def secure(directory: Path) -> Path:
    """Make `directory` if need be; LabError unless it is a directory of ours alone.
    FileNotFoundError when it, or the one above it, is taken away meanwhile.
    """
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    directory.lstat()
    if not _ours(directory):
        raise LabError(
            f"{directory} is not a directory that belongs to you alone (mode 0700)",
            tip=f"look who made it: ls -ld {directory}",
        )
    return directory


def _ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
        and os.access(directory, os.W_OK)
    )


@contextmanager
def locked(directory: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold the lab's lock, making its directory if it is not there; `shared` with others that do
    nothing but reboot a host. Gives the descriptor that holds it: a child that inherits it goes on
    holding it.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    waiting = Retrying(
        retry=retry_if_exception_type((BlockingIOError, _MovedError)),
        stop=stop_after_delay(LOCK_WAIT),
        wait=wait_fixed(0.05),
        reraise=True,
    )
    try:
        fd = waiting(_lock, directory, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except (BlockingIOError, _MovedError) as error:
        raise LabError(
            f"another lvsfab has been busy with the lab {directory.name} for {LOCK_WAIT:.0f} s",
            tip=f"see who: fuser -v {directory}",
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


class _MovedError(Exception):
    """The directory was taken away between its opening and its locking."""


def _lock(directory: Path, how: int) -> int:
    try:
        secure(directory.parent)
        secure(directory)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _MovedError from error
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            now = directory.stat()
            if (now.st_dev, now.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
                return fd
        raise _MovedError  # noqa: TRY301 - the descriptor is closed in one place
    except BaseException:
        os.close(fd)
        raise


def clean(directory: Path, *, itself: bool) -> None:
    """Remove all that is in a lab's directory; `itself`: the directory too, and the common one
    above it when this was the last lab.
    """
    for entry in list(directory.iterdir()) if directory.is_dir() else []:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    if itself:
        with suppress(OSError):
            directory.rmdir()
            directory.parent.rmdir()


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for another: a pid alone is used again. `start` in clock
    ticks after `boot` (proc(5), /proc/PID/stat field 22; /proc/sys/kernel/random/boot_id).
    """

    pid: int
    start: int
    boot: str

    def text(self) -> str:
        return json.dumps([self.pid, self.start, self.boot])


def parse_identity(text: str) -> Identity | None:
    try:
        pid, start, boot = json.loads(text)
        return Identity(int(pid), int(start), str(boot))
    except (ValueError, TypeError):
        return None


def start_ticks(stat_line: str) -> int:
    """When the process started, from the text of /proc/PID/stat (its second field, the name, may
    hold blanks and parentheses).
    """
    return int(stat_line.rpartition(")")[2].split()[19])


def identity(pid: int) -> Identity | None:
    """Who `pid` is now; None when there is no such process (a zombie is none)."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    if line.rpartition(")")[2].split()[0] in "ZX":
        return None
    return Identity(pid, start_ticks(line), boot)


def recorded_keeper(directory: Path) -> Identity | None:
    """The keeper named in the lab's directory, if that very process still lives."""
    try:
        known = parse_identity((directory / "keeper").read_text())
    except OSError:
        return None
    return known if known is not None and identity(known.pid) == known else None


def end(who: Identity, number: signal.Signals, timeout: float) -> bool:
    """Send the signal to that very process and wait for its end; whether it ended in `timeout`
    seconds.
    """
    try:
        holder = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return True
    try:
        if identity(who.pid) != who:  # the pid is somebody else's by now
            return True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(holder, number)
        return wait_end(holder, timeout)
    finally:
        os.close(holder)


def wait_end(pidfd: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))
