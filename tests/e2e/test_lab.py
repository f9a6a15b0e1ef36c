"""The rootless lab by itself: what its protocol promises, and what accidents do to it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_interface
from pathlib import Path

import pytest

from lvsfab import inventory
from lvsfab.errors import LabError
from lvsfab.labs import cache, runtime
from lvsfab.labs.base import Lab
from lvsfab.labs.image import build_image, find_image
from lvsfab.labs.kernel import Kernel, build_kernel, find_kernel
from lvsfab.labs.rootless import RootlessLab
from lvsfab.model import Host, Interface, Inventory, LabSpec, Network

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parent.parent.parent


def say(line: str) -> None:
    print(line)


def small(name: str = "small") -> Inventory:
    """client -- left -- router -- right -- server"""

    def leg(device: str, network: str, *addresses: str) -> Interface:
        return Interface(device, network, tuple(ip_interface(text) for text in addresses))

    hosts = (
        Host(
            "client",
            interfaces=(leg("eth0", "left", "10.1.0.2/24", "fd01::2/64"),),
            gateways=(ip_address("10.1.0.1"), ip_address("fd01::1")),
        ),
        Host(
            "router",
            forward=True,
            interfaces=(
                leg("eth0", "left", "10.1.0.1/24", "fd01::1/64"),
                leg("wan", "right", "10.2.0.1/24", "fd02::1/64", "10.2.0.9/24"),
            ),
        ),
        Host(
            "server",
            interfaces=(leg("eth0", "right", "10.2.0.2/24", "fd02::2/64"),),
            gateways=(ip_address("10.2.0.1"), ip_address("fd02::1")),
            memory=96,
        ),
    )
    return Inventory(
        name,
        {host.name: host for host in hosts},
        {"left": Network("left", mtu=9000), "right": Network("right", mtu=1400)},
        lab=LabSpec(IPv4Network("100.64.9.0/24")),
    )


@pytest.fixture
def base() -> Iterator[Path]:
    """A runtime directory of the test's own: short, as a user's is."""
    path = Path(f"/tmp/lvsfab-test-{os.getpid()}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def lab(base: Path) -> Iterator[RootlessLab]:
    lab = RootlessLab(small(), directory=base)
    try:
        lab.up(say)
        yield lab
    finally:
        lab.down(say)


def any_kernel() -> Kernel:
    return find_kernel("built") or find_kernel("prebuilt") or build_kernel("prebuilt", say)


def ssh(lab: RootlessLab, host: str, script: str) -> str:
    """What a person's own ssh does with the generated configuration."""
    config = lab.directory.parent / "ssh_config"
    config.write_text(lab.ssh_config())
    done = subprocess.run(
        ["ssh", "-F", str(config), host, script],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def keeper(lab: RootlessLab) -> runtime.Identity:
    found = runtime.recorded_keeper(lab.directory)
    assert found is not None
    return found


def inside(namespace: str) -> set[int]:
    """The processes of a PID namespace, by their numbers outside."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str((entry / "ns/pid").readlink()) == namespace:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def kernel_of(lab: RootlessLab, host: str) -> int:
    """The process outside that is the kernel of `host` (its uml_dir has its mconsole)."""
    number = list(lab._inventory.hosts).index(host)
    for pid in inside(pid_namespace(keeper(lab).pid)):
        with suppress(OSError):  # a host's program that has ended since
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(f"ifname=h{number}v0,".encode() in word for word in words):
                return pid
    raise AssertionError(f"no kernel of {host}")


def each_on_one_processor(pids: Iterable[int]) -> None:
    """A kernel and its processes take turns; the kernels use all processors there are."""
    chosen = [os.sched_getaffinity(pid) for pid in pids]
    assert {len(one) for one in chosen} == {1}
    assert len(set().union(*chosen)) == min(len(chosen), len(os.sched_getaffinity(0)))


def session(pid: int) -> int:
    """The session a process is in: each host's kernel leads one."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def wait_gone(pids: set[int], seconds: float = 10) -> set[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pids = {pid for pid in pids if runtime.identity(pid) is not None}
        if not pids:
            break
        time.sleep(0.05)
    return pids


def machine_state() -> tuple[list[str], set[str], set[str]]:
    """What a lab could leave: mounts, and files where kernels keep their memory. Not counted: the
    mounts of Docker engines, whose tests run beside these.
    """
    there = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line for line in there if not re.search(r"lvsfab-(engine\.|dtest-)|/docker/", line)]
    shared = {file.name for file in Path("/dev/shm").iterdir()}
    return mounts, shared, {file.name for file in Path("/tmp").glob("vm_file*")}


