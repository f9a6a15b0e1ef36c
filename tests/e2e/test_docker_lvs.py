"""An engine whose kernel has LVS: dockerd on a kernel with ip_vs and ipip, its containers sharing
that kernel. Here it is one User-Mode Linux kernel with an engine in it, so that it is tested on
machines whose own kernel has nothing of the kind; to lvsfab it is an engine on another machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lvsfab.labs.docker_engine import Engine, connect
from lvsfab.labs.image import build_image
from lvsfab.labs.kernel import Kernel, build_kernel
from lvsfab.labs.rootless import RootlessLab
from lvsfab.model import Host, Inventory, LabSpec
from tests.e2e.conftest import LabUnderTest, inventory_file
from tests.e2e.test_docker import objects
from tests.e2e.test_lab import say

pytestmark = pytest.mark.lab

MEMORY = 3072  # MiB: the engine's store is in it
# Cgroups the old way: with version 2 an engine needs the kernel's BPF, some 60 files to compile.
START = """
umount /sys/fs/cgroup 2>/dev/null
mount -t tmpfs cgroup /sys/fs/cgroup
for one in devices freezer pids; do
  mkdir /sys/fs/cgroup/$one && mount -t cgroup -o $one cgroup /sys/fs/cgroup/$one || exit 1
done
mount -t tmpfs -o size=2g store /var/lib/docker 2>/dev/null ||
  { mkdir -p /var/lib/docker && mount -t tmpfs -o size=2g store /var/lib/docker; }
dockerd >/var/log/dockerd.log 2>&1 </dev/null &
n=0
until [ -S /var/run/docker.sock ] && grep -q 'API listen' /var/log/dockerd.log; do
  n=$((n + 1)); [ $n -lt 300 ] || { tail -20 /var/log/dockerd.log; exit 1; }; sleep 0.2
