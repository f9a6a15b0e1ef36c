"""`up --persist`: what was built is there again when every host was booted anew, by itself."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import LabUnderTest
from tests.e2e.test_tutorials import reboot

pytestmark = pytest.mark.lab
TUN = ("tun", "--set", "arp=arptables")
DR = ("dr", "--set", "arp=nft")


def verified(lab: LabUnderTest) -> str:
    verdict = lab.cli("verify", "-n", "30", "--json").json
    assert verdict["status"] == "pass"
    return str(verdict["recipe"])


def test_it_is_there_after_a_reboot_and_down_takes_it_away(clean: LabUnderTest) -> None:
    clean.cli("up", *TUN, "--persist", "--no-verify")
    clean.cli("plan", *TUN, "--persist")
    reboot(clean)
    assert verified(clean) == "tun"
    again = clean.cli("up", *TUN, "--persist", "--no-verify", "--json").json
    assert again["changes"] == 0
    assert set(again["execs"].values()) == {1}

    clean.cli("drain", "rs2")
    clean.cli("lab", "reboot", "director", "--keep")
    assert " 192.168.10.2:80 -i -w 0" in clean.sh("director", "ipvsadm -Sn")

    clean.cli("down")  # of what the boot made, not the run
    clean.left_nothing()


def test_it_is_there_when_all_lose_their_power_at_once(clean: LabUnderTest) -> None:
    """Nothing is written back: what was not on disk when `up` ended is not there."""
    clean.cli("up", *DR, "--persist", "--no-verify")
    before = clean.sh("director", "cat /proc/sys/kernel/random/boot_id")
    cut = "echo b >/proc/sysrq-trigger"
    asked = clean.cli("run", "*", "--timeout", "5", "--shell", cut, code=None)
    end = time.monotonic() + 60
    while clean.cli("run", "*", "--", "true", code=None).code:
        assert time.monotonic() < end, f"they did not come back\n{asked}"
        time.sleep(0.5)
    assert clean.sh("director", "cat /proc/sys/kernel/random/boot_id") != before, str(asked)
    assert verified(clean) == "dr"
    clean.cli("plan", *DR, "--persist")
    clean.cli("down")
    clean.left_nothing()


def test_another_mode_and_then_one_that_is_not_kept(clean: LabUnderTest) -> None:
    clean.cli("up", *TUN, "--no-verify")
    clean.cli("up", *TUN, "--persist", "--no-verify")  # what is up already is kept from now on
    clean.cli("up", *DR, "--persist", "--no-verify")
    reboot(clean)
    assert verified(clean) == "dr"
    assert clean.sh("rs3", "ls /etc/lvsfab /var/lib/lvsfab 2>/dev/null || true") == ""

    clean.cli("up", "nat", "--no-verify")
    assert verified(clean) == "nat"
    reboot(clean)
    clean.left_nothing()


def test_sysctl_d_and_modules_load_d_act_by_themselves(clean: LabUnderTest) -> None:
    """Without the boot script: what a host's own tools set again whenever they are asked."""
    clean.cli("up", "dr", "--persist", "--no-verify")
    for host in ("director", "rs1"):
        clean.sh(host, "rm /etc/lvsfab/boot-*")
    reboot(clean, "director", "rs1")
    values = "cd /proc/sys/net/ipv4/conf/all; cat arp_ignore arp_announce"
    assert clean.sh("rs1", values).split() == ["1", "2"]
    assert "ip_vs " in clean.sh("director", "lsmod")
    assert clean.sh("director", "ipvsadm -Sn") == ""  # that was the script's alone
    clean.cli("up", "dr", "--persist")
    clean.cli("down")
    clean.left_nothing()