def test_hosts_are_what_the_inventory_says(lab: RootlessLab) -> None:
    assert {status.name: status.state for status in lab.status()} == {
        "client": "running",
        "router": "running",
        "server": "running",
    }
    addresses = ssh(lab, "router", "ip -brief address; cat /etc/hostname; hostname")
    assert "10.1.0.1/24" in addresses
    assert addresses.endswith("router\nrouter\n")
    wan = ssh(lab, "router", "ip -o address show wan scope global; cat /sys/class/net/wan/mtu")
    for text in ("10.2.0.1/24", "10.2.0.9/24", "fd02::1/64", "\n1400\n"):
        assert text in wan
    assert "tentative" not in wan
    each_on_one_processor(kernel_of(lab, host) for host in ("client", "router", "server"))
    assert ssh(lab, "client", "sysctl -n net.ipv4.ip_forward").strip() == "0"
    assert ssh(lab, "server", "getent hosts client").split() == ["fd01::2", "client"]
    assert ssh(lab, "server", "ls -d /lvsfab 2>&1; ls /mnt; id -u").strip().endswith("0")


def test_the_cache_is_held_while_the_lab_runs(lab: RootlessLab) -> None:
    """`cache.prune` spares entries whose `held` file somebody has locked."""
    image = find_image()
    assert image is not None
    inode = (image.parent / "held").stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    holders = {int(words[4]) for words in locks if words[5].endswith(f":{inode}")}
    assert keeper(lab).pid in holders


def test_packets_of_both_families_cross_the_router_and_long_transfers_arrive(
    lab: RootlessLab,
) -> None:
    assert " 0% packet loss" in ssh(lab, "client", "ping -c2 -W5 10.2.0.2")
    assert " 0% packet loss" in ssh(lab, "client", "ping -c2 -W5 fd02::2")
    ssh(lab, "server", "head -c 4000000 /dev/urandom >/root/data")
    ssh(lab, "server", "socat -U TCP-LISTEN:99 OPEN:/root/data >/dev/null 2>&1 & sleep 0.3")
    got = ssh(lab, "client", "timeout 20 socat -u TCP:10.2.0.2:99 - | sha256sum; nstat -az")
    assert got.split()[0] == ssh(lab, "server", "sha256sum </root/data").split()[0]


