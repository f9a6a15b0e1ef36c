"""One lab host as the keeper sees it: a directory, a kernel process, a console. Standard library
alone.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from lvsfab.labs import namespaces

LOG_SIZE = 1 << 20  # bytes of console output that are kept at most
LOG_REST = 1 << 18  # bytes that remain when there were more
SLACK = 32  # MiB in the host's tmpfs beside its memory and its disk
MCONSOLE = (0xCAFEBABE, 2)  # magic and version, arch/um/drivers/mconsole.h

Watch = Callable[[int, Callable[[], bool]], None]


class Machine:
    """`host` is its part of the spec: memory (MiB), arguments, files. `home` becomes /lvsfab for
    its kernel: a tmpfs of its own, which bounds what the host can take and tells what it took.
    """

    def __init__(
        self,
        name: str,
        host: dict[str, Any],
        *,
        tree: Path,
        linux: str,
        home: Path,
        log: Path,
        disk: int,
        cpu: int,
        watch: Watch,
    ) -> None:
        self.name = name
        self.host = host
        self.tree = tree
        self.linux = linux
        self.home = home
        self.log = log
        self.disk = disk
        self.cpu = cpu
        self.watch = watch
        self.pid = 0
        self.since = 0.0
        self.seccomp = True
        self.starts = 0
        self.exit = ""

    def prepare(self) -> None:
        self.home.mkdir(mode=0o700)
        size = self.host["memory"] + self.disk + SLACK
        flags = namespaces.NOSUID | namespaces.NODEV
        namespaces.mount(self.name, self.home, "tmpfs", flags, f"mode=700,size={size}m")
        for path, (mode, text) in self.host["files"].items():
            file = self.home / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(mode)
        files = self.home / "files"
        for made in ("upper", "work", "root"):
            (files / made).mkdir(exist_ok=True)
        for path, _, _ in os.walk(files):
            private = Path(path).name == ".ssh" or path == str(files / "upper/root")
            os.chmod(path, 0o700 if private else 0o755)  # noqa: PTH101
        (self.home / "linux").touch()

    def start(self, *, keep: bool = False, seccomp: bool = True) -> None:
        """Start its kernel unless it runs; without `keep` on a new disk."""
        if self.pid:
            return
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self.seccomp = seccomp
        self.starts += 1
        self.since = time.monotonic()
        self.exit = ""
        self.say(f"-- start {self.starts}, {'the disk is kept' if keep else 'pristine'}\n".encode())
        pid = os.fork()
        if pid == 0:
            self._become(writing, fresh=not keep or not (self.home / "disk").exists())
        os.close(writing)
        self.pid = pid
        os.set_blocking(reading, False)
        self.watch(reading, lambda: self._hear(reading))

    def _become(self, console: int, *, fresh: bool) -> NoReturn:
        """In the child: turn into the host's kernel. Whatever goes wrong is said on the console."""
        try:
            os.dup2(console, 2)
            os.dup2(console, 1)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            namespaces.unshare(namespaces.NEWNS)
            home = self.tree / "lvsfab"
            namespaces.bind(self.linux, self.home / "linux", readonly=True)
            namespaces.mount(self.home, home, "", namespaces.BIND | namespaces.REC)
            os.chroot(self.tree)
            os.chdir("/lvsfab")
            os.dup2(os.open("/dev/null", os.O_RDWR), 0)
            env = {"PATH": "/usr/sbin:/usr/bin", "TMPDIR": "/lvsfab", "HOME": "/"}
            if fresh:
                self._make_disk(env)
            namespaces.no_randomization()
            # the kernel and its processes take turns, a turn a system call: on two processors each
            # turn would wake the other one up (42 us a call instead of 8)
            with suppress(OSError):
                os.sched_setaffinity(0, {self.cpu})
            arguments = self.host["arguments" if self.seccomp else "arguments_ptrace"]
            os.execve("/lvsfab/linux", ["/lvsfab/linux", *arguments], env)  # noqa: S606
        except BaseException as error:  # the console is the only way to say it
            os.write(2, f"lvsfab: {self.name}: {error}\n".encode())
        finally:
            os._exit(71)

    def _make_disk(self, env: dict[str, str]) -> None:
        with suppress(FileNotFoundError):
            os.unlink("disk")  # noqa: PTH108
        argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", "files", "-m", "0", "-b", "4096"]
        argv += ["-E", "assume_storage_prezeroed=1,lazy_journal_init=1,nodiscard"]
        argv += ["-J", "size=4", "-L", "lvsfab", "disk", f"{self.disk}M"]
        pid = os.posix_spawn("/usr/sbin/mke2fs", argv, env)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            raise OSError(f"mke2fs: exit status {status}")

    def stop(self, *, orderly: bool) -> None:
        """Cut the power; or, `orderly`, press ctrl-alt-del, at which the host powers off."""
        if not self.pid:
            return
        if orderly:
            word = b"cad"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
                talk.bind("")  # the kernel wants somewhere to answer
                os.chdir(self.home)
                try:
                    talk.settimeout(1.0)
                    message = struct.pack("=III512s", *MCONSOLE, len(word), word)
                    talk.sendto(message, "uml/mconsole")
                finally:
                    os.chdir("/")
        else:
            self._kill()

    def _kill(self) -> None:
        for kill in (os.kill, os.killpg):  # for a moment it has no process group of its own
            with suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)

    def ended(self, pid: int, status: int) -> None:
        """A child of the keeper's has ended: maybe this one's kernel."""
        if pid != self.pid:
            return
        self._kill()  # what is left of its processes
        code = os.waitstatus_to_exitcode(status)
        self.exit = f"signal {-code}" if code < 0 else f"exit status {code}"
        self.pid = 0
        self.say(f"-- the kernel ended ({self.exit})\n".encode())

    def _hear(self, console: int) -> bool:
        try:
            data = os.read(console, 65536)
        except BlockingIOError:
            return True
        self.say(data)
        return bool(data)

    def say(self, data: bytes) -> None:
        with suppress(OSError):
            fd = os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.write(fd, data) and os.fstat(fd).st_size
                if size > LOG_SIZE:
                    rest = os.pread(fd, LOG_REST, size - LOG_REST)
                    os.ftruncate(fd, 0)
                    os.write(fd, b"-- older lines are gone\n" + rest)
            finally:
                os.close(fd)

    def status(self) -> dict[str, Any]:
        """`resident` in MiB: the pages of its memory file that it has touched."""
        space = os.statvfs(self.home)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        with suppress(FileNotFoundError):
            used -= (self.home / "disk").stat().st_blocks * 512
        return {
            "pid": self.pid,
            "since": time.monotonic() - self.since if self.pid else None,
            "resident": used >> 20 if self.pid else None,
            "starts": self.starts,
            "seccomp": self.seccomp,
            "exit": self.exit,
        }
