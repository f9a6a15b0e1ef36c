"""OpenSSH's own server, as an ordinary process: what is tested and measured against."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lvsfab.labs import tools

USER = pwd.getpwuid(os.getuid()).pw_name


def make_key(path: Path) -> str:
    """A new key pair; the public key as "ssh-ed25519 AAAA..."."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True
    )
    return path.with_name(path.name + ".pub").read_text().strip()


@contextmanager
def sshd(base: Path, address: str, port: int, more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server on `address` ("": all) with the key `base`/host, whose user logs in by a key of
    `base`/authorized; its log is `base`/sshd.log. Ended and waited for at the end.
    """
    tools.ensure({"sshd": "openssh-server"}, print)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (base / "sshd_config").write_text(f"""
Port {port}
{f"ListenAddress {address}" if address else ""}
HostKey {base}/host
AuthorizedKeysFile {base}/authorized
StrictModes no
UsePAM no
UseDNS no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Subsystem sftp /usr/lib/openssh/sftp-server
{more}
""")
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    argv = [program, "-D", "-e", "-f", str(base / "sshd_config")]
    with (base / "sshd.log").open("wb") as log:
        process = subprocess.Popen(argv, stderr=log)
    try:
        _wait(base, address or "127.0.0.1", port)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait(base: Path, address: str, port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("sshd did not start: " + (base / "sshd.log").read_text())
