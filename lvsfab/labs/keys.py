"""The lab's SSH keys: one for each host, one for whoever logs in. They live and die with the lab;
nothing here reads or writes ~/.ssh.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

USER = "root"
PORT = 22


@dataclass(frozen=True, slots=True)
class HostKey:
    """An ed25519 key pair: `private` in OpenSSH's own format, `public` as "ssh-ed25519 AAAA..."."""

    private: str
    public: str


def generate() -> HostKey:
    # a dependency of paramiko's, and as slow to start as it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return HostKey(private.decode(), public.decode())


def write_secret(path: Path, text: str) -> None:
    """A new file that its owner alone can read; FileExistsError rather than trust one there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)


def known_hosts(keys: Mapping[str, str]) -> str:
    """Host name -> public key, as known_hosts lines (sshd(8))."""
    return "".join(f"{name} {public}\n" for name, public in keys.items())


def ssh_config(
    directory: Path, addresses: Mapping[str, str], proxy: Callable[[str], tuple[str, bool]] | None
) -> str:
    """ssh_config(5) for people's own ssh: a block for each host.

    `proxy(address)` is a command that makes the connection, and whether it hands over a descriptor
    rather than carry the data itself; None where ssh can connect by itself. Everything is pinned:
    no agent, no other key, no other known_hosts file.
    """
    blocks = []
    for name, address in addresses.items():
        proxied = ""
        if proxy is not None:
            line, descriptor = proxy(address)
            proxied = f"  ProxyCommand {line.replace('%', '%%')}\n"
            proxied += "  ProxyUseFdpass yes\n" if descriptor else ""
        blocks.append(
            f"""\
Host {name}
  HostName {address}
  HostKeyAlias {name}
  User {USER}
  Port {PORT}
{proxied}\
  IdentityFile {_quoted(directory / "key")}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {_quoted(directory / "known_hosts")}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PasswordAuthentication no
  KexAlgorithms curve25519-sha256
  WarnWeakCrypto no
"""
        )
    # newer clients warn of a key exchange that a quantum computer could break; older know no such
    return "IgnoreUnknown WarnWeakCrypto\n" + "".join(blocks)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'
