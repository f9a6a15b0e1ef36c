"""Nobody is locked out, nobody is locked in: recipes that cut the way to the controller on
purpose, conflicts with what others put there, two controllers, hosts that fail.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import HOSTS, Done, LabUnderTest, cli
from tests.e2e.test_interruption import at_step, start

pytestmark = pytest.mark.lab

CUTTING = """\
name: cutting
title: each host loses the way that lvsfab comes by, each in another manner
steps:
  - on: rs1
    do:
      - address: {address: %s, dev: mgmt, absent: true}
  - on: rs2
    do:
      - link: {name: mgmt, up: false}
  - on: client
    do:
      - module: {name: nf_tables}
      - nft: {family: inet, name: closed, content: "chain in {
              type filter hook input priority 0; policy drop; }"}
  - on: director
    do:
      - module: {name: ip_vs}
      - module: {name: ip_vs_rr}
      - virtual_service: {address: %s, port: %s, scheduler: rr}
"""


def recipe(folder: Path, text: str) -> str:
    path = folder / "mine.yml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("host", ["rs1", "rs2", "client", "director"])
def test_a_recipe_that_cuts_the_way_is_undone_by_the_host(
    clean: LabUnderTest, tmp_path: Path, host: str
) -> None:
    address = clean.sh("rs1", "ip -o -4 addr show dev mgmt").split()[3]
    own = clean.sh("director", 'set -- $SSH_CONNECTION; echo "$3" "$4"').split()
    steps = (CUTTING % (address, *own)).split("  - on: ")
    only = steps[0] + "".join(f"  - on: {s}" for s in steps[1:] if s.startswith(host))
    began = time.monotonic()
    done = clean.cli("up", recipe(tmp_path, only), code=5)
    assert time.monotonic() - began < 120  # 20 s of them the switch waits; machines are busy
    assert f"{host}: " in done.err
    assert "cut this controller off" in done.err
    assert "the host undid it by itself and is as it was" in done.err
    assert "done:" not in done.err or f"done: {host}" not in done.err
    clean.cli("down")
    clean.left_nothing()


def test_an_ordinary_run_needs_no_second_connection(clean: LabUnderTest) -> None:
    for mode in ("nat", "dr", "tun"):
        result = clean.cli("up", mode, "--no-verify", "--json").json
        assert set(result["handshakes"].values()) == {1}


KEEPALIVED = """\
vrrp_instance somebody {
    state BACKUP
    interface eth0
    virtual_router_id 7
    priority 50
    virtual_ipaddress {
        10.1.1.77/32 dev eth0
    }
}
"""


def test_a_keepalived_of_somebody_elses(clean: LabUnderTest) -> None:
    """It runs, with a configuration of its own, where a recipe would have ours."""
    path = "/etc/keepalived/keepalived.conf"
    clean.sh("director", f"mkdir -p /etc/keepalived; cat >{path} <<'E'\n{KEEPALIVED}E\n"
                         "/etc/init.d/keepalived start >/dev/null 2>&1 </dev/null")  # fmt: skip
    look = f"cat {path}; ps -o pid=,lstart=,args= -C keepalived; ip -o addr show to 10.1.1.77"
    for _ in range(50):
        running = clean.sh("director", look)
        if running.count("10.1.1.77/32") == 2:  # in the file, and on eth0
            break
        time.sleep(0.5)
    assert running.count("10.1.1.77/32") == 2
    before = clean.snapshot()
    words = ("dr", "--set", "balancer=keepalived")
    told = clean.cli("plan", *words, "--json", code=2).json["conflicts"]
    assert list(told) == ["director"]
    assert told["director"][0].startswith(f"keepalived:{path}: there is a file of other content")
    refused = clean.cli("up", *words, code=1)
    assert f"director: keepalived:{path}: there is a file of other content" in refused.err
    assert "nothing was changed" in refused.err
    assert clean.sh("director", look) == running
    assert clean.snapshot() == before
    clean.cli("down")
    assert clean.sh("director", look) == running
    clean.cli("lab", "reboot", "director")  # what this test itself put there goes
    clean.left_nothing()


def test_what_somebody_else_put_in_the_way(clean: LabUnderTest) -> None:
    """Another virtual service, a VIP on another host, a listener on the test page's port."""
    clean.sh("director", "ipvsadm -A -t 10.1.1.100:80 -s wlc")
    clean.sh("director", "ipvsadm -a -t 10.1.1.100:80 -r 192.168.10.77:80 -m")
    clean.sh("director", "ipvsadm -A -t 10.1.1.7:25 -s rr")
    clean.sh("router", "ip addr add 10.1.1.100/32 dev lo")
    clean.sh("rs1", "nc -l -p 80 >/dev/null 2>&1 </dev/null & sleep 0.3", code=None)
    before = clean.snapshot()
    planned = clean.cli("plan", "nat", "--json", code=2).json
    told = json.dumps(planned["conflicts"])
    assert "virtual_service:tcp:10.1.1.100:80: there is such a service (wlc" in told
    assert "10.1.1.100 is on lo" in told
    refused = clean.cli("up", "nat", code=1)
    assert "router: 10.1.1.100 is on lo" in refused.err
    assert "nothing was changed" in refused.err
    assert clean.snapshot() == before
    clean.sh("router", "ip addr del 10.1.1.100/32 dev lo")
    clean.sh("director", "ipvsadm -D -t 10.1.1.100:80")
    clean.sh("rs1", "kill $(pidof nc) 2>/dev/null", code=None)
    clean.cli("up", "nat", "--no-verify")
    added = "-a -t 10.1.1.100:80 -r 192.168.10.77:80 -m -w 1"
    clean.sh("director", f"ipvsadm {added}")  # into the service that is ours now
    planned = clean.cli("plan", "nat", "--json", code=2).json
    assert "192.168.10.77:80: somebody added it" in json.dumps(planned["conflicts"])
    clean.cli("up", "nat", code=1)
    assert added in clean.sh("director", "ipvsadm -Sn")
    clean.cli("up", "nat", "--adopt")
    assert added not in clean.sh("director", "ipvsadm -Sn")
    assert "10.1.1.7:25" in clean.sh("director", "ipvsadm -Sn")  # not in the way: left alone
    clean.cli("down")
    assert clean.sh("director", "ipvsadm -Sn").split() == ["-A", "-t", "10.1.1.7:25", "-s", "rr"]
    clean.cli("lab", "reboot", "director")  # what this test itself put there goes


