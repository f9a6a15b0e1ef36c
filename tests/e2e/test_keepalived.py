"""Tutorials 3 and 5 on real kernels: keepalived checks real servers, and directors take over."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest
from tests.e2e.test_interruption import killed
from tests.e2e.test_tutorials import alternates, reboot, system, tries

pytestmark = pytest.mark.lab
VIP, GATEWAY = "203.0.113.100", "10.71.12.1"
PUBLIC = "http://211.83.113.119"
# checks that a test can wait for: a dead server is seen within 1 + 1 + 2 * 1 s
QUICK = {"check_every": "1", "check_timeout": "1", "check_retries": "1", "check_delay": "1"}
NAT = {**QUICK, "connection_sync": "yes"}


def up(lab: LabUnderTest, mode: str, sets: dict[str, str], *more: str) -> None:
    lab.cli("up", mode, *more, *(w for k, v in sets.items() for w in ("--set", f"{k}={v}")))


def of_system(name: str, mode: str, sets: dict[str, str]) -> Any:
    """A tutorial's system, up and proved, for all tests of this file."""

    @pytest.fixture(scope="module")
    def made(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
        with system(name, backend, tmp_path_factory.mktemp(mode)) as lab:
            up(lab, mode, sets)
            yield lab

    return made


nat = of_system("3-nat-keepalived", "nat", NAT)
dr = of_system("5-dr-one-public-address", "dr", QUICK)


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until `holds`; how long it took. A failure when it does not within `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.3)
    return time.monotonic() - began


def holders(lab: LabUnderTest, address: str, among: tuple[str, ...] = ("lb1", "lb2")) -> list[str]:
    look = f"ip -o addr show to {address}"
    return [host for host in among if lab.sh(host, look)]


def weights(lab: LabUnderTest, director: str) -> dict[str, int]:
    """Real server's address -> weight, as the director has it."""
    found = re.findall(r" -r ([0-9.]+):\d+ .*-w (\d+)", lab.sh(director, "ipvsadm -Sn"))
    return {address: int(weight) for address, weight in found}


def test_3_the_tutorials_table_and_gateway(nat: LabUnderTest) -> None:
    (active,) = holders(nat, VIP)
    assert holders(nat, GATEWAY) == [active]
    assert weights(nat, active) == {"10.71.12.69": 100, "10.71.12.76": 100}
    assert "via 10.71.12.1" in nat.sh("web1", "ip route show default")
    assert alternates(tries(nat, f"http://{VIP}:15000"))
    up(nat, "nat", NAT, "--no-verify")
    nat.cli("plan", "nat", *(w for k, v in NAT.items() for w in ("--set", f"{k}={v}")))


def test_3_a_dead_server_leaves_the_table_within_its_check_time(nat: LabUnderTest) -> None:
    (active,) = holders(nat, VIP)
    nat.sh("web2", "kill $(cat /run/lvsfab/testpage-15000/pid)")
    until(lambda: weights(nat, active) == {"10.71.12.69": 100}, 4 + 3)
    assert set(tries(nat, f"http://{VIP}:15000")) == {"web1"}
    up(nat, "nat", NAT, "--no-verify")  # starts the page again
    until(lambda: len(weights(nat, active)) == 2, 2 + 3)
    assert alternates(tries(nat, f"http://{VIP}:15000"))


def test_3_a_drained_server_gets_no_new_connection(nat: LabUnderTest) -> None:
    (active,) = holders(nat, VIP)
    nat.cli("drain", "web1")
    until(lambda: weights(nat, active)["10.71.12.69"] == 0, 5)
    assert holders(nat, VIP) == [active]
    assert set(tries(nat, f"http://{VIP}:15000")) == {"web2"}
    nat.cli("drain", "web2")
    until(lambda: set(weights(nat, active).values()) == {0}, 5)
    nat.cli("restore", "web2")
    nat.cli("restore", "web1")
    until(lambda: set(weights(nat, active).values()) == {100}, 5)


def test_3_the_active_director_dies(nat: LabUnderTest) -> None:
    """Under 20 requests a second, with a long transfer on its way: that one lives on."""
    (active,) = holders(nat, VIP)
    (other,) = {"lb1", "lb2"} - {active}
    transfer = nat.background(  # for 16 s
        "client",
        f"curl -s -r 0-262143 -o /dev/null -w '%{{http_code}} %{{size_download}} %{{exitcode}}' "
        f"http://{VIP}:15000/slow & sleep 0.5; echo started; wait",
    )
    argv = [LVSFAB, "verify", "--for", "10", "--gap", "8", "--json", "-i", nat.path]
    watching = subprocess.Popen(
        list(map(str, argv)), stdout=subprocess.PIPE, text=True, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert watching.stdout is not None
    assert any("requests a second" in line for line in watching.stdout)  # it begins
    time.sleep(2)  # the other director has heard of the transfer by then
    nat.cli("lab", "reboot", active)  # its power is cut, and it comes back with nothing
    out, _ = watching.communicate(timeout=60)
    found = json.loads(out.splitlines()[-1])
    assert found["status"] == "pass", found
    assert found["requests"] == 200
    assert found["directors"]["before"] == {active: "active", other: "standby"}
    assert found["directors"]["after"][other] == "active"
    assert 1 < found["gap"]["seconds"] < 8
    assert holders(nat, VIP) == holders(nat, GATEWAY) == [other]
    assert transfer() == "206 262144 0"

    failed = nat.cli("verify", "--json", code=3).json
    assert [c["id"] for c in failed["checks"] if c["status"] == "fail"] == ["directors"]
    up(nat, "nat", NAT)  # the other one again stands by: nopreempt
    assert holders(nat, VIP) == [other]


def test_5_replies_leave_by_the_router_under_its_address(dr: LabUnderTest) -> None:
    assert alternates(tries(dr, PUBLIC))
    rules = dr.sh("router", "nft list table ip lvsfab_public")
    assert "tcp dport 80 dnat to 192.168.1.169\n" in rules
    assert dr.sh("client", "ip route show default") == ""  # it knows no other way


def test_5_every_port_of_the_service_is_forwarded(dr: LabUnderTest) -> None:
    up(dr, "dr", {**QUICK, "ports": "8080"})
    for port in (80, 8080):
        assert alternates(tries(dr, f"{PUBLIC}:{port}"))
    assert "dport { 80, 8080 } dnat" in dr.sh("router", "nft list table ip lvsfab_public")
    up(dr, "dr", QUICK, "--no-verify")
    until(lambda: len(weights(dr, "director")) == 2, 2 + 3)


def test_5_a_dead_server_has_weight_0_in_the_table(dr: LabUnderTest) -> None:
    dr.sh("web2", "kill $(cat /run/lvsfab/testpage-80/pid)")
    until(lambda: weights(dr, "director") == {"192.168.1.166": 1, "192.168.1.167": 0}, 4 + 3)
    assert set(tries(dr, PUBLIC)) == {"web1"}
    up(dr, "dr", QUICK, "--no-verify")
    until(lambda: weights(dr, "director")["192.168.1.167"] == 1, 2 + 3)


def test_5_a_client_keeps_its_server_until_the_time_is_over(dr: LabUnderTest) -> None:
    up(dr, "dr", {**QUICK, "persistence": "15"}, "--no-verify")
    until(lambda: "persistent 15" in dr.sh("director", "ipvsadm -ln"), 5)
    dr.sh("director", "ipvsadm --set 2 2 2")  # s; a client is remembered while it has connections
    (first,) = set(tries(dr, PUBLIC))
    (second,) = set(tries(dr, PUBLIC, "client2"))
    assert first != second  # rr: the next client gets the next server
    templates = "ipvsadm -Lnc | grep -c ':0 .*:80'"
    assert dr.sh("director", templates).strip() == "2"
    until(lambda: dr.sh("director", f"{templates} || true").strip() == "0", 15 + 9)
    assert set(tries(dr, PUBLIC, "client2")) == {first}  # now it is who is next in turn
    up(dr, "dr", QUICK, "--no-verify")


def test_5_survives_a_reboot_of_all(dr: LabUnderTest) -> None:
    up(dr, "dr", QUICK, "--persist", "--no-verify")
    reboot(dr)
    until(lambda: weights(dr, "director") == {"192.168.1.166": 1, "192.168.1.167": 1}, 2 + 9)
    assert alternates(tries(dr, PUBLIC))
    assert dr.cli("verify", "--json").json["status"] == "pass"


def test_3_survives_a_reboot_of_all(nat: LabUnderTest) -> None:
    up(nat, "nat", NAT, "--persist", "--no-verify")
    reboot(nat)
    assert nat.cli("verify", "--json").json["status"] == "pass"


def test_3_lvsfab_killed_every_few_steps(
    nat: LabUnderTest, record_property: Callable[[str, object], None]
) -> None:
    nat.cli("down")
    argv = ["up", "nat", "--persist", "--no-verify"]
    argv += [w for k, v in NAT.items() for w in ("--set", f"{k}={v}")]
    kills = 0
    while killed(nat, 4, *argv):
        kills += 1
        assert kills < 20
    assert nat.cli("verify", "--json").json["status"] == "pass"
    while killed(nat, 4, "down"):
        kills += 1
        assert kills < 40
    assert kills > 2  # fewer on a busy machine, where steps end in bunches
    record_property("tried", kills)
    nat.left_nothing()


# the tutorial's hosts have a firewall, of iptables as it comes with Debian (over nftables)
SHUT = """
    iptables -A INPUT -i mgmt -j ACCEPT
    iptables -A INPUT -p tcp -j ACCEPT
    iptables -A INPUT -p icmp -j ACCEPT
    iptables -P INPUT DROP
"""


def test_3_the_firewall_lets_vrrp_through(nat: LabUnderTest) -> None:
    up(nat, "nat", NAT, "--no-verify")
    for host in ("lb1", "lb2"):
        nat.sh(host, SHUT)
    until(lambda: len(holders(nat, VIP)) == 2, 15)  # neither hears the other
    up(nat, "nat", NAT, "--no-verify")
    # neighbours may have heard the other one last; they ask again within seconds
    until(lambda: alternates(tries(nat, f"http://{VIP}:15000")), 30)
    assert nat.cli("verify", "--json").json["status"] == "pass"
    assert len(holders(nat, VIP)) == len(holders(nat, GATEWAY)) == 1
    nat.sh("lb2", "iptables -F INPUT; iptables -P INPUT ACCEPT")  # somebody stops one of them
    nat.cli("down")
    rules = nat.sh("lb1", "nft list chain ip filter INPUT")
    assert "policy drop" in rules
    assert "lvsfab" not in rules
    reboot(nat, "lb1", "lb2")
