"""Whether hosts can use the engine's own kernel: what of LVS it has, and loading it.

One script answers, run by this machine's shell where that is the engine's kernel, else in a
container. Modules are loaded by a container too (SYS_MODULE and the engine's /lib/modules, for a
second); where the engine forbids that, a person has to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress

from lvsfab.errors import LabError
from lvsfab.labs import docker_image, tools
from lvsfab.labs.base import Progress
from lvsfab.labs.docker_engine import Engine, asking
from lvsfab.labs.docker_plan import LOG
from lvsfab.labs.kernel import Kernel, build_kernel, find_kernel

REQUIRED = ("ip_vs", "ip_vs_rr", "ipip")  # without these the engine's kernel is no choice
# What recipes can ask for beyond that. A container loads no modules, so the lab does it before.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")
WANTED = (
    *REQUIRED,
    *(f"ip_vs_{name}" for name in SCHEDULERS if f"ip_vs_{name}" not in REQUIRED),
    *("ip_gre", "fou", "ip6_tunnel", "arp_tables", "arptable_filter", "arpt_mangle", "nf_tables"),
    *("xt_ipvs", "iptable_filter", "iptable_nat", "iptable_mangle", "xt_TCPMSS", "xt_mark"),
    *("nfnetlink", "af_packet", "tcp_diag", "inet_diag"),
)
RUN_WAIT = 30  # seconds for a container that looks or loads: below 1 s

_LOOK = """\
PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ ! -e /proc/net/ip_vs ] || echo loaded ip_vs
[ ! -e /proc/sys/net/ipv4/conf/tunl0 ] || echo loaded ipip
for name; do
  if [ -d "/sys/module/$name" ]; then echo "loaded $name"
  elif modprobe -n -q "$name" 2>/dev/null; then echo "loadable $name"
  fi
done
exit 0
"""


class Found:
    """What a kernel has: names of modules that are `loaded` (or built in) and `loadable`."""

    def __init__(self, said: str) -> None:
        words = [line.split() for line in said.splitlines()]
        pairs = [(word[0], word[1]) for word in words if len(word) == 2]
        self.loaded = frozenset(name for state, name in pairs if state == "loaded")
        self.loadable = frozenset(name for state, name in pairs if state == "loadable")

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of REQUIRED that it does not have at all."""
        return tuple(n for n in REQUIRED if n not in self.loaded and n not in self.loadable)

    @property
    def to_load(self) -> tuple[str, ...]:
        return tuple(n for n in WANTED if n in self.loadable and n not in self.loaded)


def choose(
    engine: Engine, wish: str, labels: Mapping[str, str], progress: Progress
) -> Kernel | None:
    """A kernel for each container to run; None: the engine's own, and what it has is loaded.
    `wish`: auto, prebuilt or built.
    """
    if wish != "auto":
        return find_kernel(wish) or build_kernel(wish, progress)
    image = docker_image.find(engine, None)
    if image is None and not engine.here:
        image = docker_image.build(engine, None, progress)
    found = look(engine, image or "", labels)
    if not found.missing:
        load(engine, image or docker_image.build(engine, None, progress), labels, found, progress)
        return None
    progress(
        f"the engine's kernel {engine.kernel} has no {', '.join(found.missing)}: each host gets a "
        "kernel of its own (User-Mode Linux)"
    )
    return find_kernel("built") or find_kernel("prebuilt") or build_kernel("prebuilt", progress)


def look_here() -> Found:
    """What this machine's kernel has."""
    done = subprocess.run(
        ["sh", "-c", _LOOK, "sh", *WANTED],
        capture_output=True,
        text=True,
        timeout=RUN_WAIT,
        check=False,
        env=tools.environment(),
    )
    return Found(done.stdout)


def look(engine: Engine, image: str, labels: Mapping[str, str]) -> Found:
    """What the engine's kernel has."""
    if engine.here:
        return look_here()
    try:
        return Found(_run(engine, image, labels, ["sh", "-c", _LOOK, "sh", *WANTED]))
    except LabError:  # no /lib/modules there
        return Found("")


def load(
    engine: Engine, image: str, labels: Mapping[str, str], found: Found, progress: Progress
) -> Found:
    """Load what recipes may want. LabError with the line to type when that cannot be done here."""
    names = found.to_load
    if not names:
        return found
    line = f"sudo modprobe -a {' '.join(names)}"
    with suppress(LabError):  # what counts is what is loaded now
        _run(engine, image, labels, ["modprobe", "-a", "-q", *names], load=True)
    now = look(engine, image, labels)
    if any(name not in now.loaded for name in REQUIRED):
        raise LabError(
            f"the engine's kernel {engine.kernel} has LVS, but its modules cannot be loaded "
            "through the engine",
            tip=f"on the engine's machine: {line}; or give the hosts kernels of their own: "
            "lab: {kernel: built}",
        )
    loaded = sorted(now.loaded - found.loaded)
    progress(f"loaded into the engine's kernel, and left there: {' '.join(loaded)}")
    return now


def _run(
    engine: Engine,
    image: str,
    labels: Mapping[str, str],
    argv: Iterable[str],
    *,
    load: bool = False,
) -> str:
    """Run a command in a container of its own that sees the engine's modules; what it printed."""
    modules = {
        "Type": "bind", "Source": "/lib/modules", "Target": "/usr/lib/modules", "ReadOnly": True,
    }  # fmt: skip
    words = list(argv)
    config = {
        "Image": image,
        "Entrypoint": words,
        "Labels": dict(labels),
        "HostConfig": {
            "NetworkMode": "none",
            "LogConfig": LOG,
            "CapDrop": ["ALL"],
            "CapAdd": ["SYS_MODULE"] if load else [],
            "SecurityOpt": ["no-new-privileges"],
            "Mounts": [modules],
        },
    }
    with asking("looking at the engine's kernel"):
        made = engine.api.create_container_from_config(config)["Id"]
        try:
            engine.api.start(made)
            ended = engine.api.wait(made, timeout=RUN_WAIT)
            said = engine.api.logs(made, stdout=True, stderr=True).decode(errors="replace")
        finally:
            engine.api.remove_container(made, force=True)
    if ended.get("StatusCode") != 0:
        raise LabError(f"{' '.join(words[:3])}: {said.strip()}")
    return str(said)