def test_two_controllers(clean: LabUnderTest) -> None:
    """The second is refused by the name of the first, which it may end; the dead hold nothing."""
    up = ("up", "dr", "--no-verify")
    first = start(clean, *up)
    mine = f"{getpass.getuser()}@{socket.gethostname()} process {first.pid}"
    seen: list[str] = []

    def others() -> None:
        first.send_signal(signal.SIGSTOP)
        try:
            refused = clean.cli(*up, code=1)
            told = re.search(
                rf"error: (\w+): is being changed by {mine} \(for (\d+) s\)", refused.err
            )
            assert told, refused
            assert told[1] in HOSTS
            assert int(told[2]) < 60
            assert "--break-lock" in refused.err
            broken = clean.cli(*up, "--break-lock")
            seen.extend(re.findall(rf"^(\w+) +ended the run of {mine} .*took its lock$",
                                   broken.err, re.MULTILINE))  # fmt: skip
        finally:
            first.send_signal(signal.SIGCONT)

    at_step(first, 1, others)
    assert set(seen) == {*HOSTS}  # each was locked by the first
    assert first.returncode == 4  # it was ended, and says so
    clean.cli("plan", "dr")
    clean.cli("down")

    dead = start(clean, *up)
    at_step(dead, 1, dead.kill)
    assert dead.returncode == -signal.SIGKILL
    clean.cli("up", "dr")  # its shells ended with it, each after the step that it was at
    clean.cli("down")

    dead = start(clean, *up)

    def both_ends() -> None:
        dead.send_signal(signal.SIGSTOP)
        clean.sh("director", "read -r pid rest </run/lvsfab/lock/owner; kill -9 $pid")
        dead.kill()

    at_step(dead, 1, both_ends)
    taken = clean.cli(*up).err
    owner = f"{getpass.getuser()}@{socket.gethostname()} process {dead.pid}"
    note = rf"^director +took over the lock of {owner}, whose run is dead"
    assert re.search(note, taken, re.MULTILINE), taken
    assert clean.cli("verify", "--json").json["status"] == "pass"
    clean.cli("down")
    clean.left_nothing()


ELSEWHERE = """\
name: %s
networks:
  front: {subnets: [10.1.1.0/24, "fd00:1::/64"]}
  inner: {subnets: [192.168.10.0/24, "fd00:10::/64"]}
hosts:
  director:
    roles: [director]
    interfaces:
      eth0: {network: front, addresses: [10.1.1.250/24, "fd00:1::fa/64"]}
      eth1: {network: inner, addresses: [192.168.10.250/24, "fd00:10::fa/64"]}
  rs1:
    roles: [real_server]
    interfaces: {eth0: {network: inner, addresses: [192.168.10.1/24, "fd00:10::1/64"]}}
  rs2:
    roles: [real_server]
    interfaces: {eth0: {network: inner, addresses: [192.168.10.2/24, "fd00:10::2/64"]}}
parameters:
  nat: {vip: 10.1.1.100}
"""


