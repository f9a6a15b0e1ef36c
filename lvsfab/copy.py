"""Files to and from a host over its one shell: no second protocol, so sudo and labs just work.

Skipped when content, mode and owner are the wanted ones; else written beside the file, checked
by its SHA-256, and moved into place at once: nobody ever sees half a file. A symbolic link at the
place is replaced, not followed: who may write in the directory could point it anywhere.
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
from lvsfab.execute.limits import MOST
from lvsfab.execute.task import MAX_TIMEOUT, HostResult, State
from lvsfab.session import Record, Shell

CHUNK = 3 * 1024 * 1024  # bytes of a file in one script; the host's shell holds it in memory
TIMEOUT = 120.0  # s for one chunk
SLOWEST = 64 * 1024  # bytes/s below which a host is taken for stuck
_TIP = "tar czf FILE DIRECTORY; put FILE, and `lvsfab run ... -- tar xzf` it there"
_COPY = "copy it first, and send the copy"
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_STATE = re.compile(
    r"([0-7]{1,4}) (\S+) ([0-9]+) (\S+) ([0-9]+) ([0-9]{1,18})\n(?:([0-9a-f]{64})\n)?"
)
_SUM = re.compile(r"[0-9a-f]{64}\n")
_MADE_UP = ("/proc/", "/sys/")  # here a file's size says nothing, and each reading may differ

PRELUDE = r"""
c_sum() { c_is=$(sha256sum <"$1") && echo "${c_is%% *}"; }
c_stat() { # PATH: mode, owner, its number, group, its number, size; or why not
  if [ ! -e "$1" ]; then echo absent; return 0; fi
  if [ -d "$1" ]; then echo 'is a directory'; return 1; fi
  if [ ! -f "$1" ]; then echo 'is no regular file'; return 1; fi
  stat -Lc '%a %U %u %G %g %s' -- "$1"
}
c_state() { # PATH SIZE: the same, and the sum where it has that size
  c_line=$(c_stat "$1") || { echo "$c_line"; return 1; }
  if [ -L "$1" ]; then echo link; return 0; fi
  echo "$c_line"
  if [ "${c_line##* }" = "$2" ]; then c_sum "$1"; fi
}
c_whole() { base64 <"$1"; }
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
            if stat.S_ISDIR(status.st_mode):
                raise InputError("is a directory", path=self.path, tip=_TIP)
            if not stat.S_ISREG(status.st_mode):
                raise InputError("is no regular file", path=self.path, tip=_COPY)
            with self.path.open("rb") as file:
                self.sum = hashlib.file_digest(file, "sha256").hexdigest()
                status, read = os.fstat(file.fileno()), file.tell()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=self.path) from None
        self.size, self.mode = status.st_size, f"{status.st_mode & 0o7777:o}"
        if read != self.size:  # it grows, or is one of /proc
            said = f"{read} bytes were read of a file of {self.size}"
            raise InputError(said, path=self.path, tip=_COPY)

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
    """A file on a host: `mode` in octal digits, `sum` its SHA-256 where that was asked."""

    mode: str
    owner: str
    uid: str
    group: str
    gid: str
    size: int
    sum: str


def parse_state(host: str, path: str, output: str) -> There | None:
    """What c_stat or c_state says; None: no such file. CommandError when it cannot be read."""
    if output in ("absent\n", "link\n"):
        return None
    match = _STATE.fullmatch(output)
    if match is None:
        raise CommandError(host, f"{path}: what it is cannot be read", output=output[:500])
    mode, owner, uid, group, gid, size, digest = match.groups()
    return There(mode, owner, uid, group, gid, int(size), digest or "")


def _one(shell: Shell, script: str, what: str, size: int = 0, *, tip: str = "") -> Record:
    """One record; `size`: of the file that is gone through for it; `tip`: for a directory."""
    limit = min(TIMEOUT + size / SLOWEST, MAX_TIMEOUT)
    (record, *_) = shell.run(script, timeout=limit, what=what) or (Record("", 1, ""),)
    if record.status != 0:
        told = record.output.strip() or "failed"
        tip = tip if told == "is a directory" else ""
        raise CommandError(shell.host, f"{what}: {told}", status=record.status, tip=tip)
    return record


