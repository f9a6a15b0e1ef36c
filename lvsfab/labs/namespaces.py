"""The system calls a lab needs that Python 3.11 has no function for (unshare, mount,
personality), and what to say when the machine forbids them.

Standard library alone: the keeper imports this. clone(2), mount(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

NEWNS = 0x0002_0000
NEWIPC = 0x0800_0000
NEWUSER = 0x1000_0000
NEWPID = 0x2000_0000
NEWNET = 0x4000_0000

RDONLY = 1
NOSUID = 2
NODEV = 4
REMOUNT = 32
BIND = 4096
REC = 16384
PRIVATE = 1 << 18

ADDR_NO_RANDOMIZE = 0x004_0000

_DOCKER_CLOSES = ("seccomp", "apparmor", "systempaths")

_libc = ctypes.CDLL(None, use_errno=True)

# statvfs(3) and mount(2) number these flags alike; a bind in a user namespace may not drop them
_LOCKED = RDONLY | NOSUID | NODEV | 8 | 1024 | 2048  # 8 noexec, 1024 noatime, 2048 nodiratime
_RELATIME_STATVFS = 4096
_RELATIME_MOUNT = 1 << 21


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(
    source: Path | str, target: Path | str, kind: str, flags: int = 0, data: str = ""
) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(result, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: Path | str, target: Path | str, *, readonly: bool = False) -> None:
    """Make `source` visible at `target`, without what is mounted below it."""
    mount(source, target, "", BIND)
    if readonly:
        had = os.statvfs(target).f_flag
        flags = had & _LOCKED | (_RELATIME_MOUNT if had & _RELATIME_STATVFS else 0)
        mount("none", target, "", REMOUNT | BIND | RDONLY | NOSUID | flags)


def no_randomization() -> None:
    """User-mode Linux would set this itself and run itself again, by way of /proc."""
    _libc.personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE))


def enter() -> None:
    """Move this process into user, mount, network and IPC namespaces of its own, as their root;
    its next child is the first process of a PID namespace of its own.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEWUSER | NEWNS | NEWNET | NEWIPC | NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    mount("none", "/", "", REC | PRIVATE)


def read_setting(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def explain(number: int, read: Callable[[str], str | None] = read_setting) -> tuple[str, str]:
    """Why namespaces could not be had (errno `number`), and the command that would allow them."""
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            "this machine lets only root make user namespaces",
            "allow them: sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    for kind in ("user", "net", "pid", "mnt", "ipc"):
        if read(f"/proc/sys/user/max_{kind}_namespaces") == "0":
            return (
                f"this machine allows no {kind} namespaces (user.max_{kind}_namespaces is 0)",
                f"allow them: sudo sysctl -w user.max_{kind}_namespaces=10000",
            )
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor takes the rights away from user namespaces of ordinary programs here",
            "allow them: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if number == errno.ENOSPC:
        return (
            "this machine allows no further namespaces",
            "allow more: sudo sysctl -w user.max_user_namespaces=10000",
        )
    open_up = " ".join(f"--security-opt {what}=unconfined" for what in _DOCKER_CLOSES)
    return (
        f"this machine forbids user namespaces ({os.strerror(number)})",
        f"in a Docker container: docker run {open_up} ...",
    )
