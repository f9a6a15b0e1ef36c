"""The kernels that lab hosts run: User-Mode Linux, Debian's prebuilt one or our complete one.

What a kernel can do is found by looking at it (its configuration, its built-in and loadable
modules), never by its version: `has("ip_vs")`, `has("CONFIG_UML_NET_VECTOR")`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lvsfab.errors import LabError
from lvsfab.labs import cache, kernel_source, tools
from lvsfab.labs.base import Progress
from lvsfab.labs.data import text
from lvsfab.labs.debian import KERNEL_SUITE, Apt

ORIGINS = ("built", "prebuilt")  # the better one first
_FORM = "3"  # raise it when this file makes another kernel of the same inputs

# What the lab itself cannot do without, whatever the recipe.
NEEDED = ("hostfs", "overlay", "CONFIG_UML_NET_VECTOR", "CONFIG_MODULES", "CONFIG_MAGIC_SYSRQ")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to run. `linux`: its executable; `modules`: the directory that holds VERSION/...,
    as /lib/modules does; `origin`: prebuilt or built; `features`: names of modules that are built
    in or loadable (underscores), and CONFIG_NAME of every option that is =y or =m; `built_in`:
    those of them that need no loading; `entry`: its place in the cache (`cache.use` holds it).
    """

    linux: Path
    modules: Path
    version: str
    origin: str
    features: frozenset[str]
    built_in: frozenset[str]
    entry: Path

    def has(self, feature: str) -> bool:
        """Whether it has a module (dashes or underscores), loadable or built in, or an option."""
        return feature.replace("-", "_") in self.features

    def lacks(self, features: Iterable[str]) -> tuple[str, ...]:
        """Those of `features` that it has not, in their order."""
        return tuple(feature for feature in features if not self.has(feature))


def find_kernel(origin: str) -> Kernel | None:
    """The kernel of that origin (built, prebuilt), if it is in the cache."""
    entry = cache.find(_kind(origin), kernel_key(origin))
    return load(entry, origin) if entry else None


def build_kernel(origin: str, progress: Progress) -> Kernel:
    """The kernel of that origin; fetched, and compiled if it is `built`, where it is not there."""

    def make(space: Path) -> Mapping[str, str]:
        return (_compile if origin == "built" else _unpack)(space, progress)

    if os.uname().machine != "x86_64":
        raise LabError(
            f"User-Mode Linux runs on x86-64 alone; this machine is {os.uname().machine}",
            tip="use hosts of your own, or a Docker engine whose kernel has ip_vs",
        )
    return load(cache.build(_kind(origin), kernel_key(origin), make, progress), origin)


def kernel_key(origin: str) -> str:
    fragment = text("kernel.config") if origin == "built" else ""
    return cache.key(_FORM, origin, KERNEL_SUITE, os.uname().machine, fragment)


def _kind(origin: str) -> str:
    if origin not in ORIGINS:
        raise ValueError(f"no such kernel: {origin}")
    return f"kernel-{origin}"


def load(entry: Path, origin: str) -> Kernel:
    """The kernel in a complete cache entry: linux, config, modules/VERSION."""
    version = cache.facts(entry)["version"]
    features, built_in = look(entry / "modules" / version, (entry / "config").read_text())
    return Kernel(entry / "linux", entry / "modules", version, origin, features, built_in, entry)


