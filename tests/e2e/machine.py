"""What a Docker engine could leave on this machine. Other engines may be at work beside it, in
network namespaces of their own (.ci/docker alone).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


def traces() -> dict[str, list[str]]:
    """Its interfaces, rules, forwarding, directories, groups of processes, mounts, processes."""
    networks, groups = Path("/sys/class/net"), Path("/sys/fs/cgroup")
    switches = [Path("/proc/sys/net", name) for name in FORWARDING]
    mounts = Path("/proc/mounts").read_text().splitlines()
    return {
        "interfaces": sorted(p.name for p in networks.iterdir() if not p.name.startswith("veth")),
        "rules": [*_rules("iptables-save"), *_rules("ip6tables-save")],
        "forwarding": [path.read_text().strip() for path in switches if path.exists()],
        "directories": [d for d in ("/run/docker", "/run/containerd") if Path(d).exists()],
        "groups": sorted(str(p) for p in groups.rglob("lvsfab-engine.*") if not _lives(p.name)),
        "mounts": [line for line in mounts if "lvsfab-engine" in line],
        "processes": sorted(set(_processes()) & {"dockerd", "containerd"}),
    }


def _rules(program: str) -> list[str]:
    """Chains and rules that do anything: not those that are empty and let all pass."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        return []
    said = subprocess.run([path], capture_output=True, text=True, check=True, timeout=60).stdout
    lines = [line.partition(" [")[0] for line in said.splitlines()]
    return [
        line
        for line in lines
        if line.startswith("-A") or (line.startswith(":") and not line.endswith(" ACCEPT"))
    ]


def _lives(engine: str) -> bool:
    return Path(tempfile.gettempdir(), engine, "pid").exists()


def _processes() -> list[str]:
    """Those of this network namespace."""
    found, here = [], Path("/proc/self/ns/net").readlink()
    for process in Path("/proc").iterdir():
        try:
            if (process / "ns/net").readlink() == here:
                found.append((process / "comm").read_text().strip())
        except OSError:  # none, or it has ended
            continue
    return found
