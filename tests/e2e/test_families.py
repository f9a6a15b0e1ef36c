"""Hosts that are not the lab's bare Debian: systemd as their init, firewalld and iptables-legacy
as their firewalls, dnf and zypper as their package managers. Each is the real program, on real
kernels.

What is not tried so: a host whose whole userland is another family's; its own init scripts, paths
and package names come from data (docs/distributions.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest

from tests.e2e.conftest import LabUnderTest, running

pytestmark = pytest.mark.lab
HOSTS = {"client": 9, "director": 10, "rs1": 1, "rs2": 2}  # and the last number of its address
PACKAGES = "systemd-sysv, firewalld, dnf, zypper, rpm, createrepo-c"
INVENTORY = """
name: {name}
lab:
  management: 100.64.31.0/24
  memory: 256
  backend: {backend}
  kernel: built
  packages: [{packages}]
networks:
  flat: {{subnets: [192.168.31.0/24]}}
hosts:
{hosts}
parameters:
  tun: {{vip: 192.168.31.100}}
"""
HOST = (
    "  {name}: {{roles: [{role}], interfaces: "
    "{{eth0: {{network: flat, addresses: [192.168.31.{number}/24]}}}}}}"
)
# A package of each family's own making, in a repository on the host itself.
REPOSITORY = """
mkdir -p /srv/repo /srv/build && cd /srv/build
for name in lvs-hello lvs-other; do
  cat >$name.spec <<SPEC
Name: $name
Version: 1
Release: 1
Summary: says hello
License: Apache-2.0
BuildArch: noarch
AutoReqProv: no
%description
Says hello.
%install
mkdir -p %{buildroot}/usr/bin
printf '#!/bin/sh\\necho hello\\n' >%{buildroot}/usr/bin/$name
chmod 755 %{buildroot}/usr/bin/$name
%files
/usr/bin/$name
SPEC
  rpmbuild -bb --define '_rpmdir /srv/repo' $name.spec >log 2>&1 || { cat log; exit 1; }
done
rpm -U --force /srv/repo/noarch/lvs-other-1-1.noarch.rpm # zypper wants a database with something in
createrepo_c -q /srv/repo
"""


@pytest.fixture(scope="module")
def families(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    path = tmp_path_factory.mktemp(backend) / "families.yml"
    hosts = [
        HOST.format(name=n, role="real_server" if n[:2] == "rs" else n, number=number)
        for n, number in HOSTS.items()
    ]
    path.write_text(
        INVENTORY.format(
            name=f"families-{os.getpid()}",
            backend=backend,
            packages=PACKAGES,
            hosts="\n".join(hosts),
        )
    )
    with running(path, backend) as lab:
        yield lab


@pytest.fixture
def clean(families: LabUnderTest) -> Iterator[LabUnderTest]:
    yield families
    families.cli("down")


def booted(lab: LabUnderTest) -> None:
    """systemd lets people in before it has started everything."""
    for host in HOSTS:
        lab.sh(host, "systemctl is-system-running --wait >/dev/null || true")


def verdict(lab: LabUnderTest, code: int = 0) -> dict[str, object]:
    return lab.cli("verify", "-n", "20", "--json", code=code).json


def test_systemd_runs_what_lvsfab_leaves_and_brings_it_back(clean: LabUnderTest) -> None:
    assert clean.sh("rs1", "cat /proc/1/comm") == "systemd\n"
    booted(clean)
    before = {host: clean.sh(host, "find /etc /var/lib/lvsfab | sort") for host in HOSTS}
    clean.cli("up", "tun", "--persist", "--set", "monitor=yes", "--no-verify")
    assert verdict(clean)["status"] == "pass"
    assert clean.sh("rs1", "systemctl is-active lvsfab-tunnel") == "active\n"
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        list(pool.map(lambda host: clean.cli("lab", "reboot", host, "--keep"), HOSTS))
    booted(clean)
    assert clean.sh("rs1", "cat /proc/1/comm; systemd-detect-virt") == "systemd\numl\n"
    for host in HOSTS:
        assert clean.sh(host, "systemctl list-units --failed 'lvsfab*' --no-legend") == ""
    assert verdict(clean)["status"] == "pass"
    assert clean.sh("rs1", "systemctl is-active lvsfab-tunnel") == "active\n"
    again = clean.cli("up", "tun", "--persist", "--set", "monitor=yes", "--json").documents()
    assert next(d for d in again if "changes" in d)["changes"] == 0
    clean.cli("down")
    assert {host: clean.sh(host, "find /etc /var/lib/lvsfab | sort") for host in HOSTS} == before
    for host in HOSTS:
        assert clean.sh(host, "systemctl list-unit-files 'lvsfab*' --no-legend || true") == ""


@pytest.mark.parametrize(
    ("host", "shut", "look", "open_"),
    [
        (
            "rs1",
            "systemctl start firewalld",
            "firewall-cmd --list-all",
            "systemctl stop firewalld",
        ),
        (
            "rs2",
            "iptables-legacy -A INPUT -i mgmt -j ACCEPT && iptables-legacy -P INPUT DROP",
            "iptables-legacy -S",
            "iptables-legacy -P INPUT ACCEPT && iptables-legacy -F INPUT",
        ),
    ],
    ids=["firewalld", "iptables-legacy"],
)
def test_a_firewall_is_opened_for_the_tunnel_and_shut_again(
    clean: LabUnderTest, host: str, shut: str, look: str, open_: str
) -> None:
    clean.sh(host, shut)
    try:
        before = clean.sh(host, look)
        clean.cli("up", "tun", "--no-verify")
        assert verdict(clean, 3)["status"] == "fail"
        clean.cli("up", "tun", "--set", "firewall=yes", "--no-verify")
        assert verdict(clean)["status"] == "pass"
        clean.cli("down")
        assert clean.sh(host, look) == before
    finally:
        clean.sh(host, open_)


@pytest.mark.parametrize(("tool", "others"), [("dnf", "apt-get"), ("zypper", "apt-get dnf")])
def test_a_package_of_a_source_of_ones_own(clean: LabUnderTest, tool: str, others: str) -> None:
    hide = f"for t in {others}; do mv /usr/bin/$t /usr/bin/$t.hidden; done"
    clean.sh("rs1", REPOSITORY)
    clean.sh("rs1", hide)
    recipe = clean.path.with_name(f"{tool}.yml")
    recipe.write_text(
        dedent("""
            name: hello
            title: a package of our own source
            steps:
              - on: rs1
                about: the source, then the package
                do:
                  - repository: {name: mine, url: "file:///srv/repo"}
                  - package: {name: lvs-hello}
        """)
    )
    try:
        said = clean.cli("apply", str(recipe), "--json").documents()
        assert clean.sh("rs1", "lvs-hello") == "hello\n", said
        clean.cli("apply", str(recipe), "--dry-run")  # nothing more to do
        clean.cli("down")
        assert clean.sh("rs1", "command -v lvs-hello || true") == ""
    finally:
        clean.sh("rs1", f"for t in {others}; do mv /usr/bin/$t.hidden /usr/bin/$t; done")
