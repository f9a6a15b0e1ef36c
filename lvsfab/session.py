"""One POSIX shell on one host, spoken to in scripts and answered in records.

A `Shell` keeps one `sh` open over one channel (one SSH exec) for a whole run: every script is
sent on its standard input, and each thing the script does is answered by a framed record, so a
run needs no second exec whatever it does. The shell ends with the channel, and with it the lock
it holds on the host.

The frame: `NONCE>ID` on a line, the output, then `NONCE<ID STATUS` on a line, and at the end of
a script `NONCE=`. The nonce is random per shell, so nothing a host prints by accident can be
taken for a frame; a script is one compound command, so a shell that receives half of it runs none
of it. Scripts run with no standard input, `LC_ALL=C`, `umask 077`.
"""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from lvsfab.errors import AnswerError, UnreachableError

MAX_RECORD = 32 * 1024 * 1024  # bytes of one record: a host that prints without end is cut here
MAX_ANSWERS = 64 * 1024 * 1024  # bytes of all records of one script
MAX_RECORDS = 100_000  # of one script; the longest of ours has some hundred
SEND_TIMEOUT = 15.0  # s for what is sent outside a script's own time
MAX_STRAY = 64 * 1024  # bytes outside records that are kept, to show when something goes wrong


@dataclass(frozen=True, slots=True)
class Command:
    """One command as a value; quoted by construction. `stdin` is fed to it; `shown` replaces
    its text wherever it is printed (secrets, or where a helper function has a plainer name).
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    shown: str = ""

    def script(self) -> str:
        line = shlex.join(self.argv)
        if self.stdin is None:
            return line
        return f"printf %s {shlex.quote(self.stdin)} | {line}"

    def __str__(self) -> str:
        return self.shown or shlex.join(self.argv)


def command(*argv: str, stdin: str | None = None, shown: str = "") -> Command:
    return Command(tuple(argv), stdin, shown)


@dataclass(frozen=True, slots=True)
class Record:
    """What one framed piece of a script printed, and its exit status."""

    id: str
    status: int
    output: str


class Channel(Protocol):
    """A byte stream to the standard input and from the standard output of a shell on a host."""

    def send(self, data: bytes, timeout: float) -> None:
        """All of `data`; TimeoutError when the host has not taken it within `timeout` s."""
        ...

    def recv(self, timeout: float) -> bytes:
        """Up to some bytes; b"" at the end of the stream; TimeoutError after `timeout` s."""
        ...

    def stderr(self) -> bytes:
        """What came on standard error so far, bounded."""
        ...

    def end_input(self) -> None:
        """End the shell's standard input: it ends by itself after what it is doing."""
        ...

    def close(self) -> None: ...


PRELUDE = r"""
LC_ALL=C; export LC_ALL; umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH; export PATH
has() { command -v "$1" >/dev/null 2>&1; }
rec() {
  printf '\n%s>%s\n' "$NONCE" "$1"; rec_id=$1; shift
  rec_status=0; "$@" </dev/null 2>&1 || rec_status=$?
  printf '\n%s<%s %s\n' "$NONCE" "$rec_id" "$rec_status"
  return "$rec_status"
}
"""


class TooMuchError(Exception):
    """A host says more than any answer of ours has."""


class Framer:
    """Turns the bytes of a shell into records. Pure: bytes in, records out.

    `on_line` is told each line as it comes, with the id of its record (for live output). `done`
    is True once the script's end mark was seen. What stands outside records (banners,
    job notices) is kept in `stray`, bounded; so are the records, each and all, even those of a
    host that knows the nonce (it was sent it).
    """

    def __init__(self, nonce: str, on_line: Callable[[str, str], None] | None = None) -> None:
        self._on_line = on_line
        mark = re.escape(nonce.encode())
        self._mark = re.compile(
            rb"^" + mark + rb"(?:>([!-~]{1,512})|<([!-~]{1,512}) ([0-9]{1,3})|(=))$"
        )
        self._buffer = bytearray()
        self._body = bytearray()
        self._open: str | None = None
        self._all = 0  # bytes of what was framed
        self._count = 0
        self.stray = bytearray()
        self.done = False

    @property
    def unfinished(self) -> str:
        """What came of a record that has no end yet."""
        if self._open is None:
            return ""
        return bytes(self._body + self._buffer).decode(errors="backslashreplace")

    def feed(self, data: bytes) -> list[Record]:
        """Records completed by `data`. TooMuchError beyond MAX_RECORD, MAX_ANSWERS, MAX_RECORDS."""
        seen = len(self._buffer)  # holds no newline: a line without end is searched once
        self._buffer += data
        records: list[Record] = []
        while (end := self._buffer.find(b"\n", seen)) >= 0:
            seen = 0
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            record = self._line(line)
            if record is not None:
                records.append(record)
        if len(self._body) + len(self._buffer) > MAX_RECORD:
            raise TooMuchError(f"more than {MAX_RECORD} bytes in one answer")
        self._count += len(records)
        if self._all > MAX_ANSWERS:
            raise TooMuchError(f"more than {MAX_ANSWERS} bytes of answers")
        if self._count > MAX_RECORDS:
            raise TooMuchError(f"more than {MAX_RECORDS} answers")
        return records

    def _line(self, line: bytes) -> Record | None:
        match = self._mark.match(line)
        if match is not None or self._open is not None:
            self._all += len(line) + 1
        if match is None:
            if self._open is None:
                self.stray += (line + b"\n")[: MAX_STRAY - len(self.stray)]
            else:
                self._body += line + b"\n"
                if self._on_line is not None:
                    self._on_line(self._open, line.decode(errors="backslashreplace"))
            return None
        begin, ended, status, done = match.groups()
        if done:
            self.done = True
        elif begin is not None:
            self._open = begin.decode()
            self._body.clear()
        elif self._open is not None and ended.decode() == self._open:
            # rec puts a newline before the end mark: it is ours, not the command's
            output = bytes(self._body).removesuffix(b"\n").decode(errors="backslashreplace")
            self._open = None
            self._body.clear()
            return Record(ended.decode(), int(status), output)
        return None


