"""A private apt: packages of any Debian suite, for any user, beside the machine's own apt.

It has its own lists, caches and sources; proxies, certificates, logins and time-outs stay those
of the machine's apt configuration, and so do its signature checks, against Debian's own keyring.
The repository is one the machine already uses (`apt-get indextargets` knows, whatever the
sources' format), with another suite's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lvsfab.errors import LabError
from lvsfab.labs import cache, tools
from lvsfab.labs.base import Progress

IMAGE_SUITE = "trixie"
KERNEL_SUITE = "testing"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def stanzas(text: str) -> tuple[dict[str, str], ...]:
    """Blocks of "Name: value" lines, as apt-get indextargets and apt-cache show print them;
    continuation lines are dropped.
    """
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        pairs = re.findall(r"^([A-Za-z][\w-]*): ?(.*)$", block, flags=re.MULTILINE)
        if pairs:
            found.append(dict(pairs))
    return tuple(found)


def repository(targets: Iterable[dict[str, str]]) -> str | None:
    """The URI of a Debian archive among apt's index targets: not security's or a third party's.

    Before the first `apt-get update` apt knows no origin yet; a path that ends in /debian tells.
    """
    for target in targets:
        uri = target.get("Repo-URI", "").rstrip("/")
        if target.get("Created-By") != "Packages" or not uri or uri.startswith("cdrom:"):
            continue
        if "Origin" in target or "Label" in target:
            if target.get("Origin") == "Debian" and target.get("Label") == "Debian":
                return uri
        elif uri.endswith("/debian"):
            return uri
    return None


def mirror() -> str:
    """The Debian repository to fetch from: LVSFAB_MIRROR, else the machine's own."""
    own = os.environ.get("LVSFAB_MIRROR", "").rstrip("/")
    if own:
        return own
    if tools.which("apt-get") is None:
        raise LabError(
            "this machine has no apt, which fetches and checks Debian's packages",
            tip="build on Debian or Ubuntu and copy the cache directory over",
        )
    listed = tools.run(["apt-get", "indextargets", "Created-By: Packages"], timeout=60)
    found = repository(stanzas(listed))
    if found is None:
        raise LabError(
            "this machine's apt knows no Debian repository to fetch from",
            tip="set LVSFAB_MIRROR to the URI of a Debian mirror (http://HOST/debian)",
        )
    return found


@dataclass(frozen=True, slots=True)
class Package:
    """What a suite offers under a name. `size` in bytes; `depends`: package names, first choices,
    in order.
    """

    name: str
    version: str
    architecture: str
    size: int
    depends: tuple[str, ...]

    @property
    def file(self) -> str:
        """The name under which apt-get download saves it (an epoch's colon is escaped)."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def package(shown: str) -> Package | None:
    """The first package of `apt-cache show`'s output."""
    for stanza in stanzas(shown):
        if "Package" in stanza and "Version" in stanza:
            clauses = stanza.get("Depends", "").split(",")
            names = (clause.split("|")[0].split("(")[0].strip() for clause in clauses)
            return Package(
                stanza["Package"],
                stanza["Version"],
                stanza.get("Architecture", "all"),
                int(stanza.get("Size", "0")),
                tuple(name for name in names if name),
            )
    return None


class Apt:
    """apt of one suite. `update` first; then `show` and `download`."""

    def __init__(self, suite: str, progress: Progress) -> None:
        tools.ensure({str(KEYRING): "debian-archive-keyring"}, progress)
        self.suite = suite
        self.progress = progress
        self.home = cache.root() / "apt" / suite

    def update(self) -> None:
        """Fetch the suite's lists, checked against Debian's keyring."""
        uri = mirror()
        for part in ("lists/partial", "archives/partial", "state"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        (self.home / "state/status").touch()
        source = f"deb [signed-by={KEYRING}] {uri} {self.suite} main\n"
        (self.home / "sources.list").write_text(source)
        self.progress(f"reading Debian {self.suite}'s package lists from {uri}")
        self._run(
            "apt-get",
            "update",
            tip=f"is {uri} a Debian mirror that this machine reaches? LVSFAB_MIRROR=URI names "
            "another; a missing key comes with: apt-get install debian-archive-keyring",
        )

    def show(self, name: str) -> Package:
        shown = self._run("apt-cache", "show", "--no-all-versions", name)
        found = package(shown)
        if found is None:
            raise LabError(f"Debian {self.suite} has no package {name}")
        return found

    def download(self, name: str) -> Path:
        """The package's file, its hash checked by apt; not fetched again while it is there."""
        found = self.show(name)
        file = self.home / "archives" / found.file
        if not file.exists():
            self.progress(f"downloading {name} {found.version} ({found.size / 1e6:.0f} MB)")
        # apt checks a file that is there against the signed lists, and fetches it when it differs
        self._run("apt-get", "download", name, cwd=file.parent, seconds=1800)
        if not file.exists():
            raise LabError(f"apt-get download {name} left no {file.name} in {file.parent}")
        return file

    def _run(
        self, program: str, *args: str, cwd: Path | None = None, seconds: float = 300, tip: str = ""
    ) -> str:
        options = {
            "Dir::State": self.home / "state",
            "Dir::State::status": self.home / "state/status",
            "Dir::State::lists": self.home / "lists",
            "Dir::Cache": self.home,
            "Dir::Cache::archives": self.home / "archives",
            "Dir::Etc::sourcelist": self.home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Update::Error-Mode": "any",  # half an update is a failure
            "APT::Sandbox::User": "root",  # _apt cannot enter a user's closed cache
        }
        given = [f"-o{name}={value}" for name, value in options.items()]
        return tools.run([program, *given, *args], timeout=seconds, tip=tip, cwd=cwd)