def test_ssh_carries_data_both_ways(lab: RootlessLab) -> None:
    assert len(ssh(lab, "server", "head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    config = lab.directory.parent / "ssh_config"
    config.write_text(lab.ssh_config())
    sent = subprocess.run(
        ["ssh", "-F", str(config), "server", "wc -c"],
        input=b"x" * 3_000_000,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert int(sent.stdout) == 3_000_000


def test_up_again_changes_nothing(lab: RootlessLab) -> None:
    ssh(lab, "client", "touch /root/mine")
    before = keeper(lab)
    lab.up(say)
    assert keeper(lab) == before
    assert ssh(lab, "client", "ls /root/mine") == "/root/mine\n"


def test_two_lvsfab_at_once_make_one_lab(base: Path) -> None:
    lab = RootlessLab(small(), directory=base)
    children = []
    try:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    RootlessLab(small(), directory=base).up(lambda _: None)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert ended == [0, 0, 0]
        assert len(_keepers(base)) == 1
    finally:
        lab.down(say)


def test_a_keeper_whose_directory_is_gone_ends(base: Path) -> None:
    lab = RootlessLab(small(), directory=base)
    lab.up(say)
    processes = inside(pid_namespace(keeper(lab).pid))
    shutil.rmtree(lab.directory)
    assert wait_gone(processes, 20) == set()


def test_a_host_runs_by_ptrace_where_seccomp_does_not_do(lab: RootlessLab) -> None:
    lab.kill("server")
    lab._ask({"do": "start", "host": "server", "seccomp": False})
    lab.up(say)
    assert "seccomp=off" in Path(f"/proc/{kernel_of(lab, 'server')}/cmdline").read_text()
    assert ssh(lab, "server", "hostname") == "server\n"


def reboot_while_others_ask(lab: Lab, host: str) -> None:
    """Reboot with the disk kept, while another asks as each command does before its work."""
    ended, said = threading.Event(), list[str]()

    def other() -> None:
        while not ended.is_set():
            if not lab.whole():
                said.append("")
                lab.up(said.append)

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(other)
        try:
            lab.reboot(host, keep=True, progress=say)
        finally:
            ended.set()
        asking.result()
    assert said, "nobody saw it off"
    assert not "".join(said)


def test_reboot_pristine_and_with_the_disk_kept(lab: RootlessLab) -> None:
    setup = """
        echo mine >/root/mine
        echo net.ipv4.conf.all.arp_ignore=1 >/etc/sysctl.d/lvs.conf
        echo dummy >/etc/modules-load.d/lvs.conf
        printf '#!/bin/sh\\necho "$1" >/run/service\\n' >/etc/init.d/mine
        chmod +x /etc/init.d/mine
        ln -s ../init.d/mine /etc/rc2.d/S01mine
    """
    look = "cat /root/mine; cat /proc/sys/net/ipv4/conf/all/arp_ignore; ls -d /sys/module/dummy"
    ssh(lab, "server", setup)
    reboot_while_others_ask(lab, "server")
    assert ssh(lab, "server", look) == "mine\n1\n/sys/module/dummy\n"
    assert ssh(lab, "server", "cat /run/service") == "start\n"
    lab.reboot("server", keep=False, progress=say)
    found = ssh(lab, "server", f"{{ {look}; }} 2>&1; true").splitlines()
    assert [line.partition(":")[0] for line in found] == ["cat", "0", "ls"]


def test_a_power_cut_keeps_what_was_synced(lab: RootlessLab) -> None:
    ssh(lab, "server", "echo mine >/root/mine; sync")
    lab.kill("server")
    assert [s.state for s in lab.status()] == ["running", "running", "dead"]
    lab.reboot("server", keep=True, progress=say)
    assert ssh(lab, "server", "cat /root/mine") == "mine\n"


def test_a_host_reboots_and_powers_off_by_itself(lab: RootlessLab) -> None:
    old = ssh(lab, "server", "echo mine >/root/mine; cat /proc/sys/kernel/random/boot_id")
    config = str(lab.directory.parent / "ssh_config")
    subprocess.run(["ssh", "-F", config, "server", "reboot"], timeout=60, check=False)
    end = time.monotonic() + 60
    new = old
    while new == old and time.monotonic() < end:
        time.sleep(0.3)
        look = ["ssh", "-F", config, "server", "cat /proc/sys/kernel/random/boot_id /root/mine"]
        new = (
            subprocess.run(
                look, capture_output=True, text=True, timeout=60, check=False
            ).stdout.replace("mine\n", "")
            or old
        )
    assert new != old
    subprocess.run(["ssh", "-F", config, "server", "poweroff"], timeout=60, check=False)
    while lab.status()[2].state != "dead" and time.monotonic() < end:
        time.sleep(0.2)
    assert lab.status()[2].detail.startswith("exit status 0")
    assert "reboot: Power down" in lab.log("server").read_text()


def test_a_killed_kernel_is_started_again_pristine(lab: RootlessLab) -> None:
    ssh(lab, "server", "echo mine >/root/mine; sync")
    namespace = pid_namespace(keeper(lab).pid)
    before = inside(namespace)
    kernel = kernel_of(lab, "server")
    own = {pid for pid in before if session(pid) == kernel}
    assert len(own) > 2
    os.kill(kernel, signal.SIGKILL)
    assert wait_gone(own) == set()
    end = time.monotonic() + 10
    while lab.status()[2].state != "dead" and time.monotonic() < end:
        time.sleep(0.05)
    assert lab.status()[2].detail.startswith("signal 9")
    others = {kernel_of(lab, "client"), kernel_of(lab, "router")}
    lab.up(say)
    assert ssh(lab, "server", "ls /root") == ""
    assert {kernel_of(lab, "client"), kernel_of(lab, "router")} == others


def test_a_kernel_that_panics_is_dead_with_its_last_words(lab: RootlessLab) -> None:
    config = str(lab.directory.parent / "ssh_config")
    Path(config).write_text(lab.ssh_config())
    crash = "sysctl -q -w kernel.sysrq=1; sync; echo c >/proc/sysrq-trigger"
    with subprocess.Popen(["ssh", "-F", config, "server", crash]) as crashing:
        end = time.monotonic() + 30
        while lab.status()[2].state != "dead" and time.monotonic() < end:
            time.sleep(0.1)
        crashing.terminate()
    assert "Kernel panic" in lab.status()[2].detail
    lab.up(say)
    assert {status.state for status in lab.status()} == {"running"}


def test_orphans_are_reaped(lab: RootlessLab) -> None:
    orphans = "for i in 1 2 3 4; do (sh -c 'sleep 0.2 & sleep 0.1' &); done; sleep 1; ps ax -o stat"
    assert "Z" not in ssh(lab, "server", orphans).replace("SZ", "")


def test_networks_carry_frames_of_their_mtu(lab: RootlessLab) -> None:
    ping = "ping -c2 -W5 -M do"
    assert " 0% packet loss" in ssh(lab, "client", f"{ping} -s 8972 10.1.0.1")
    assert " 0% packet loss" in ssh(lab, "router", f"{ping} -s 1372 10.2.0.2")
    refused = ssh(lab, "client", f"{ping} -s 1373 10.2.0.2 2>&1; true")
    assert "mtu" in refused.lower(), refused


def test_a_killed_keeper_takes_all_with_it_and_up_comes_back(lab: RootlessLab) -> None:
    was = keeper(lab)
    processes = inside(pid_namespace(was.pid))
    assert len(processes) > 6
    os.kill(was.pid, signal.SIGKILL)
    assert wait_gone(processes) == set()
    assert not lab.running()
    assert {status.state for status in lab.status()} == {"absent"}
    with pytest.raises(LabError, match="not up"):
        lab.dial("client", 5)
    lab.up(say)
    assert keeper(lab) != was
    assert ssh(lab, "client", "hostname") == "client\n"


def test_a_stopped_keeper_is_replaced(lab: RootlessLab) -> None:
    was = keeper(lab)
    processes = inside(pid_namespace(was.pid))
    os.kill(was.pid, signal.SIGSTOP)
    lab.up(say)
    assert wait_gone(processes) == set()
    assert ssh(lab, "client", "hostname") == "client\n"


def test_a_pid_that_is_somebody_elses_now_is_left_alone(base: Path) -> None:
    lab = RootlessLab(small(), directory=base)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        who = runtime.identity(stranger.pid)
        assert who is not None
        lab.directory.mkdir(mode=0o700)
        (lab.directory / "keeper").write_text(replace(who, start=who.start - 1).text())
        lab.down(say)
        assert stranger.poll() is None
        stranger.kill()
    assert not lab.directory.exists()


def test_down_leaves_nothing(base: Path) -> None:
    before = machine_state()
    lab = RootlessLab(small(), directory=base)
    lab.up(say)
    processes = inside(pid_namespace(keeper(lab).pid))
    lab.down(say)
    assert {pid for pid in processes if runtime.identity(pid) is not None} == set()
    assert machine_state() == before
    assert not base.exists()
    lab.down(say)


def test_lvsfab_killed_in_the_middle_of_up(base: Path) -> None:
    lab = RootlessLab(small(), directory=base)
    for delay in (0.0, 0.05, 0.15, 0.4):
        child = os.fork()
        if child == 0:
            RootlessLab(small(), directory=base).up(lambda _: None)
            os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        lab.up(say)
        assert ssh(lab, "client", "hostname") == "client\n"
        assert len(_keepers(base)) == 1
    finally:
        lab.down(say)
    assert _keepers(base) == []


def _keepers(base: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lvsfab.labs.keeper" in words and any(str(base).encode() in word for word in words):
            found.append(int(entry.name))
    return found


def test_two_labs_side_by_side_and_one_name_twice(lab: RootlessLab, base: Path) -> None:
    other = RootlessLab(small("other"), directory=base)
    try:
        other.up(say)
        ssh(other, "client", "touch /root/other")
        assert ssh(lab, "client", "ls /root") == ""
        assert keeper(lab) != keeper(other)
    finally:
        other.down(say)
    assert lab.running()
    hosts = {name: host for name, host in small().hosts.items() if name != "server"}
    changed = RootlessLab(replace(small(), hosts=hosts), directory=base)
    with pytest.raises(LabError, match="a lab named small is up"):
        changed.up(say)
    with pytest.raises(LabError, match="a lab named small is up"):
        changed.login("client")
    assert lab.running()


def test_a_machine_without_user_namespaces_says_what_would_allow_them(base: Path) -> None:
    """In a user namespace of the test's own, where none further may be made."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.e2e.test_lab import RootlessLab, small, say\n"
        "from lvsfab.errors import LabError\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "try: RootlessLab(small(), directory=Path(sys.argv[2])).up(say)\n"
        "except LabError as error: print(error.message, '|', error.tip)\n"
    )
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", script, str(ROOT), str(base)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "sudo sysctl -w user.max_user_namespaces=" in done.stdout, done.stdout + done.stderr


def test_a_kernel_that_cannot_start_shows_its_console(base: Path, tmp_path: Path) -> None:
    kernel = any_kernel()
    broken = tmp_path / "linux"
    broken.write_text("#!/bin/sh\necho no such luck; exit 3\n")
    broken.chmod(0o755)
    lab = RootlessLab(small(), directory=base, kernel=replace(kernel, linux=broken))
    try:
        with pytest.raises(LabError, match=r"(?s)exit status 3.*no such luck"):
            lab.up(say)
    finally:
        lab.down(say)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are an ordinary user's already")
def test_an_ordinary_user_has_the_same_lab() -> None:
    user = f"lvsfabtest{os.getpid()}"
    subprocess.run(["useradd", "--create-home", user], check=True, timeout=20)
    try:
        entry = pwd.getpwnam(user)
        home = Path(entry.pw_dir)
        image, kernel = find_image() or build_image(say), any_kernel()
        copied = home / "cache"
        copied.mkdir()
        for part in (image.parent, kernel.entry):
            subprocess.run(["cp", "-a", str(part), str(copied)], check=True, timeout=120)
        subprocess.run(["chown", "-R", user, str(copied)], check=True, timeout=60)
        child = os.fork()
        if child == 0:
            os._exit(_as_user(entry, copied))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        subprocess.run(["userdel", "--remove", user], check=True, timeout=60, capture_output=True)


def _as_user(entry: pwd.struct_passwd, copied: Path) -> int:
    """In a child: become the user and use a lab. The user may not be able to reach root's
    Python; the keeper needs none but the machine's.
    """
    try:
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ.update(HOME=entry.pw_dir, LVSFAB_CACHE=str(copied), XDG_RUNTIME_DIR="")
        if not os.access(sys.executable, os.X_OK):
            sys.executable = str(shutil.which("python3", path="/usr/bin:/usr/local/bin"))
        assert cache.root() == copied
        before = machine_state()
        lab = RootlessLab(small())
        lab.up(say)
        try:
            assert lab.directory.parent == Path(f"/tmp/lvsfab-{entry.pw_uid}")
            with lab.dial("server", 10) as talk:
                assert talk.recv(8) == b"SSH-2.0-"
            script = "ping -c1 -W5 10.2.0.2; chown www-data /etc/hosts; stat -c %U /etc/hosts"
            config = Path(entry.pw_dir) / "config"
            config.write_text(lab.ssh_config())
            got = subprocess.run(
                ["ssh", "-F", str(config), "client", script],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert " 0% packet loss" in got.stdout, got
            assert got.stdout.endswith("www-data\n"), got
        finally:
            lab.down(say)
        assert machine_state() == before
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


# the one from source takes minutes to build: it is tested where somebody has built it
@pytest.mark.parametrize("origin", ["prebuilt", *(o for o in ("built",) if find_kernel(o))])
def test_the_default_lab_with_each_kernel_of_the_cache(base: Path, origin: str) -> None:
    kernel = find_kernel(origin) or build_kernel(origin, say)
    default = inventory.load(ROOT / "inventory/lab.yml")
    lab = RootlessLab(default, directory=base, kernel=kernel)
    try:
        lab.up(say)
        assert " 0% packet loss" in ssh(lab, "client", "ping -c1 -W5 198.51.100.22")
        assert ssh(lab, "client", "uname -r").strip() == kernel.version
        ssh(
            lab, "director", "modprobe ip_vs_wrr && ipvsadm -A -t 10.1.1.9:80 -s wrr && ipvsadm -Ln"
        )
        assert {s.state for s in lab.status()} == {"running"}
    finally:
        lab.down(say)