def put(shell: Shell, local: Local, want: Wanted, *, dry: bool = False) -> HostResult:
    """Send a file. `changes` of the result is 0 when it was there as wanted."""
    began = time.monotonic()
    path, size = shlex.quote(want.path), local.size
    tip = f"give the file's whole path: {want.path}/{local.path.name}"
    said = _one(shell, f"rec state c_state {path} {size}", want.path, size, tip=tip).output
    have = parse_state(shell.host, want.path, said)
    mode = (want.mode or (have.mode if have else local.mode)).lstrip("0") or "0"
    owner = want.owner or (have.uid if have else "")
    group = want.group or (have.gid if have else "")
    differs, was = ["content"], "instead of a link" if said == "link\n" else "new"
    if have is not None:
        same = {
            "content": have.sum == local.sum,
            "mode": have.mode == mode,
            "owner": owner in (have.owner, have.uid),
            "group": group in (have.group, have.gid),
        }
        differs, was = [name for name, equal in same.items() if not equal], "changed"
    if not differs:
        return HostResult(shell.host, State.OK, 0, "equal", seconds=time.monotonic() - began)
    told = f"{', '.join(differs)}: {was}, {size} bytes"
    if not dry:
        _one(shell, f"rec begin c_begin {path}", want.path)
        if "content" in differs:
            _send(shell, local)
        else:
            _one(shell, f'rec more cp -- {path} "$c_new"', want.path, size)
        owners = f"{shlex.quote(owner)} {shlex.quote(group)}"
        _one(shell, f"rec end c_end {path} {local.sum} {mode} {owners}", want.path, size)
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


def get(shell: Shell, path: str, to: Path, *, dry: bool = False, most: int = MOST) -> HostResult:
    """Fetch a file into `to`, with its mode; nothing of one that has more than `most` bytes.
    `changes` is 0 when it was here already.
    """
    began = time.monotonic()
    host, quoted = shell.host, shlex.quote(absolute(path))
    tip = f"lvsfab run {host} -- tar czf /tmp/it.tgz {quoted}, and get that"
    have = parse_state(host, path, _one(shell, f"rec state c_stat {quoted}", path, tip=tip).output)
    if have is None:
        raise CommandError(host, f"{path}: no such file")
    _fits(host, path, have.size, most)
    if have.size and not path.startswith(_MADE_UP):
        size, digest = have.size, _one(shell, f"rec sum c_sum {quoted}", path, have.size).output
        if not _SUM.fullmatch(digest):
            raise CommandError(host, f"{path}: its sum cannot be read", output=digest[:500])
        digest, parts = digest.strip(), _parts(shell, path, size)
    else:
        data = _bytes(host, path, _one(shell, f"rec whole c_whole {quoted}", path).output)
        _fits(host, path, len(data), most)
        size, digest, parts = len(data), hashlib.sha256(data).hexdigest(), iter([data])
    try:
        if to.is_file() and Local(to).sum == digest:
            return HostResult(host, State.OK, 0, "equal", seconds=time.monotonic() - began)
        if not dry:
            _fetch(host, path, to, parts, digest, int(have.mode, 8) & 0o777)
    except InputError as error:
        raise HostError(host, f"{to} is here already, and {error.message}") from None
    except OSError as error:
        raise HostError(host, f"{to} cannot be written: {error.strerror}") from None
    seconds = time.monotonic() - began
    return HostResult(host, State.OK, 0, f"{size} bytes -> {to}", seconds=seconds, changes=1)


def _fits(host: str, path: str, size: int, most: int) -> None:
    if size > most:
        told = f"{path}: {size} bytes, and at most {most} are taken"
        raise CommandError(host, told, tip="lvsfab get --max SIZE")


def _fetch(host: str, path: str, to: Path, parts: Iterator[bytes], digest: str, mode: int) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=to.parent, prefix=".lvsfab.")
    try:
        found = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            for data in parts:
                found.update(data)
                file.write(data)
        _same(host, path, found.hexdigest(), digest)
        Path(name).chmod(mode)
        Path(name).replace(to)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _parts(shell: Shell, path: str, size: int) -> Iterator[bytes]:
    for number in range(-(-size // CHUNK)):
        cut = f"dd if={shlex.quote(path)} bs={CHUNK} skip={number} count=1 2>/dev/null | base64"
        record = _one(shell, f"c_part() {{ {cut}; }}\nrec part c_part", path)
        data = _bytes(shell.host, path, record.output)
        _same(shell.host, path, len(data), min(CHUNK, size - number * CHUNK))
        yield data


def _bytes(host: str, path: str, text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise CommandError(host, f"{path} cannot be read: {error}") from None


def _same(host: str, path: str, got: object, want: object) -> None:
    if got != want:
        raise CommandError(host, f"{path} changed while it was read")
