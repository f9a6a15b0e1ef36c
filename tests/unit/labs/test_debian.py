from __future__ import annotations

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import debian, tools

# apt-get indextargets of Debian 12 (deb822 sources), shortened to the fields that tell
TARGETS = """\
MetaKey: main/binary-amd64/Packages
Description: http://sec.example/debian-security bookworm-security/main amd64 Packages
Codename: bookworm-security
Label: Debian-Security
Origin: Debian
Created-By: Packages
Repo-URI: http://sec.example/debian-security/
Sourcesentry: /etc/apt/sources.list.d/debian.sources:2

MetaKey: main/i18n/Translation-en
Label: Debian
Origin: Debian
Created-By: Translations
Repo-URI: http://translations.example/debian/

MetaKey: main/binary-amd64/Packages
Codename: nodistro
Label: . nodistro
Origin: . nodistro
Created-By: Packages
Repo-URI: https://third.example/debian/

MetaKey: main/binary-amd64/Packages
Codename: bookworm
Label: Debian
Origin: Debian
Trusted: yes
Created-By: Packages
Repo-URI: http://mirror.example/debian/
Target-Of: deb
"""

NEVER_UPDATED = """\
MetaKey: main/binary-amd64/Packages
Created-By: Packages
Repo-URI: http://sec.example/debian-security/

MetaKey: main/binary-amd64/Packages
Created-By: Packages
Repo-URI: http://mirror.example/debian/
"""

UBUNTU = """\
MetaKey: main/binary-amd64/Packages
Label: Ubuntu
Origin: Ubuntu
Created-By: Packages
Repo-URI: http://mirror.example/ubuntu/
"""

CDROM = """\
MetaKey: main/binary-amd64/Packages
Label: Debian
Origin: Debian
Created-By: Packages
Repo-URI: cdrom:[Debian GNU/Linux 12]/debian/
"""

SHOWN = """\
Package: linux-source
Source: linux
Version: 7.2.12-1
Architecture: all
Depends: linux-source-7.2
Description: Linux kernel source (meta-package)
 This package depends on packages containing the sources
 of the latest Linux kernel.
Size: 1164

Package: linux-source
Version: 6.12.94-1
"""


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (TARGETS, "http://mirror.example/debian"),
        (NEVER_UPDATED, "http://mirror.example/debian"),
        (UBUNTU, None),
        (CDROM, None),
        ("", None),
    ],
)
def test_repository(text: str, uri: str | None) -> None:
    assert debian.repository(debian.stanzas(text)) == uri


def test_stanzas_drop_continuation_lines() -> None:
    first, second = debian.stanzas(SHOWN)
    assert first["Size"] == "1164"
    assert first["Description"] == "Linux kernel source (meta-package)"
    assert second == {"Package": "linux-source", "Version": "6.12.94-1"}


def test_package_is_the_first_one_shown() -> None:
    assert debian.package(SHOWN) == debian.Package(
        "linux-source", "7.2.12-1", "all", 1164, ("linux-source-7.2",)
    )
    assert debian.package("") is None


def test_depends_are_first_choices_without_versions() -> None:
    found = debian.package("Package: a\nVersion: 1\nDepends: b (>= 2) | c, d:any, e\n")
    assert found is not None
    assert found.depends == ("b", "d:any", "e")


def test_the_file_of_a_version_with_an_epoch() -> None:
    assert debian.Package("a", "1:2.3-4", "amd64", 0, ()).file == "a_1%3a2.3-4_amd64.deb"


def test_mirror_is_the_users_word_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSFAB_MIRROR", "http://own.example/debian/")
    monkeypatch.setattr(tools, "run", lambda *_, **__: TARGETS)
    assert debian.mirror() == "http://own.example/debian"


def test_mirror_is_else_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LVSFAB_MIRROR", raising=False)
    monkeypatch.setattr(tools, "run", lambda *_, **__: TARGETS)
    monkeypatch.setattr(tools, "which", lambda _: "/usr/bin/apt-get")
    assert debian.mirror() == "http://mirror.example/debian"


@pytest.mark.parametrize("text", [UBUNTU, CDROM, ""])
def test_no_mirror_is_guessed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSFAB_MIRROR", "")
    monkeypatch.setattr(tools, "run", lambda *_, **__: text)
    monkeypatch.setattr(tools, "which", lambda _: "/usr/bin/apt-get")
    with pytest.raises(LabError, match="no Debian repository") as raised:
        debian.mirror()
    assert "LVSFAB_MIRROR" in raised.value.tip
