"""What a host says of itself, parsed; the script run for real on this machine."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab import facts, scripts
from lvsfab.errors import CommandError
from lvsfab.facts import MODULES, SCRIPT, Value, parse
from lvsfab.plan import Unsupported
from lvsfab.session import Record, Shell
from lvsfab.states import readers_script
from lvsfab.states.base import Resource
from lvsfab.states.module import Module
from tests.unit.local import SHELLS, LocalChannel, shell_argv

DATA = Path(__file__).parents[1] / "data" / "facts"
SAID = """\
== os
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
VERSION_ID="13"
ID=debian
== host
hostname rs1
kernel 6.12.1
machine x86_64
uptime 12.34
memory 119580
processors 2
== init
systemd
== present
ip_vs
kernel/net/ipv4/ipip.ko
== loadable
kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz
kernel/net/ipv4/netfilter/arp_tables.ko
== link
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT \\    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
4: eth0@if5: <BROADCAST,MULTICAST> mtu 1480 qdisc noop state DOWN \\    link/ether 02:0c:1a:1c:46:1a brd ff:ff:ff:ff:ff:ff
== address
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
4: eth0    inet 192.0.2.1 peer 192.0.2.2/32 scope global eth0
4: eth0    inet6 fd00::1/64 scope global
== route
default via 192.0.2.254 dev eth0 
== sysctl
/proc/sys/net/ipv4/ip_forward:0
/proc/sys/net/ipv4/conf/all/rp_filter:2
/proc/sys/net/ipv4/conf/eth0.5/rp_filter:0
== tool
ip /usr/sbin/ip
nft /usr/sbin/nft
== package
iproute2 6.15.0-1
"""  # noqa: E501, W291 - as ip prints it


def test_everything_a_host_says() -> None:
    found = parse(SAID)
    assert (found.os, found.os_version, found.init, found.kernel) == (
        "debian", "13", "systemd", "6.12.1",
    )  # fmt: skip
    assert (found.memory, found.processors, found.uptime) == (119580, 2, 12.34)
    states = {found.modules[n] for n in ("ip_vs", "ipip")}
    assert states == {"present"}
    assert found.modules["ip_vs_rr"] == found.modules["arp_tables"] == "loadable"
    assert found.modules["fou"] == "absent"
    assert found.able == {"nat": (), "dr": (), "tun": ()}
    lo, eth0 = found.interfaces
    assert (lo.state, lo.addresses) == ("up", ("127.0.0.1/8",))
    assert (eth0.name, eth0.state, eth0.mtu, eth0.mac) == (
        "eth0", "down", 1480, "02:0c:1a:1c:46:1a",
    )  # fmt: skip
    assert eth0.addresses == ("192.0.2.1/32", "fd00::1/64")
    assert found.routes == ("default via 192.0.2.254 dev eth0",)
    assert found.sysctls["net.ipv4.conf.eth0/5.rp_filter"] == Value("0", "2")
    assert found.tools["ip"].version == "6.15.0-1"
    assert found.tools["nft"].version == ""


# What the host calls itself and starts with, and the version of what each tool came in: found by
# the name that its family gives the package.
FAMILIES = {
    "rocky": (
        ("rocky", "9.4", "Rocky Linux 9.4 (Blue Onyx)", "systemd"),
        {"ip": "6.2.0-6.el9_4", "arptables": "1.8.10-2.el9", "sysctl": "3.3.17-14.el9",
         "sshd": "8.7p1-38.el9"},
    ),
    "centos7": (
        ("centos", "7", "CentOS Linux 7 (Core)", "systemd"),
        {"ip": "4.11.0-30.el7", "arptables": "0.0.4-8.el7", "sysctl": "3.3.10-28.el7",
         "sshd": "7.4p1-21.el7"},
    ),
    "opensuse": (
        ("opensuse-leap", "15.6", "openSUSE Leap 15.6", "systemd"),
        {"ip": "6.4-150600.5.2", "arptables": "1.8.7-1.1", "sysctl": "3.3.17-150000.7.37.1",
         "sshd": "9.6p1-150600.4.8"},
    ),
    "alpine": (
        ("alpine", "3.20.3", "Alpine Linux v3.20", "openrc"),
        {"ip": "6.9.0-r0", "sysctl": "4.0.4-r0", "sshd": "9.7_p1-r4"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_hosts_of_other_families(name: str) -> None:
    found = parse((DATA / f"{name}.txt").read_text())
    itself, versions = FAMILIES[name]
    assert (found.os, found.os_version, found.os_name, found.init) == itself
    assert {tool: had.version for tool, had in found.tools.items()} == versions
    assert found.able == {"nat": (), "dr": (), "tun": ()}  # modules may be packed in any way
    assert found.flat()["os"] == itself[0]


def test_names_for_targets() -> None:
    flat = parse(SAID).flat()
    assert flat["os"] == "debian"
    assert flat["address"].split("\n") == ["127.0.0.1", "192.0.2.1", "fd00::1"]
    assert flat["module.ip_vs_rr"] == "loadable"
    assert flat["sysctl.net.ipv4.conf.eth0/5.rp_filter"] == "2"
    assert flat["lvs"].split("\n") == ["nat", "dr", "tun"]


def test_a_host_that_says_nothing_is_all_absent() -> None:
    found = parse("")
    assert set(found.modules.values()) == {"absent"}
    assert found.able["tun"] == ("ip_vs", "ipip")
    assert facts.document("h", found)["host"] == "h"


def test_what_facts_calls_absent_a_recipe_finds_missing() -> None:
    """On this machine: one word for each module, whoever asks."""
    shell = Shell("here", LocalChannel(), readers_script())
    names = [name for name in MODULES if name != "nf_tables"]  # a recipe asks nft itself for it
    wanted = [Resource(Module, name, None) for name in names]
    records = shell.run(f"{SCRIPT}\n{scripts.reads_script(wanted)}", timeout=60)
    shell.close()
    said, haves = parse(records[0].output).modules, scripts.haves("here", records)
    found = {}
    for resource in wanted:
        have = haves[resource.id]
        loaded = isinstance(have, Module) and have.loaded
        found[resource.key] = (
            "absent" if isinstance(have, Unsupported) else "present" if loaded else "loadable"
        )
    assert found == {name: said[name] for name in names}


def test_a_tools_package_is_what_each_distribution_calls_it() -> None:
    assert facts.TOOLS["sshd"] == ("openssh", "openssh-server")
    assert facts.TOOLS["ip"] == ("iproute2", "iproute")


SECTIONS = re.findall(r"echo '== (\w+)'", SCRIPT)


@given(st.text(max_size=200))
def test_no_answer_breaks_the_parser(text: str) -> None:
    for section in SECTIONS:
        for said in (text, f"1: lo inet {text}", f"1: lo: <UP> mtu {text}", f"uptime {text}"):
            try:
                facts.read("h", [Record("facts", 0, f"== {section}\n{said}")])
            except CommandError as error:
                assert error.host == "h"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("== address\n1: lo inet garbage", "'garbage' does not appear to be"),
        (f"== address\n1: lo inet6 {'9' * 100_000}", "cannot be read"),
        (None, "told no facts"),
    ],
)
def test_what_cannot_be_read_is_that_hosts_error(said: str | None, told: str) -> None:
    with pytest.raises(CommandError, match=told) as raised:
        facts.read("h", [Record("facts", 0, said)] if said is not None else [])
    assert raised.value.host == "h"
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("uptime", ["1.2.3", "1.", "9" * 5000, "-1", "NaN"])
def test_an_uptime_that_is_none_is_zero(uptime: str) -> None:
    assert parse(f"== host\nuptime {uptime}").uptime == 0.0


def test_a_long_line_takes_no_long_time() -> None:
    began = time.monotonic()
    for line in ("link/" * 200_000, "1: a" + "@a" * 200_000, "1: lo: <UP> " + " mtu" * 200_000):
        parse(f"== link\n1: lo: <UP> mtu 1 {line}\n{line}\n== present\n{line.replace('/', '.ko')}")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("sh", sorted(SHELLS))
def test_the_script_for_real(sh: str) -> None:
    shell = Shell("here", LocalChannel(shell_argv(sh)))
    (record,) = shell.run(SCRIPT, timeout=30)
    shell.close()
    found = parse(record.output)
    assert record.status == 0
    assert found.kernel
    assert "lo" in [device.name for device in found.interfaces]
    assert set(found.modules) == set(MODULES)
    assert found.sysctls["net.ipv4.ip_forward"].value in ("0", "1")
