"""Packages of a source that comes with the same run: what came goes, what was there stays."""

from __future__ import annotations

from textwrap import dedent

import pytest

from tests.e2e.conftest import LabUnderTest

pytestmark = pytest.mark.lab

# lvs-hello needs lvs-lib, and lvs-old, which is here already and needed by nothing. It is of the
# section whose packages' needs apt takes for asked for.
SOURCE = r"""
set -e
made() { # NAME LINES
  mkdir -p /srv/build/$1/DEBIAN
  control="Package: $1
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
$2
Description: for a test"
  echo "$control" >/srv/build/$1/DEBIAN/control
  dpkg-deb --root-owner-group -b /srv/build/$1 /srv/repo/$1.deb >/dev/null
  sum=$(sha256sum </srv/repo/$1.deb)
  echo "$control
Filename: ./$1.deb
Size: $(stat -c %s /srv/repo/$1.deb)
SHA256: ${sum%% *}
" >>/srv/repo/Packages
}
mkdir -p /srv/repo /srv/apt
cp -a /var/lib/apt/. /srv/apt
apt-get update >/dev/null 2>&1 || : # makes its directories and locks
made lvs-hello "Section: metapackages
Depends: lvs-lib, lvs-old"
made lvs-lib "Section: libs"
made lvs-old "Section: libs"
dpkg -i /srv/repo/lvs-old.deb >/dev/null
apt-mark auto lvs-old >/dev/null
"""
# apt's marks and locks, too: they are its own, and change whenever it is asked
UNDO = """
dpkg -P lvs-hello lvs-lib lvs-old
rm -rf /var/lib/apt && mkdir /var/lib/apt && cp -a /srv/apt/. /var/lib/apt
rm -rf /srv/repo /srv/build /srv/apt
"""
RECIPE = dedent("""
    name: hello
    title: a package of a source of our own
    steps:
      - on: rs1
        do:
          - repository: {name: mine, url: "file:///srv/repo ./"}
          - package: {name: lvs-hello}
""")


def test_down_removes_what_came_and_nothing_else(clean: LabUnderTest) -> None:
    packages = "dpkg-query -W; apt-mark showmanual; ls /etc/apt/sources.list.d /var/lib/apt/lists"
    clean.sh("rs1", SOURCE)
    try:
        before = clean.sh("rs1", packages)
        assert "lvs-old" in before
        recipe = clean.path.with_name("hello.yml")
        recipe.write_text(RECIPE)
        clean.cli("apply", str(recipe))
        now = clean.sh("rs1", packages)
        assert "lvs-hello" in now
        assert "lvs-lib" in now
        assert "_srv_repo_._Packages" in now
        clean.cli("plan", str(recipe))  # nothing is left to do
        clean.cli("down")
        assert clean.sh("rs1", packages) == before
    finally:
        clean.sh("rs1", UNDO)
    clean.left_nothing()
