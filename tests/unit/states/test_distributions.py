"""What each family of distributions calls things, and its package sources. From data: what was run
on real hosts stands in docs/distributions.md.
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

DOC = Path(__file__).parents[3] / "docs" / "distributions.md"
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


# As the distributions' own package lists and service files have them: of PACKAGES, then keepalived.
CALLED = {
    "apt": "apache2-bin iputils-arping iproute2 procps arptables openssh-server keepalived",
    "dnf": "httpd iputils iproute procps-ng iptables-nft openssh-server keepalived",
    "yum": "httpd iputils iproute procps-ng arptables openssh-server keepalived",
    "zypper": "apache2 iputils iproute2 procps iptables-backend-nft openssh keepalived",
    "apk": "apache2 arping iproute2 procps-ng arptables openssh keepalived",
}
SERVED = {
    "apt": "apache2 ssh keepalived",
    "dnf": "httpd sshd keepalived",
    "yum": "httpd sshd keepalived",
    "zypper": "apache2 sshd keepalived",
    "apk": "apache2 sshd keepalived",
}


@pytest.mark.parametrize("family", list(TOOLS))
def test_the_host_calls_things_as_its_family_does(family: str, tmp_path: Path) -> None:
    services, packages = [*SERVICES, "keepalived"], [*PACKAGES, "keepalived"]
    script = [f"service_named {name}" for name in services]
    script += ["echo", *(f"package_names {name} {family}" for name in packages)]
    served, _, called = asked(family, tmp_path, "; ".join(script)).partition("\n\n")
    assert served.split() == SERVED[family].split()
    assert called.split() == CALLED[family].split()
    # and the pure half, which undoes what the host did
    assert [named(SERVICES, name, family) for name in services] == served.split()
    assert [named(PACKAGES, name, family) for name in packages] == called.split()


def test_a_line_of_a_recipe_may_name_a_family_itself(tmp_path: Path) -> None:
    said = asked(
        "yum", tmp_path, "package_names 'arptables;dnf=a,b' yum; package_names 'x;apt=y' yum"
    )
    assert said.split() == ["a", "b", "x"]


def test_the_table_in_the_docs_is_the_one_that_counts() -> None:
    """docs/distributions.md, row by row; of two names for RHEL's kind the second is yum's."""
    rows = {}
    for line in DOC.read_text().splitlines():
        kind, _, plain = line.strip("| ").partition(" | ")[0].partition(" ")
        if kind in ("package", "service"):
            rows[kind, plain] = [cell.strip() for cell in line.strip("|").split("|")[1:]]
    tables = {"package": PACKAGES, "service": SERVICES}
    assert set(rows) == {(kind, plain) for kind, table in tables.items() for plain in table}
    for (kind, plain), cells in rows.items():
        dnf, _, yum = cells[1].partition(" (yum: ")
        told = [cells[0], dnf, yum.removesuffix(")") or dnf, *cells[2:]]
        assert told == [named(tables[kind], plain, family) for family in TOOLS], plain


def test_paths_of_the_families() -> None:
    assert named(PATHS, "repositories", "yum") == "/etc/yum.repos.d"
    assert named(PATHS, "repositories", "zypper") == "/etc/zypp/repos.d"
    assert named(PATHS, "ipvs rules", "dnf") == "/etc/sysconfig/ipvsadm"


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
    assert undo.argv == ("source_drop", path)


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
