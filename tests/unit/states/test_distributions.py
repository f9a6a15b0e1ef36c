"""What each family of distributions calls things, and its package sources. From data: of these
families only Debian was tried on real hosts (docs/distributions.md says so).
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory
from lvsfab.session import PRELUDE
from lvsfab.states import readers_script
from lvsfab.states.base import Context, UnsupportedError, changes
from lvsfab.states.distributions import PACKAGES, PATHS, SERVICES, named
from lvsfab.states.repository import Repository

TOOLS = {"apt": "apt-get", "dnf": "dnf", "yum": "yum", "zypper": "zypper", "apk": "apk"}
URL = "http://172.25.67.250/rhel6.5/LoadBalancer"


def asked(family: str, folder: Path, script: str) -> str:
    """What the shell functions answer on a host that has this family's tool and no other."""
    (folder / TOOLS[family]).symlink_to("/bin/true")
    for tool in ("printf", "tr", "cat"):
        (folder / tool).symlink_to(Path("/usr/bin") / tool)
    prelude = "\n".join(line for line in PRELUDE.splitlines() if not line.startswith("PATH="))
    text = f"{prelude}\n{readers_script()}\n{script}"
    done = subprocess.run(
        ["/bin/sh", "-c", text], env={**os.environ, "PATH": str(folder)},
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("family", list(TOOLS))
def test_the_host_calls_things_as_the_table_says(family: str, tmp_path: Path) -> None:
    plain = [*SERVICES, "keepalived"]
    said = asked(family, tmp_path, "; ".join(f"service_named {name}" for name in plain))
    assert said.split() == [named(SERVICES, name, family) for name in plain]
    names = [*PACKAGES, "ipvsadm"]
    (tmp_path / TOOLS[family]).unlink()
    script = "; ".join(f"package_names {name} {family}" for name in names)
    for tool in ("printf", "tr", "cat"):
        (tmp_path / tool).unlink()
    assert asked(family, tmp_path, script).split() == [named(PACKAGES, n, family) for n in names]


def test_the_table_knows_the_families() -> None:
    assert named(SERVICES, "httpd", "apt") == "apache2"
    assert named(SERVICES, "httpd", "yum") == "httpd"
    assert named(PACKAGES, "iproute2", "yum") == "iproute"
    assert named(PATHS, "ipvs rules", "dnf") == "/etc/sysconfig/ipvsadm"
    for table in (PACKAGES, SERVICES, PATHS):
        for families in table.values():
            assert set(families) <= set(TOOLS) - {"yum"}  # yum goes by dnf's names


@pytest.mark.parametrize(
    ("family", "url", "path", "lines"),
    [
        ("yum", URL, "/etc/yum.repos.d/lvsfab-lb.repo",
         ["[lb]", "name=lb", f"baseurl={URL}", "enabled=1", "gpgcheck=0"]),
        ("dnf", URL, "/etc/yum.repos.d/lvsfab-lb.repo", ["[lb]", f"baseurl={URL}"]),
        ("zypper", URL, "/etc/zypp/repos.d/lvsfab-lb.repo", ["[lb]", f"baseurl={URL}"]),
        ("apt", "http://192.0.2.1/debian trixie main", "/etc/apt/sources.list.d/lvsfab-lb.sources",
         ["Types: deb", "URIs: http://192.0.2.1/debian", "Suites: trixie", "Components: main",
          "Trusted: yes"]),
    ],
)  # fmt: skip
def test_a_source_is_the_familys_own_file(
    family: str, url: str, path: str, lines: list[str]
) -> None:
    want = Repository(name="lb", url=url)
    without = Repository.parse("lb", f"family {family}\n")
    assert changes(want, without)
    (put,) = Repository.commands("lb", without, want)
    assert put.argv[:2] == ("put_file", path)
    assert set(lines) <= set(put.argv[-1].splitlines())
    text = base64.b64encode(put.argv[-1].encode()).decode()
    now = Repository.parse("lb", f"family {family}\ntext {text}\n")
    assert changes(want, now) == ()
    (undo,) = Repository.commands("lb", now, without)
    assert undo.argv == ("drop_file", path)


def test_a_signed_source_names_its_key() -> None:
    want = Repository(name="lb", url=URL, signed_by="http://192.0.2.1/key")
    assert "gpgcheck=1\ngpgkey=http://192.0.2.1/key\n" in (want.wanted("dnf") or "")
    assert "Signed-By: http://192.0.2.1/key\n" in (want.wanted("apt") or "")


def test_sources_that_cannot_be() -> None:
    for family in ("apk", ""):
        with pytest.raises(UnsupportedError):
            Repository.parse("lb", f"family {family}\n" if family else "none\n")
    for url in ("rhel", "http://a b;c", "-x"):
        with pytest.raises(InputError):
            Repository(name="lb", url=url)


def test_no_url_is_no_source() -> None:
    context = Context(Inventory("lab", {}), Host("h"), {})
    assert Repository.build({"name": "lb"}, context) == ()
