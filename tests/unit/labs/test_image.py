from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from lvsfab.labs import data, image


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path / "cache"))


def test_packages_are_one_a_line_with_a_reason() -> None:
    names = image.packages()
    assert {"openssh-server", "ipvsadm", "arptables", "keepalived", "apache2"} <= set(names)
    assert len(set(names)) == len(names)
    for line in data.text("packages.txt").splitlines():
        name, _, why = line.partition("#")
        assert why.strip(), line
        assert len(name.split()) <= 1, line


def test_key_changes_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.image_key()
    monkeypatch.setattr(image, "text", lambda _: "openssh-server  # alone\n")
    assert image.packages() == ("openssh-server",)
    alone = image.image_key()
    assert alone != before
    monkeypatch.setattr(image, "text", lambda _: "# another comment\nopenssh-server\n")
    assert image.image_key() == alone


def test_no_image_in_an_empty_cache() -> None:
    assert image.find_image() is None


@pytest.mark.parametrize(
    ("mode", "fixed"),
    [
        (stat.S_IFREG | 0o000, 0o400),
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFREG | 0o4755, 0o755),
        (stat.S_IFREG | 0o2111, 0o511),
        (stat.S_IFDIR | 0o1777, 0o1777),
        (stat.S_IFDIR | 0o2755, 0o755),
        (stat.S_IFDIR | 0o555, 0o755),
        (stat.S_IFDIR | 0o030, 0o730),
    ],
)
def test_readable(mode: int, fixed: int) -> None:
    assert image.readable(mode) == fixed


@pytest.mark.parametrize(
    ("line", "carried"),
    [
        ('Acquire::http::Proxy "http://proxy.example:3128";', True),
        ('Acquire::https::CaInfo "/etc/ssl/own.pem";', True),
        ('Acquire::Check-Valid-Until "false";', True),
        ('Acquire "";', False),
        ('Acquire::http "";', False),
        ('Acquire::IndexTargets::deb::Packages::MetaKey "x";', False),
    ],
)
def test_what_of_the_machines_apt_carries_over(line: str, carried: bool) -> None:
    assert image.carries_over(line) is carried


def test_unpack(tmp_path: Path) -> None:
    files = {
        "./etc/passwd": (0o644, "root"),
        "./etc/gshadow": (0o000, "secret"),
        "./etc/ssh/sshd_config": (0o644, ""),
        "./etc/ssh/ssh_host_ed25519_key": (0o600, "a key of its own"),
        "./etc/apt/apt.conf.d/99mmdebstrap": (0o644, "a proxy"),
        "./usr/bin/su": (0o4755, ""),
        "./usr/share/doc/bash/copyright": (0o644, ""),
        "./usr/share/doc-base/x": (0o644, ""),
        "./var/lib/apt/lists/x_Packages": (0o644, ""),
        "./dev/null": (0o644, ""),
        "./opt/usr/share/doc/kept": (0o644, ""),
    }
    tar = tmp_path / "image.tar"
    with tarfile.open(tar, "w") as archive:
        closed = tarfile.TarInfo("./var/closed")
        closed.type, closed.mode = tarfile.DIRTYPE, 0o500
        archive.addfile(closed)
        for name, (mode, content) in {**files, "./var/closed/in": (0o600, "")}.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, len(content)
            member.uid = member.gid = 4242
            archive.addfile(member, io.BytesIO(content.encode()))
    tree = tmp_path / "tree"
    tree.mkdir()
    image.unpack(tar, tree)
    found = {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file()}
    assert found == {
        "etc/passwd",
        "etc/gshadow",
        "etc/ssh/sshd_config",
        "usr/bin/su",
        "usr/share/doc-base/x",
        "opt/usr/share/doc/kept",
        "var/closed/in",
    }
    assert (tree / "lvsfab").is_dir()
    assert (tree / "usr/lib/modules").is_dir()
    assert (tree / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tree / "etc/gshadow").stat().st_mode & 0o777 == 0o400
    assert (tree / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert (tree / "var/closed").stat().st_mode & 0o700 == 0o700
    assert (tree / "etc/passwd").stat().st_uid == tmp_path.stat().st_uid