done
"""


LOOK = """
cat /proc/sys/net/bridge/bridge-nf-call-iptables; iptables -S FORWARD | head -1
cat /proc/sys/net/bridge/bridge-nf-call-ip6tables; ip6tables -S FORWARD | head -1
"""
NEEDS = (
    *("CONFIG_PID_NS", "CONFIG_CGROUP_DEVICE", "CONFIG_CGROUP_FREEZER", "CONFIG_POSIX_MQUEUE"),
    *("bridge", "br_netfilter", "veth", "ip_vs", "ipip"),
)


def engine_kernel() -> Kernel:
    """The lab's own kernel, which an engine can run on as well."""
    kernel = build_kernel("built", say)
    assert not kernel.lacks(NEEDS)
    return kernel


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    path = Path(f"/tmp/lvsfab-ltest-{os.getpid()}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def engine_with_lvs(base: Path) -> Iterator[Engine]:
    """The engine, by a socket of this machine that ssh carries over."""
    inventory = Inventory(
        "engine",
        {"engine": Host("engine", memory=MEMORY)},
        lab=LabSpec(IPv4Network("100.64.7.0/24")),
    )
    image, kernel = build_image(say, "docker.io"), engine_kernel()
    machine = RootlessLab(inventory, directory=base, image=image, kernel=kernel)
    config, sock = base / "ssh_config", base / "docker.sock"
    before = os.environ.get("DOCKER_HOST")
    try:
        machine.up(say)
        config.write_text(machine.ssh_config())
        ssh = ["ssh", "-F", str(config)]
        subprocess.run([*ssh, "engine", START], check=True, timeout=120)
        looked = subprocess.run(
            [*ssh, "engine", LOOK], check=True, timeout=30, stdout=subprocess.PIPE, text=True
        )
        # else the three modes would prove nothing of bridged packets that Docker's rules see
        assert looked.stdout.splitlines()[:2] == ["1", "-P FORWARD DROP"]
        forward = f"{sock}:/var/run/docker.sock"
        with subprocess.Popen([*ssh, "-N", "-L", forward, "engine"]) as carrying:
            end = time.monotonic() + 30
            while not sock.exists() and time.monotonic() < end:
                time.sleep(0.1)
            os.environ["DOCKER_HOST"] = f"unix://{sock}"
            found = connect()
            try:
                yield found
            finally:
                found.api.close()
                carrying.terminate()
    finally:
        os.environ.pop("DOCKER_HOST", None)
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        machine.down(say)


@pytest.fixture(scope="module")
def lab(engine_with_lvs: Engine, base: Path) -> Iterator[LabUnderTest]:
    path = inventory_file(
        base, "lvs", "docker", **{"kernel: built": "kernel: auto", "100.64.10.0": "100.64.6.0"}
    )
    found = LabUnderTest(path, "docker")
    try:
        done = found.cli("lab", "up", timeout=600)
        assert "loaded into the engine's kernel" in done.err
        assert "going through a gate" in done.err
        found.pristine = found.snapshot()
        yield found
    finally:
        found.cli("lab", "down")
        assert objects(engine_with_lvs) == set()


def test_hosts_share_the_engines_kernel(lab: LabUnderTest, engine_with_lvs: Engine) -> None:
    rows = lab.cli("lab", "status", "--json").json["hosts"]
    assert {row["kernel"] for row in rows} == {f"{engine_with_lvs.kernel} (the engine's)"}
    assert {row["state"] for row in rows} <= {"running", "starting"}  # that machine is slow
    assert lab.sh("rs1", "uname -r").strip() == engine_with_lvs.kernel
    configs = [
        engine_with_lvs.api.inspect_container(one["Id"])["HostConfig"]
        for one in engine_with_lvs.api.containers()
    ]
    assert len(configs) == 7
    assert not any(config["Privileged"] for config in configs)
    assert lab.sh("rs1", "echo 1 >/proc/sys/kernel/panic; echo $?").strip().endswith("1")


@pytest.mark.parametrize("mode", ["nat", "dr", "tun"])
def test_up_verify_down(lab: LabUnderTest, mode: str) -> None:
    assert "PROVED" in lab.cli("up", mode).out
    assert lab.cli("up", mode, "--no-verify", "--json").json["changes"] == 0
    lab.cli("down")
    lab.left_nothing()


def test_a_dead_host_is_named_and_so_is_a_dead_gate(
    lab: LabUnderTest, engine_with_lvs: Engine
) -> None:
    engine_with_lvs.api.kill("lvsfab.lvs.rs1")
    done = lab.cli("lab", "ssh", "rs1", "--", "true", code=1)
    assert "rs1 is dead: signal 9" in done.err
    assert lab.cli("lab", "ssh", "rs2", "--", "exit 255", code=255).err == ""
    engine_with_lvs.api.kill("lvsfab.lvs")
    gate = "the lab's gate, the container lvsfab.lvs, is dead"
    assert gate in lab.cli("lab", "ssh", "rs2", "--", "true", code=255).err
    details = {
        row["name"]: row["detail"] for row in lab.cli("lab", "status", "--json").json["hosts"]
    }
    assert gate in details["rs2"]
    assert details["rs1"].startswith("signal 9")
    lab.cli("plan", "tun", code=2)  # a command that wants the lab mends it
    assert lab.sh("rs1", "cat /etc/hostname") == "rs1\n"
    rows = lab.cli("lab", "status", "--json").json["hosts"]
    assert "dead" not in {row["state"] for row in rows}


def test_a_host_reboots_by_itself_as_often_as_it_likes(lab: LabUnderTest) -> None:
    boot = ("run", "rs2", "--", *("cut", "-d", " ", "-f22", "/proc/1/stat"))
    lab.sh("rs2", "echo mine >/root/mine")
    for _ in range(5):
        before = lab.cli(*boot).out
        lab.sh("rs2", "reboot", code=None)
        end = time.monotonic() + 60
        while (now := lab.cli(*boot, code=None)).code != 0 or now.out == before:
            assert time.monotonic() < end, f"it did not come back\n{now}"
            time.sleep(0.5)
    assert lab.sh("rs2", "cat /root/mine") == "mine\n"


def test_reboots(lab: LabUnderTest) -> None:
    lab.sh("rs1", "echo mine >/root/mine")
    lab.cli("lab", "reboot", "--keep", "rs1")
    assert lab.sh("rs1", "cat /root/mine; cat /etc/hostname") == "mine\nrs1\n"
    lab.cli("lab", "reboot", "rs1")
    assert lab.sh("rs1", "ls /root") == ""