def without_router(lab: LabUnderTest, home: Path) -> Path:
    """An inventory of three of the lab's hosts, reached by an ssh_config, as hosts of one's own
    are; of the router it knows nothing.
    """
    (home / ".ssh").mkdir(mode=0o700)
    whole = home / "lab.config"
    whole.write_text(lab.cli("lab", "ssh-config").out)
    config, host = "", ""
    for line in whole.read_text().splitlines():
        word, _, rest = line.strip().partition(" ")
        host = rest if word == "Host" else host
        if word == "ProxyCommand":  # which hands over a descriptor: OpenSSH alone can take it
            config += f"  ProxyCommand ssh -F {whole} -W %h:22 {host}\n"
        elif word != "ProxyUseFdpass":
            config += f"{line}\n"
    (home / ".ssh/config").write_text(config)
    path = home / "elsewhere.yml"
    path.write_text(ELSEWHERE % f"elsewhere-{os.getpid()}")
    return path


def test_a_vip_that_a_machine_outside_the_inventory_has(
    clean: LabUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The router holds it, and the inventory has no router."""
    inventory = str(without_router(clean, tmp_path))
    mac = clean.sh("router", "cat /sys/class/net/eth1/address").strip()
    monkeypatch.setenv("HOME", str(tmp_path))
    vips = {"10.1.1.100": "10.1.1.100/32", "fd00:1::100": "fd00:1::100/128"}
    for address in vips.values():
        clean.sh("router", f"ip addr add {address} dev eth1")
    before = clean.snapshot()
    for vip in vips:
        words = ("nat", "--set", f"vip={vip}", "-i", inventory)
        (told,) = cli("plan", *words, "--json", code=2).json["conflicts"]["director"]
        assert told.startswith(f"{vip}: a machine that is no host of the inventory answers")
        assert f"on eth0, MAC {mac}" in told
        refused = cli("up", *words, "--no-verify", code=1)
        assert f"MAC {mac}" in refused.err
        assert "nothing was changed" in refused.err
    assert clean.snapshot() == before
    assert not [vip for vip in vips if vip in clean.sh("director", "ip neigh")]
    try:
        cli("up", "nat", "-i", inventory, "--no-verify", "--adopt")
        assert "10.1.1.100/32" in clean.sh("director", "ip -o addr show dev eth0")
        cli("down", "-i", inventory)
        for address in vips.values():
            clean.sh("router", f"ip addr del {address} dev eth1")
        done = cli("up", "nat", "-i", inventory, "--no-verify", "--json").json
        assert set(done["handshakes"].values()) == set(done["execs"].values()) == {1}
    finally:
        cli("down", "-i", inventory)
    clean.left_nothing()


@contextmanager
def without_a_page(lab: LabUnderTest) -> Iterator[None]:
    """rs2 has no room for its page."""
    lab.sh("rs2", "mkdir -p /run/lvsfab-testpage-80/index.html; "
                  "mount -t tmpfs -o ro t /run/lvsfab-testpage-80")  # fmt: skip
    try:
        yield
    finally:
        lab.sh("rs2", "umount /run/lvsfab-testpage-80; rm -rf /run/lvsfab-testpage-80 /run/mount")


def hosts_of(done: Done, event: str) -> set[str]:
    return {told["host"] for told in done.documents() if told.get("event") == event}


def outcome(done: Done) -> dict[str, Any]:
    (found,) = [told for told in done.documents() if told.get("event") == "result"]
    return found


def test_a_host_that_fails_is_gone_on_with(clean: LabUnderTest) -> None:
    """rs2 cannot do its part: the director waits; then --resume does the rest, and no more."""
    with without_a_page(clean):
        failed = outcome(clean.cli("up", "dr", "--json", code=5))
        assert set(failed["failed"]) == {"rs2"}
        assert failed["not_reached"] == ["director"]
        assert set(failed["done"]) == {*HOSTS} - {"rs2", "director"}
        assert clean.sh("director", "cat /proc/net/ip_vs 2>/dev/null", code=None) == ""
    resumed = clean.cli("up", "--resume", "--json", "--no-verify")
    assert hosts_of(resumed, "step") == hosts_of(resumed, "read") == {"director", "rs2"}
    assert clean.cli("verify", "--json").json["status"] == "pass"
    assert "nothing to go on with" in clean.cli("up", "--resume").err
    clean.cli("down")
    clean.left_nothing()


def test_what_was_brought_back_is_gone_on_with(clean: LabUnderTest) -> None:
    """After a rollback no host is done, so --resume does all of it."""
    planned = clean.cli("plan", "dr", "--json", code=2).json["hosts"]
    changing = {host for host, steps in planned.items() if steps}
    with without_a_page(clean):
        rolled = outcome(clean.cli("up", "dr", "--rollback", "--json", code=5))
        assert set(rolled["failed"]) == {"rs2"}
        assert set(rolled["returned"]) == {*HOSTS}
        assert rolled["done"] == rolled["not_reached"] == []
    clean.left_nothing()
    resumed = clean.cli("up", "--resume", "--json", "--no-verify")
    assert hosts_of(resumed, "step") == changing == {"director", "rs1", "rs2"}
    assert clean.cli("verify", "--json").json["status"] == "pass"
    clean.cli("down")
    clean.left_nothing()
