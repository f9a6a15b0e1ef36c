"""One sshd that is many hosts: 127.1.x.y of a network namespace of its own, where nothing but
loopback exists. Run inside that namespace (see `enter`).

Each address has its own /run, /var/lib and /srv (mount namespaces, made by ForceCommand), so that
locks, journals and the work's files are a host's own. What that costs, every contender pays. The
login shell is /bin/sh: what somebody's .bashrc costs is not the question.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sshd import make_key, sshd

PORT = 22022
ENTER = """#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
set -- $SSH_CONNECTION
exec unshare {flags} sh -c '
  d={base}/hosts/$0
  mount --bind $d/run /run && mount --bind $d/lib /var/lib && mount --bind $d/srv /srv &&
    exec sh -c "$SSH_ORIGINAL_COMMAND"' "$3"
"""


@dataclass(frozen=True)
class Fleet:
    """`hosts` are addresses; the user's own name and `key` log in; `known` is a known_hosts."""

    base: Path
    hosts: tuple[str, ...]
    key: Path
    known: Path

    def clear(self) -> None:
        """Every host as new."""
        for host in self.hosts:
            for name in ("run", "lib", "srv"):
                folder = self.base / "hosts" / host / name
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)


def enter(argv: Sequence[str]) -> list[str]:
    """`argv` in a network namespace with loopback alone; with it ends every process in it."""
    user = [] if os.getuid() == 0 else ["--map-current-user", "--keep-caps"]
    begin = 'ip link set lo up && exec "$@"'
    return ["unshare", "-n", *user, "-p", "--fork", "--kill-child", "--mount-proc",
            "sh", "-c", begin, "sh", *argv]  # fmt: skip


@contextmanager
def fleet(base: Path, number: int) -> Iterator[Fleet]:
    """sshd with its own keys on an unprivileged port; ended and waited for at the end."""
    host_key = make_key(base / "host")
    (base / "authorized").write_text(make_key(base / "id") + "\n")
    flags = "-m" if os.getuid() == 0 else "-Um --map-root-user"
    (base / "enter").write_text(ENTER.format(flags=flags, base=base))
    (base / "enter").chmod(0o755)
    _plain_shell(base)
    hosts = tuple(f"127.1.{i // 250}.{i % 250 + 1}" for i in range(number))
    known = base / "known_hosts"
    known.write_text("".join(f"[{host}]:{PORT} {host_key}\n" for host in hosts))
    more = f"ForceCommand {base}/enter\nMaxStartups 1000\nLogLevel ERROR\n"
    with sshd(base, "", PORT, more):
        found = Fleet(base, hosts, base / "id", known)
        found.clear()
        yield found


def _plain_shell(base: Path) -> None:
    """/bin/sh for every user: in this mount namespace alone."""
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    passwd = base / "passwd"
    passwd.write_text("".join(":".join([*words[:6], "/bin/sh"]) + "\n" for words in lines))
    subprocess.run(["mount", "--bind", str(passwd), "/etc/passwd"], check=True)
