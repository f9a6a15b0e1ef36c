"""Files to and from a host over its one shell: no second protocol, so sudo and labs just work.

Skipped when content, mode and owner are the wanted ones; else written beside the file, checked
by its SHA-256, and moved into place at once: nobody ever sees half a file.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lvsfab.errors import CommandError, HostError, InputError, UnreachableError
from lvsfab.execute.task import HostResult, State
from lvsfab.session import Record, Shell

CHUNK = 3 * 1024 * 1024  # bytes of a file in one script; the host's shell holds it in memory
TIMEOUT = 120.0  # s for one chunk
SLOWEST = 64 * 1024  # bytes/s below which a host is taken for stuck
_TIP = "a directory: `tar cf FILE.tar DIRECTORY`, put that, and `lvsfab run ... -- tar xf` it"
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
# sha256sum begins the line of a path with a backslash in it with one more
_STATE = re.compile(r"([0-7]{1,4}) (\S+) (\S+) ([0-9]{1,18})\n\\?([0-9a-f]{64})\n")

PRELUDE = r"""
c_sum() { sha256sum -- "$1" | cut -d' ' -f1; }
c_state() { # PATH: mode, owner, group, size, sum; or why not
  if [ ! -e "$1" ]; then echo absent; return 0; fi
  if [ ! -f "$1" ]; then echo 'is no regular file'; return 1; fi
  stat -Lc '%a %U %G %s' -- "$1" && c_sum "$1"
}
c_begin() { # PATH
  c_dir=${1%/*}; c_new=$(mktemp "${c_dir:-/}/.lvsfab.XXXXXXXXXX") || return 1
  trap 'rm -f -- "$c_new"' EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 141' PIPE; trap 'exit 143' TERM
}
c_take() { # SIZE: so many bytes of our own standard input; whatever fails, none is run as script
  rec ready :
  head -c "$1" <&3 >"$c_new" || { echo 'no room for it'; exit 1; }
}
c_end() { # PATH SUM MODE OWNER GROUP
  c_is=$(c_sum "$c_new")
  [ "$c_is" = "$2" ] || { echo "arrived as $c_is, not $2"; return 1; }
  [ "$4:$5" = : ] || chown "$4:$5" "$c_new" || return 1
  chmod "$3" "$c_new" || return 1
  sync "$c_new" 2>/dev/null || sync
  mv -f -- "$c_new" "$1" && trap - EXIT HUP INT PIPE TERM
}
"""


@dataclass(slots=True)
class Local:
    """A file of ours to send; its sum is computed once for all hosts."""

    path: Path
    size: int = field(init=False)
    sum: str = field(init=False)
    mode: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            status = self.path.stat()  # first: to open a FIFO would wait
            if not stat.S_ISREG(status.st_mode):
                raise InputError("is no regular file", path=self.path, tip=_TIP)
            with self.path.open("rb") as file:
                self.sum = hashlib.file_digest(file, "sha256").hexdigest()
                status, read = os.fstat(file.fileno()), file.tell()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=self.path) from None
        self.size, self.mode = status.st_size, f"{status.st_mode & 0o7777:o}"
        if read != self.size:  # it grows, or is one of /proc
            said = f"{read} bytes were read of a file of {self.size}"
            raise InputError(said, path=self.path, tip="copy it first, and send the copy")

    def chunks(self, host: str) -> Iterator[bytes]:
        """`size` bytes exactly, for the host takes any more for a script. HostError when the file
        has become shorter.
        """
        left = self.size
        try:
            with self.path.open("rb") as file:
                while left and (chunk := file.read(min(CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise HostError(host, f"{self.path} cannot be read: {error.strerror}") from None
        if left:
            raise HostError(host, f"{self.path} became shorter while it was sent")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a file goes and how: `mode` octal, `owner` and `group` names or numbers; "" keeps
    what a file there has, else the sent file's mode and the login's user.
    """

    path: str
    mode: str = ""
    owner: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        absolute(self.path)
        if self.path.endswith("/"):
            raise InputError(f"`{self.path}` names a directory: give the file's whole path")
        if self.mode and not re.fullmatch(r"0?[0-7]{3,4}", self.mode):
            raise InputError(f"mode `{self.mode}`: octal digits, such as 0644", key="--mode")
        for name in filter(None, (self.owner, self.group)):
            if not _OWNER.fullmatch(name):
                raise InputError(f"`{name}` is no user or group", key="--owner")


def absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or "\n" in path:
        raise InputError(f"`{path}` is no absolute path on a host")
    return path


@dataclass(frozen=True, slots=True)
class There:
    """A file on a host: `mode` in octal digits, `sum` its SHA-256."""

    mode: str
    owner: str
    group: str
    size: int
    sum: str


def parse_state(host: str, path: str, output: str) -> There | None:
    """What c_state says; None: no such file. CommandError when it cannot be read."""
    if output == "absent\n":
        return None
    match = _STATE.fullmatch(output)
    if match is None:
        raise CommandError(host, f"{path}: what it is cannot be read", output=output[:500])
    mode, owner, group, size, digest = match.groups()
    return There(mode, owner, group, int(size), digest)


def _there(shell: Shell, path: str) -> There | None:
    said = _one(shell, f"rec state c_state {shlex.quote(path)}", path)
    return parse_state(shell.host, path, said.output)


def _one(shell: Shell, script: str, what: str) -> Record:
    (record, *_) = shell.run(script, timeout=TIMEOUT, what=what) or (Record("", 1, ""),)
    if record.status != 0:
        told = record.output.strip() or "failed"
        raise CommandError(shell.host, f"{what}: {told}", status=record.status)
    return record


def put(shell: Shell, local: Local, want: Wanted, *, dry: bool = False) -> HostResult:
    """Send a file. `changes` of the result is 0 when it was there as wanted."""
    began = time.monotonic()
    path = shlex.quote(want.path)
    have = _there(shell, want.path)
    mode = (want.mode or (have.mode if have else local.mode)).lstrip("0") or "0"
    owner = want.owner or (have.owner if have else "")
    group = want.group or (have.group if have else "")
    same_sum = have is not None and have.sum == local.sum
    differs = ["content"]
    if have is not None:
        same = {
            "content": same_sum,
            "mode": have.mode == mode,
            "owner": have.owner == owner,
            "group": have.group == group,
        }
        differs = [name for name, equal in same.items() if not equal]
    if not differs:
        return HostResult(shell.host, State.OK, 0, "equal", seconds=time.monotonic() - began)
    told = f"{', '.join(differs)}: {'changed' if have else 'new'}, {local.size} bytes"
    if not dry:
        _one(shell, f"rec begin c_begin {path}", want.path)
        if same_sum:
            _one(shell, f'rec more cp -- {path} "$c_new"', want.path)
        else:
            _send(shell, local)
        owners = f"{shlex.quote(owner)} {shlex.quote(group)}"
        _one(shell, f"rec end c_end {path} {local.sum} {mode} {owners}", want.path)
    seconds = time.monotonic() - began
    return HostResult(shell.host, State.OK, 0, told, seconds=seconds, changes=1)


def _send(shell: Shell, local: Local) -> None:
    """The bytes as they are, once the host said that it takes them."""
    cut: list[OSError] = []

    def ready(_: Record) -> None:
        for chunk in local.chunks(shell.host):
            try:
                shell.feed(chunk)
            except OSError as error:  # it ended: what it said is read yet
                cut.append(error)
                return

    limit = TIMEOUT + local.size / SLOWEST
    try:
        shell.run(
            f"exec 3<&0\nc_take {local.size}", timeout=limit, on_record=ready, what="the file"
        )
    except UnreachableError as error:
        if cut:
            raise CommandError(shell.host, f"did not take the file: {error.message}") from None
        raise
    except HostError:  # it waits for the rest: nothing else may be sent to it
        shell.close()
        raise


def get(shell: Shell, path: str, to: Path, *, dry: bool = False) -> HostResult:
    """Fetch a file into `to`, with its mode. `changes` is 0 when it was here already."""
    began = time.monotonic()
    have = _there(shell, absolute(path))
    if have is None:
        raise CommandError(shell.host, f"{path}: no such file")
    told = f"{have.size} bytes -> {to}"
    if to.is_file() and Local(to).sum == have.sum:
        return HostResult(shell.host, State.OK, 0, "equal", seconds=time.monotonic() - began)
    if not dry:
        try:
            _fetch(shell, path, to, have)
        except OSError as error:
            raise HostError(shell.host, f"{to} cannot be written: {error.strerror}") from None
    seconds = time.monotonic() - began
    return HostResult(shell.host, State.OK, 0, told, seconds=seconds, changes=1)


def _fetch(shell: Shell, path: str, to: Path, have: There) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=to.parent, prefix=".lvsfab.")
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            for number in range(-(-have.size // CHUNK)):
                data = _part(shell, path, number)
                _same(shell.host, path, len(data), min(CHUNK, have.size - number * CHUNK))
                digest.update(data)
                file.write(data)
        _same(shell.host, path, digest.hexdigest(), have.sum)
        Path(name).chmod(int(have.mode, 8) & 0o777)
        Path(name).replace(to)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _part(shell: Shell, path: str, number: int) -> bytes:
    cut = f"dd if={shlex.quote(path)} bs={CHUNK} skip={number} count=1 2>/dev/null | base64"
    record = _one(shell, f"c_part() {{ {cut}; }}\nrec part c_part", path)
    try:
        return base64.b64decode(record.output)
    except ValueError as error:
        raise CommandError(shell.host, f"{path} cannot be read: {error}") from None


def _same(host: str, path: str, got: object, want: object) -> None:
    if got != want:
        raise CommandError(host, f"{path} changed while it was read")