class Shell:
    """A shell on `host` over `channel`. `prelude`: further functions its scripts use."""

    def __init__(self, host: str, channel: Channel, prelude: str = "") -> None:
        self.host = host
        self.execs = 1
        self._channel = channel
        self._nonce = f"lvsfab-{secrets.token_hex(12)}"
        self._prelude = f"NONCE={self._nonce}\n{PRELUDE}{prelude}\n"
        self._count = 0
        self._deadline: float | None = None  # of the script that runs

    def run(
        self,
        body: str,
        *,
        timeout: float,
        idle: float | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_line: Callable[[str, str], None] | None = None,
        what: str = "an answer",
    ) -> list[Record]:
        """Send a script and return its records, in order.

        `timeout`: seconds in all; `idle`: seconds without any output. UnreachableError when the
        link ends or the time is over, AnswerError when the host's answer cannot be read.
        """
        framer = Framer(self._nonce, on_line)
        self._count += 1
        # a link may end within it: no beginning of it names another script, or a program (`script`)
        name = f"_script_{self._count}_"
        # A line longer than the terminal's is fine: this is a pipe, not a tty.
        script = (
            f"{self._prelude}{name}() {{\n:\n{body}\n}}\n{name}; printf '\\n%s=\\n' \"$NONCE\"\n"
        )
        self._prelude = ""
        records: list[Record] = []
        self._deadline = time.monotonic() + timeout
        told = f"no end of {what} after {timeout:.0f} s"
        try:
            with self._link(told, records):
                self._channel.send(script.encode(), timeout)
            while not framer.done:
                with self._link(told, records):
                    data = self._recv(self._deadline, idle)
                if not data:
                    raise self._ended(framer, what)
                # who is told may fail in ways of their own: those are not the link's
                for record in framer.feed(data):
                    records.append(record)
                    if on_record is not None:
                        on_record(record)
        except UnreachableError as error:
            error.output = framer.unfinished
            raise
        except TooMuchError as error:
            raise AnswerError(self.host, f"{error} while waiting for {what}") from None
        finally:
            self._deadline = None
        return records

    @contextmanager
    def _link(self, told: str, records: Sequence[Record]) -> Iterator[None]:
        """What the channel does, as errors about this host; `told`: when the time is over."""
        try:
            yield
        except TimeoutError:
            raise UnreachableError(
                self.host,
                f"{told} (last seen: {records[-1].id if records else 'nothing'})",
                tip="is the host overloaded, or the link stuck? Run again with -v",
            ) from None
        except OSError as error:
            raise UnreachableError(self.host, f"link lost: {error}") from error

    def _recv(self, deadline: float, idle: float | None) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:  # a host that prints without end never keeps the channel waiting
            raise TimeoutError("the deadline is over")
        return self._channel.recv(min(left, idle) if idle is not None else left)

    def _ended(self, framer: Framer, what: str) -> UnreachableError:
        raw = (bytes(framer.stray) + self._channel.stderr()).decode(errors="backslashreplace")
        said = raw.strip()[-500:]
        text = f"the shell ended before {what} was complete"
        tip = "-K asks for it once" if "sudo" in said and "password" in said else ""
        return UnreachableError(self.host, f"{text}; it said: {said}" if said else text, tip=tip)

    def feed(self, data: bytes) -> None:
        """Bytes for a running script that reads its shell's own standard input. Only once that
        script said that it does, or the shell would take them for a script.
        """
        left = SEND_TIMEOUT if self._deadline is None else self._deadline - time.monotonic()
        self._channel.send(data, max(left, 0.0))

    def end_input(self) -> None:
        """No further script will come. What a guarded command is (execute/script.py) is stopped
        by that; may be called from another thread than the one in `run`.
        """
        self._channel.end_input()

    def close(self) -> None:
        self._channel.close()


def by_id(records: Iterable[Record]) -> dict[str, Record]:
    """Records by id; of two with one id the later counts."""
    return {record.id: record for record in records}
