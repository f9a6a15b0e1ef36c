"""The Docker lab by itself: what its protocol promises, and what accidents do to it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import docker_image
from lvsfab.labs import docker_plan as plan
from lvsfab.labs.docker import DockerLab
from lvsfab.labs.docker_engine import Engine, connect
from lvsfab.labs.rootless import RootlessLab
from lvsfab.model import Inventory
from tests.e2e.conftest import ROOT, cli, connected, inventory_file
from tests.e2e.test_lab import each_on_one_processor, reboot_while_others_ask, say, small

pytestmark = pytest.mark.lab


def inventory(name: str = "dsmall") -> Inventory:
    """As `small`, with a kernel for each host whatever the engine's has."""
    found = small(name)
    assert found.lab is not None
    return replace(found, lab=replace(found.lab, kernel="built"))


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(f"/tmp/lvsfab-dtest-{os.getpid()}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def lab(base: Path, engine: Engine) -> Iterator[DockerLab]:
    lab = DockerLab(inventory(), directory=base, engine=engine)
    try:
        lab.up(say)
        yield lab
    finally:
        lab.down(say)


def objects(engine: Engine) -> set[str]:
    """Everything of ours on the engine, but for images."""
    api = engine.api
    found = {str(c["Names"]) for c in api.containers(all=True) if plan.LAB in c["Labels"]}
    found |= {n["Name"] for n in api.networks() if plan.LAB in (n["Labels"] or {})}
    return found | {v["Name"] for v in api.volumes()["Volumes"] or ()}


def ssh(lab: DockerLab, host: str, script: str, *, data: bytes = b"") -> str:
    config = lab.directory.parent / "ssh_config"
    config.write_text(lab.ssh_config())
    done = subprocess.run(
        ["ssh", "-F", str(config), host, script],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode()


def state(lab: DockerLab, host: str) -> str:
    return {status.name: status.state for status in lab.status()}[host]


def wait_state(lab: DockerLab, host: str, wanted: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while state(lab, host) != wanted:
        assert time.monotonic() < end, f"{host} is {state(lab, host)}, not {wanted}"
        time.sleep(0.1)


def test_hosts_are_what_the_inventory_says(lab: DockerLab, engine: Engine) -> None:
    addresses = ssh(lab, "router", "ip -brief address; cat /etc/hostname; hostname")
    assert "10.1.0.1/24" in addresses
    assert addresses.endswith("router\nrouter\n")
    wan = ssh(lab, "router", "ip -o address show wan scope global; cat /sys/class/net/wan/mtu")
    for text in ("10.2.0.1/24", "10.2.0.9/24", "fd02::1/64", "\n1400\n"):
        assert text in wan
    assert ssh(lab, "client", "sysctl -n net.ipv4.ip_forward").strip() == "0"
    assert " 0% packet loss" in ssh(lab, "client", "ping -c2 -W5 10.2.0.2")
    assert " 0% packet loss" in ssh(lab, "client", "ping -c2 -W5 fd02::2")
    ping = "ping -c2 -W5 -M do"
    assert " 0% packet loss" in ssh(lab, "client", f"{ping} -s 8972 10.1.0.1")
    refused = ssh(lab, "client", f"{ping} -s 1373 10.2.0.2 2>&1; true")
    assert "mtu" in refused.lower(), refused
    # a container's own address on the engine's network is the host's, where it can be
    made = engine.api.inspect_container(plan.container_name(lab.name, "server"))
    networks = made["NetworkSettings"]["Networks"]
    assert networks[plan.network_name(lab.name, "right")]["IPAddress"] == "10.2.0.2"
    pids = [
        int(row[1])
        for host in ("client", "router", "server")
        for row in engine.api.top(plan.container_name(lab.name, host))["Processes"]
        if row[-1].startswith("/usr/lib/lvsfab/linux ")
    ]
    assert len(pids) == 3
    each_on_one_processor(pids)


def test_long_transfers_arrive(lab: DockerLab) -> None:
    assert ssh(lab, "server", "wc -c", data=b"x" * 3_000_000).strip() == "3000000"
    assert len(ssh(lab, "server", "head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    ssh(lab, "server", "head -c 4000000 /dev/urandom >/root/data")
    ssh(lab, "server", "socat -U TCP-LISTEN:99 OPEN:/root/data >/dev/null 2>&1 & sleep 0.3")
    got = ssh(lab, "client", "timeout 20 socat -u TCP:10.2.0.2:99 - | sha256sum")
    assert got.split()[0] == ssh(lab, "server", "sha256sum </root/data").split()[0]


def test_privileges_are_two_and_no_more(lab: DockerLab, engine: Engine) -> None:
    name = plan.container_name(lab.name, "server")
    config = engine.api.inspect_container(name)["HostConfig"]
    assert not config["Privileged"]
    assert config["CapDrop"] == ["ALL"]
    assert config["CapAdd"] == ["NET_ADMIN", "NET_RAW"]
    pid = engine.api.inspect_container(name)["State"]["Pid"]
    said = re.findall(
        r"^(?:CapEff|NoNewPrivs|Seccomp):\s*(\w+)",
        Path(f"/proc/{pid}/status").read_text(),
        flags=re.MULTILINE,
    )
    assert said == ["0000000000003000", "1", "2"]


def test_up_again_changes_nothing(lab: DockerLab, engine: Engine) -> None:
    ssh(lab, "client", "touch /root/mine")
    said: list[str] = []
    lab.up(said.append)
    assert said == []
    assert ssh(lab, "client", "ls /root/mine") == "/root/mine\n"


def test_reboot_pristine_and_with_the_disk_kept(lab: DockerLab) -> None:
    look = "cat /root/mine; cat /proc/sys/net/ipv4/conf/all/arp_ignore"
    ssh(
        lab,
        "server",
        "echo mine >/root/mine; echo net.ipv4.conf.all.arp_ignore=1 >/etc/sysctl.d/lvs.conf",
    )
    reboot_while_others_ask(lab, "server")
    assert ssh(lab, "server", look) == "mine\n1\n"
    lab.reboot("server", keep=False, progress=say)
    found = ssh(lab, "server", f"{{ {look}; }} 2>&1; true").splitlines()
    assert [line.partition(":")[0] for line in found] == ["cat", "0"]
    assert "reboot: Power down" in lab.log("server").read_text()


def test_a_host_reboots_and_powers_off_by_itself(lab: DockerLab) -> None:
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    old = ssh(lab, "server", f"echo mine >/root/mine; {boot_id}")
    config = ["ssh", "-F", str(lab.directory.parent / "ssh_config"), "server"]
    subprocess.run([*config, "reboot"], timeout=60, check=False, capture_output=True)
    end, new = time.monotonic() + 60, old
    while new in (old, "") and time.monotonic() < end:
        time.sleep(0.3)
        new = subprocess.run(
            [*config, boot_id], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    assert new not in (old, "")
    assert ssh(lab, "server", "cat /root/mine") == "mine\n"
    subprocess.run([*config, "poweroff"], timeout=60, check=False, capture_output=True)
    wait_state(lab, "server", "dead")
    assert lab.status()[2].detail.startswith("exit status 0")


def test_a_dead_container_is_named_and_started_again(lab: DockerLab, engine: Engine) -> None:
    ssh(lab, "server", "echo mine >/root/mine; sync")
    engine.api.kill(plan.container_name(lab.name, "server"))
    wait_state(lab, "server", "dead")
    status = lab.status()
    assert status[2].detail.startswith("signal 9")
    assert status[2].resident is None
    assert 10 < (status[1].resident or 0) < status[1].memory
    with pytest.raises(LabError, match=r"(?s)server: its container is dead: signal 9") as raised:
        lab.dial("server", 5)
    assert raised.value.tip == "lvsfab lab up"
    said: list[str] = []
    lab.up(said.append)
    assert said[0].startswith("server: was dead (Exited (137)")
    assert ssh(lab, "server", "ls /root") == ""
    assert {status.state for status in lab.status()} == {"running"}


def test_a_kernel_that_panics_is_dead_with_its_last_words(lab: DockerLab) -> None:
    config = lab.directory.parent / "ssh_config"
    config.write_text(lab.ssh_config())
    crash = "sysctl -q -w kernel.sysrq=1; sync; echo c >/proc/sysrq-trigger"
    with subprocess.Popen(["ssh", "-F", str(config), "server", crash]) as crashing:
        wait_state(lab, "server", "dead")
        crashing.terminate()
    assert "Kernel panic" in lab.status()[2].detail


def test_what_is_no_kernels_death_is_told_and_not_tried_otherwise(
    lab: DockerLab, engine: Engine
) -> None:
    spec = lab.directory / "spec"
    made = json.loads(spec.read_text())
    lab.kill("server")
    spec.write_text(json.dumps(made | {"disk": 0}))
    with pytest.raises(LabError, match=r"(?s)server: exit status 74\n.*mke2fs"):
        lab.up(say)
    config = engine.api.inspect_container(plan.container_name(lab.name, "server"))["HostConfig"]
    assert config["CapAdd"] == ["NET_ADMIN", "NET_RAW"]
    spec.write_text(json.dumps(made))
    lab.up(say)
    assert ssh(lab, "server", "hostname") == "server\n"


def test_a_host_that_traces_has_no_new_privileges_either(lab: DockerLab, engine: Engine) -> None:
    spec = lab.directory / "spec"
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"ptrace": ["server"]}))
    lab.reboot("server", keep=False, progress=say)
    name = plan.container_name(lab.name, "server")
    pid = engine.api.inspect_container(name)["State"]["Pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.findall(r"^(?:NoNewPrivs|Seccomp):\s*(\w+)", status, re.MULTILINE) == ["1", "0"]
    assert "seccomp=off" in str(engine.api.top(name, "axww -o pid,args"))
    assert ssh(lab, "server", "hostname") == "server\n"


def test_a_second_lab_of_that_name_on_the_other_backend_is_refused(
    lab: DockerLab, base: Path
) -> None:
    with pytest.raises(LabError, match=r"up already, on the other backend \(docker\)") as raised:
        RootlessLab(inventory(), directory=base).up(say)
    assert "lvsfab lab down --backend docker" in raised.value.tip
    assert ssh(lab, "server", "hostname") == "server\n"


def test_a_removed_container_is_made_again(lab: DockerLab, engine: Engine) -> None:
    engine.api.remove_container(plan.container_name(lab.name, "router"), force=True)
    assert state(lab, "router") == "absent"
    with pytest.raises(LabError, match="router: its container is dead: its container was removed"):
        lab.dial("router", 5)
    lab.up(say)
    assert " 0% packet loss" in ssh(lab, "client", "ping -c2 -W5 10.2.0.2")


def test_a_network_that_others_are_on_is_named_by_down(lab: DockerLab, engine: Engine) -> None:
    """A person's own container on a lab's network is left alone, and the rest of the lab goes."""
    image = engine.api.inspect_container(plan.container_name(lab.name, "client"))["Image"]
    theirs = {"Image": image, "Entrypoint": ["sleep", "300"], "StopSignal": "SIGKILL"}
    network = plan.network_name(lab.name, "left")
    made = engine.api.create_container_from_config(
        {**theirs, "HostConfig": {"NetworkMode": network}}
    )["Id"]
    try:
        engine.api.start(made)
        with pytest.raises(LabError, match=f"removing network {network}: .*endpoints") as raised:
            lab.down(say)
        assert "docker network disconnect --force" in raised.value.tip
        assert {name for name in objects(engine) if lab.name in name} == {network}
        assert engine.api.inspect_container(made)["State"]["Running"]
    finally:
        engine.api.remove_container(made, force=True)
    lab.down(say)
    assert not [name for name in objects(engine) if lab.name in name]


def test_two_labs_side_by_side_and_each_takes_down_its_own(
    lab: DockerLab, base: Path, engine: Engine
) -> None:
    before = objects(engine)
    text = {"10.1.0.": "10.3.0.", "10.2.0.": "10.4.0."}
    other = DockerLab(_moved("dother", text), directory=base, engine=engine)
    try:
        other.up(say)
        ssh(other, "client", "touch /root/other")
        assert ssh(lab, "client", "ls /root") == ""
    finally:
        other.down(say)
    assert objects(engine) == before
    assert {status.state for status in lab.status()} == {"running"}


def _moved(name: str, texts: dict[str, str]) -> Inventory:
    from lvsfab import inventory as inventories
    from lvsfab.document import parse

    body = f"""
name: {name}
lab: {{management: 100.64.8.0/24, kernel: built}}
networks: {{left: {{subnets: [10.1.0.0/24]}}, right: {{subnets: [10.2.0.0/24]}}}}
hosts:
  client: {{interfaces: {{eth0: {{network: left, addresses: [10.1.0.2/24]}}}}}}
  server: {{interfaces: {{eth0: {{network: right, addresses: [10.2.0.2/24]}}}}}}
"""
    for old, new in texts.items():
        body = body.replace(old, new)
    return inventories.read(parse(body.encode(), Path("moved.yml")))


def test_a_clash_of_subnets_is_said_before_anything_is_made(base: Path, engine: Engine) -> None:
    from docker.types import IPAMConfig, IPAMPool

    pool = IPAMConfig(pool_configs=[IPAMPool(subnet="10.2.0.128/25")])
    theirs = engine.api.create_network(f"theirs-{os.getpid()}", ipam=pool)["Id"]
    before = objects(engine)
    lab = DockerLab(inventory(), directory=base, engine=engine)
    try:
        with pytest.raises(LabError, match=r"10\.2\.0\.0/24 overlaps 10\.2\.0\.128/25 .* theirs-"):
            lab.up(say)
        assert objects(engine) == before
        lab.down(say)
        assert engine.api.inspect_network(theirs)["Id"] == theirs
    finally:
        engine.api.remove_network(theirs)
    route = replace(inventory(), lab=replace(_spec(), management=IPv4Network("127.0.0.0/24")))
    assert not plan.route_clashes(plan.segments(route)[:1], "Iface\n")


def _spec() -> Any:
    found = inventory().lab
    assert found is not None
    return found


def test_a_name_that_is_somebody_elses_is_left_alone(
    lab: DockerLab, base: Path, engine: Engine
) -> None:
    before = objects(engine)
    other = base / "other"
    other.mkdir(mode=0o700)
    with pytest.raises(LabError, match="a lab named dsmall is on this engine already"):
        DockerLab(inventory(), directory=other, engine=engine).up(say)
    DockerLab(inventory(), directory=other, engine=engine).down(say)
    assert objects(engine) == before
    hosts = {name: host for name, host in inventory().hosts.items() if name != "server"}
    with pytest.raises(LabError, match="a lab named dsmall is up"):
        DockerLab(replace(inventory(), hosts=hosts), directory=base, engine=engine).up(say)


def test_down_leaves_nothing_even_when_the_lab_forgot_itself(base: Path, engine: Engine) -> None:
    before = objects(engine)
    lab = DockerLab(inventory(), directory=base, engine=engine)
    lab.up(say)
    assert len(objects(engine) - before) == 6
    shutil.rmtree(lab.directory)
    assert {status.state for status in lab.status()} == {"absent"}
    lab.down(say)
    assert objects(engine) == before
    lab.down(say)


@pytest.mark.parametrize("gone", ["lvsfab", "."])
def test_down_finds_a_lab_whose_runtime_directory_went(
    base: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """As after a logout or a restart: empty when the user comes back, or not there at all."""
    before = objects(engine)
    login = base / "login"
    login.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(login))
    path = inventory_file(base, "went", "auto", **{"100.64.10.0": "100.64.2.0"})
    try:
        cli("lab", "up", "-i", str(path), "--backend", "docker")
        assert len(objects(engine) - before) == 11
        shutil.rmtree(login / gone)
        assert "down, nothing is left of it" in cli("lab", "down", "-i", str(path)).err
        assert objects(engine) == before
    finally:
        cli("lab", "down", "-i", str(path), "--backend", "docker")


def test_lvsfab_killed_in_the_middle_of_up(base: Path, engine: Engine) -> None:
    before = objects(engine)
    lab = DockerLab(inventory(), directory=base, engine=engine)
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.e2e.test_docker import DockerLab, inventory, say\n"
        "DockerLab(inventory(), directory=Path(sys.argv[1])).up(say)\n"
    )
    for delay in (0.6, 1.0, 1.6):
        with subprocess.Popen([sys.executable, "-c", script, str(base)], cwd=Path.cwd()) as child:
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
    try:
        lab.up(say)
        assert ssh(lab, "client", "hostname") == "client\n"
    finally:
        lab.down(say)
    assert objects(engine) == before


def test_a_build_that_fails_shows_its_step(
    base: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    engine.api.import_image_from_data(empty.getvalue(), repository="lvsfab/empty", tag="test")
    monkeypatch.setenv("LVSFAB_BASE", "lvsfab/empty:test")
    try:
        with pytest.raises(
            LabError, match=r"(?s)failed at\n  Step \d+/\d+ : RUN set -eu"
        ) as raised:
            docker_image.build(engine, None, say)
        assert "LVSFAB_BASE" in raised.value.tip
    finally:
        engine.api.remove_image("lvsfab/empty:test", force=True)


def test_an_image_of_unchanged_inputs_is_not_built_again(engine: Engine) -> None:
    tag = docker_image.build(engine, None, say)
    made = engine.api.inspect_image(tag)
    said: list[str] = []
    assert docker_image.build(engine, None, said.append) == tag
    assert said == []
    assert engine.api.inspect_image(tag)["Id"] == made["Id"]
    assert made["Config"]["Labels"][docker_image.LABEL] == tag.partition(":")[2]


def within(engine: Engine, image: str, script: str) -> str:
    """What a script in a container of the image prints; the container stays, by that name."""
    api = engine.api
    made = {"Image": image, "Entrypoint": ["sh", "-c", script], "HostConfig": {"CapAdd": []}}
    container = api.create_container_from_config(made, "lvsfab-within")["Id"]
    api.start(container)
    assert api.wait(container)["StatusCode"] == 0, api.logs(container)
    return bytes(api.logs(container)).decode()


def test_no_service_but_ssh_starts_at_boot(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a base whose services start, as all of Debian's do where they are installed."""
    api, links = engine.api, "for link in K01*; do mv $link S01${link#K01}; done; ls"
    made = docker_image.build(engine, None, say)
    ours = ["lvsfab/eager:test"]
    try:
        there = within(engine, made, f"cd /etc/rc2.d; {links}").split()
        assert "S01apache2" in there
        assert "S01keepalived" in there
        api.commit("lvsfab-within", *ours[0].split(":"))
        api.remove_container("lvsfab-within")
        monkeypatch.setenv("LVSFAB_BASE", ours[0])
        ours.append(docker_image.build(engine, None, say))
        assert ours[1] != made
        found = within(engine, ours[1], "cd /etc; ls -d rc[2-5].d/S*; ls rc2.d").split()
        assert [one for one in found if "/" in one] == [f"rc{n}.d/S01ssh" for n in (2, 3, 4, 5)]
        assert sorted(found[4:]) == sorted(
            one.replace("S01", "K01") if one != "S01ssh" else one for one in there
        )
    finally:
        api.remove_container("lvsfab-within", force=True)
        for name in ours:
            api.remove_image(name, force=True)


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="makes users and mounts of its own")


def test_no_engine_is_said_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    done = cli("lab", "up", "--backend", "docker", code=1)
    assert "no Docker engine answers at unix:///" in done.err
    assert "--backend rootless" in done.err


@ROOT_ONLY
def test_no_permission_on_the_socket(engine: Engine) -> None:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.environ.setdefault("DOCKER_HOST", "unix:///var/run/docker.sock")
        try:
            connect()
        except LabError as error:
            os._exit(7 if "no permission" in error.message and "-aG docker" in error.tip else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@ROOT_ONLY
@pytest.mark.usefixtures("engine")  # two that start at the same moment get in each other's way
def test_a_full_disk_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an engine of the test's own, whose store has too little room for the image."""
    store = base / "store"
    store.mkdir()
    script = str(ROOT / ".ci/docker")
    run = partial(subprocess.run, check=True, timeout=120)
    run(["mount", "-t", "tmpfs", "-o", "size=100m", "store", str(store)])
    try:
        started = run(
            [script, "start", "--another"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(store)},
        )
        said = dict(line.split("=", 1) for line in started.stdout.splitlines())
        try:
            monkeypatch.setenv("DOCKER_HOST", said["DOCKER_HOST"])
            # not the network of a lab that stands on the other engine
            own = replace(_spec(), management=IPv4Network("100.64.3.0/24"))
            full = replace(inventory("full"), lab=own)
            with connected() as found, pytest.raises(LabError, match="no space left") as raised:
                DockerLab(full, directory=base, engine=found).up(say)
            assert "docker system df" in raised.value.tip
        finally:
            run([script, "stop", said["LVSFAB_ENGINE"]])
    finally:
        run(["umount", str(store)])