def look(modules: Path, config: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a kernel has, and what of it is built in, by its modules directory (/lib/modules/V)
    and its configuration.
    """
    options = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, flags=re.MULTILINE))
    built_in = {name for name, value in options.items() if value == "y"}
    listed = modules / "modules.builtin"
    if listed.exists():
        built_in |= {module_name(line) for line in listed.read_text().split()}
    loadable = {name for name, value in options.items() if value == "m"}
    loadable |= {module_name(file.name) for file in modules.rglob("*.ko*")}
    return frozenset(built_in | loadable), frozenset(built_in)


def module_name(path: str) -> str:
    """kernel/net/ipv4/ip-tunnel.ko.xz is the module ip_tunnel."""
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def embedded_config(executable: bytes) -> str:
    """The configuration that a UML executable carries for its --showconfig."""
    lines = re.findall(rb'CONFIG_[A-Z0-9a-z_]+=(?:[ym]|-?\w+|"[^"\n\0]*")(?=\n)', executable)
    return "".join(sorted({line.decode() + "\n" for line in lines}))


def _unpack(space: Path, progress: Progress) -> Mapping[str, str]:
    """Debian's user-mode-linux package: linux.uml and /usr/lib/uml/modules."""
    tools.ensure({"dpkg-deb": "dpkg", "depmod": "kmod"}, progress)
    apt = Apt(KERNEL_SUITE, progress)
    apt.update()
    package = apt.show("user-mode-linux")
    deb = apt.download("user-mode-linux")
    progress(f"unpacking Debian's kernel {package.version}")
    root = space / "root"
    tools.run(["dpkg-deb", "-x", str(deb), str(root)], timeout=300)
    linux, modules = root / "usr/bin/linux.uml", root / "usr/lib/uml/modules"
    if not linux.exists() or not modules.is_dir():
        raise LabError(f"user-mode-linux {package.version} has another layout than expected")
    linux.rename(space / "linux")
    modules.rename(space / "modules")
    cache.remove(root)
    deb.unlink()
    config = embedded_config((space / "linux").read_bytes())
    return _finish(space, config) | {"package": f"user-mode-linux {package.version}"}


def _compile(space: Path, progress: Progress) -> Mapping[str, str]:
    """Debian's kernel source, our configuration. The package stays in the cache until the kernel
    is whole: what an interrupted build has downloaded, the next one finds.
    """
    tools.ensure(kernel_source.NEEDS, progress)
    apt = Apt(KERNEL_SUITE, progress)
    apt.update()
    name = next((n for n in apt.show("linux-source").depends if n.startswith("linux-source-")), "")
    if not name:
        raise LabError(f"Debian {KERNEL_SUITE}'s linux-source names no linux-source-VERSION")
    version = apt.show(name).version
    deb = apt.download(name)
    log = tools.log_file("kernel-built")
    source = kernel_source.unpack(deb, space / "source", progress, log)
    kernel_source.mend(source, progress)
    kernel_source.configure(source, text("kernel.config"), progress, log)
    kernel_source.compile_into(space, source, progress, log)
    config = (source / ".config").read_text()
    cache.remove(space / "source")
    noted = _finish(space, config) | {"package": f"{name} {version}"}
    deb.unlink()
    return noted


def _finish(space: Path, config: str) -> dict[str, str]:
    """Index the modules, note the version, see that a lab can run on it."""
    (space / "config").write_text(config)
    versions = [path.name for path in (space / "modules").iterdir() if path.is_dir()]
    if len(versions) != 1:
        raise LabError(f"the kernel came with modules of {len(versions)} versions, not one")
    directory = space / "modules" / versions[0]
    for link in ("build", "source"):  # to the tree it was compiled in
        (directory / link).unlink(missing_ok=True)
    for file in directory.rglob("*.ko.*"):
        _decompress(file)
    root = space / "depmod"  # depmod wants lib/modules/VERSION under a root
    (root / "lib").mkdir(parents=True)
    (root / "lib/modules").symlink_to(space / "modules")
    tools.run(["depmod", "-b", str(root), versions[0]], timeout=120)
    shutil.rmtree(root)
    (space / "linux").chmod(0o755)
    features, _ = look(directory, config)
    missing = [feature for feature in NEEDED if feature not in features]
    if missing:
        raise LabError(f"this kernel cannot run a lab: it lacks {', '.join(missing)}")
    return {"version": versions[0]}


def _decompress(file: Path) -> None:
    """Module by module, for guests whose kmod or kernel cannot."""
    program = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}.get(file.suffix)
    if program is None:
        raise LabError(f"{file.name} is compressed in a way nobody here knows")
    with file.with_suffix("").open("wb") as out:
        tools.run([program, "-dc", str(file)], timeout=60, stdout=out)
    file.unlink()
