from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from lvsfab.labs import keys


def test_a_key_is_what_openssh_reads(tmp_path: Path) -> None:
    key = keys.generate()
    keys.write_secret(tmp_path / "key", key.private)
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(tmp_path / "key")],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout.split()[:2] == key.public.split()
    assert keys.generate().public != key.public


def test_a_secret_is_new_and_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys.write_secret(tmp_path / "key", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        keys.write_secret(tmp_path / "key", "other")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        keys.write_secret(tmp_path / "link", "other")


def test_known_hosts() -> None:
    assert keys.known_hosts({"rs1": "ssh-ed25519 AAAA"}) == "rs1 ssh-ed25519 AAAA\n"


def test_ssh_config_is_what_ssh_reads(tmp_path: Path) -> None:
    directory = tmp_path / "a b%c"
    text = keys.ssh_config(
        directory,
        {"rs1": "100.64.0.11"},
        lambda address: (shlex.join(["/usr/bin/python 3", str(directory), address]), True),
    )
    (tmp_path / "config").write_text(text)
    done = subprocess.run(
        ["ssh", "-G", "-F", str(tmp_path / "config"), "rs1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert found["user"] == "root"
    assert found["hostname"] == "100.64.0.11"
    assert found["stricthostkeychecking"] in ("true", "yes")
    assert found["identitiesonly"] == "yes"
    assert found["proxycommand"].startswith("'/usr/bin/python 3' '")
    assert "a b%%c" in found["proxycommand"]
    assert found["proxyusefdpass"] == "yes"
    assert "Proxy" not in keys.ssh_config(directory, {"rs1": "100.64.0.11"}, None)
    assert found["identityfile"].strip('"').endswith("/key")
