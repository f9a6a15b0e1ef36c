"""The user's cache: things that take long to make, made once, whole or not at all.

An entry is a directory KIND-KEY, KEY a hash of everything it was made from. It is made in a
sibling with another name and renamed into place when its completeness mark is on the disk: a
build that is killed leaves a sibling that the next builder removes, never half an entry. Builders
of one kind wait for each other (flock: the system releases it, however a builder ends). Whoever
runs from an entry holds it with `use`, and `prune` spares what is held.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lvsfab.errors import LabError
from lvsfab.labs.base import Progress

if TYPE_CHECKING:
    import tenacity

MARK = "complete.json"  # in an entry: what it was made from; written last
LOCK_WAIT = 1200.0  # seconds; the longest build on a slow machine, and then some
_HELD = "held"  # in an entry: the file that users hold a shared lock on


def root() -> Path:
    """The cache directory, made if need be. What is in it gets run, so others may not write it."""
    own = os.environ.get("LVSFAB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = (Path(own) if own else Path(base) / "lvsfab").expanduser().absolute()
    tip = "set LVSFAB_CACHE to a directory of your own with 2 GB free"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        why = error.strerror
        raise LabError(f"the cache directory {path} cannot be used: {why}", tip=tip) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LabError(f"the cache directory {path} cannot be used: others may write it", tip=tip)
    return path


def key(*inputs: str) -> str:
    """One name for all that an entry is made from; the boundaries between inputs count."""
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def find(kind: str, name: str) -> Path | None:
    """The complete entry of that kind and key, or None."""
    path = root() / f"{kind}-{name}"
    return path if (path / MARK).is_file() else None


def facts(entry: Path) -> dict[str, str]:
    """What the builder noted about a complete entry."""
    noted = json.loads((entry / MARK).read_text())
    return {str(name): str(value) for name, value in noted.items()}


def build(
    kind: str,
    name: str,
    make: Callable[[Path], Mapping[str, str]],
    progress: Progress,
    *,
    wait: float = LOCK_WAIT,
) -> Path:
    """The entry KIND-NAME, made by `make(directory)` if it is not there yet.

    `make` fills the directory and returns facts to note about it; when it raises, nothing stays.
    Waits `wait` seconds at most for another builder of this kind; LabError after that.
    """
    done = find(kind, name)
    if done is not None:
        return done
    with lock(kind, progress, wait=wait):
        done = find(kind, name)
        if done is not None:
            return done
        _sweep(kind)
        space = Path(tempfile.mkdtemp(prefix=f".making-{kind}-", dir=root()))
        try:
            noted = make(space)
            _seal(space, noted)
            place = root() / f"{kind}-{name}"
            remove(place)  # an entry without its mark: not ours to trust
            space.rename(place)
        except BaseException:
            remove(space)
            raise
        _sync(root())
        return place


@contextmanager
def lock(kind: str, progress: Progress, *, wait: float = LOCK_WAIT) -> Iterator[None]:
    """Hold the lock of one kind of entry, waiting `wait` seconds at most and saying for whom."""
    path = root() / f"{kind}.lock"
    with path.open("a+") as file:
        _acquire(file.fileno(), path, kind, progress, wait)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _acquire(fd: int, path: Path, kind: str, progress: Progress, wait: float) -> None:
    def told(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            progress(f"waiting for process {owner()} that is making the {kind}")

    def owner() -> str:
        return path.read_text().strip() or "(unknown)"

    import tenacity

    try:
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BlockingIOError),
            stop=tenacity.stop_after_delay(wait),
            wait=tenacity.wait_fixed(0.2),
            before_sleep=told,
            reraise=True,
        )(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LabError(
            f"process {owner()} has been making the {kind} for over {wait:.0f} s",
            tip=f"wait for it or end it (kill {owner()}), then try again",
        ) from error


@contextmanager
def use(entry: Path) -> Iterator[None]:
    """Keep `prune` off an entry while something runs from it."""
    with ExitStack() as stack:
        if entry.is_dir():
            file = stack.enter_context((entry / _HELD).open("a"))
            fcntl.flock(file, fcntl.LOCK_SH)
        if not (entry / MARK).is_file():  # it may have gone while we waited for the lock
            raise LabError(f"{entry} is not in the cache any more", tip="lvsfab lab build")
        yield


def prune(kind: str, keep: str) -> tuple[Path, ...]:
    """Remove the kind's entries other than KIND-`keep` that nobody holds; returns those."""
    with lock(kind, lambda _: None):
        _sweep(kind)
        others = sorted(
            entry
            for entry in root().glob(f"{kind}-" + "[0-9a-f]" * 16)
            if entry.name != f"{kind}-{keep}"
        )
        return tuple(entry for entry in others if _remove_unheld(entry))


def remove(path: Path) -> None:
    """Remove a tree of ours, whatever its modes; a tree that is not there is fine."""
    if not path.is_dir():
        return
    doomed = path
    if not path.name.startswith(".making-"):  # so that half a removal is no entry either
        kind = path.name.rpartition("-")[0]
        doomed = path.with_name(f".making-{kind}-{os.getpid()}-{time.monotonic_ns()}")
        path.rename(doomed)
    for directory, names, _ in os.walk(doomed):  # some packages' directories lack u+w
        for name in names:
            inner = Path(directory) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(doomed)


def _sweep(kind: str) -> None:
    """What interrupted builders left; the caller holds the kind's lock, so nobody is at it."""
    for left in root().glob(f".making-{kind}-*"):
        remove(left)


def _remove_unheld(entry: Path) -> bool:
    try:
        with (entry / _HELD).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(entry)
    except BlockingIOError:
        return False
    return True


def _seal(space: Path, noted: Mapping[str, str]) -> None:
    """The contents on the disk first, then the mark, then (the caller) the name."""
    _sync(space)
    with (space / MARK).open("w") as file:
        json.dump(dict(noted), file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """One file system's dirty pages; far quicker than fsync of 15,000 files."""
    try:
        subprocess.run(["sync", "-f", str(path)], check=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(f"{path} could not be written to its disk: {error}") from error
