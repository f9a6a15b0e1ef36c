"""The tutorials' systems, with their own addresses: built, tried by the tutorial's own test step,
proved by verify, and taken down without a trace. docs/tutorials/ says what each line becomes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lvsfab import inventory
from lvsfab.verify.ipvsadm import parse_table
from tests.e2e.conftest import LabUnderTest, inventory_file

pytestmark = pytest.mark.lab

# What tutorial 2 prints after its `ipvsadm -ln`.
TABLE = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.1.1.250:80 rr
  -> 192.168.10.1:80             Masq    1      0          0
  -> 192.168.10.2:80             Masq    1      0          0
"""


# A host's own firewall, closed but for SSH; it comes back at boot.
GUARD = """\
cat >/etc/rc2.d/S01guard <<'END'
#!/bin/sh
nft -f - <<'RULES'
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    tcp dport 22 accept
  }
}
RULES
END
chmod 755 /etc/rc2.d/S01guard
/etc/rc2.d/S01guard
"""

# What makes a director that works say nothing inside the tunnel.
SILENT = """\
table ip silent {
  chain input {
    type filter hook input priority 0;
    iifname "tunl0" drop
  }
}
"""


@contextmanager
def system(
    name: str, backend: str, folder: Path, *, guarded: str = "", **replaced: str
) -> Iterator[LabUnderTest]:
    """The lab of inventory/NAME.yml, with texts replaced, hosts of the target `guarded` behind
    firewalls; what a test leaves up is taken down and must leave nothing.
    """
    number, pid = int(name[0]), os.getpid()
    # as in conftest.lab: no other session's management network, nor this session's
    own = f"100.{65 + pid % 63}.{(pid // 63 + 10 * number + len(name)) % 256}.0"
    given = next(w for w in _text(name).split() if w.startswith("100.64."))
    changes = {given.removesuffix("/24"): own, **replaced}
    path = inventory_file(folder, f"t{number}-{pid}", backend, name, **changes)
    lab = LabUnderTest(path, backend)
    try:
        lab.cli("lab", "up", timeout=900)
        if guarded:
            lab.cli("run", guarded, "--", "sh", "-c", GUARD)
        lab.pristine = lab.snapshot()
        yield lab
        lab.cli("down")
        lab.left_nothing()
    finally:
        lab.cli("lab", "down")


def _text(name: str) -> str:
    return Path("inventory", f"{name}.yml").read_text()


def tries(lab: LabUnderTest, url: str, host: str = "client") -> list[str]:
    """The tutorials' test: for i in {1..10}; do curl URL; done. Who answered each."""
    said = lab.sh(host, f"for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -m 5 {url}; done")
    return [line.split()[0] for line in said.splitlines()]


def reboot(lab: LabUnderTest, *some: str) -> None:
    """All at once, in order, with their disks: these hosts, or every one of the inventory."""
    hosts = some or tuple(inventory.load(lab.path).hosts)
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: lab.cli("lab", "reboot", host, "--keep"), hosts))


def alternates(names: list[str]) -> bool:
    return len(names) == 10 and len(set(names)) == 2 and names[:2] * 5 == names


def test_1_tun_in_one_network(backend: str, tmp_path: Path) -> None:
    with system("1-tun-flat", backend, tmp_path) as lab:
        source = "repository=http://172.25.67.250/LoadBalancer stable main"
        assert "PASS" in lab.cli("up", "tun", "--persist", "--set", source).out
        written = lab.sh("server1", "cat /etc/apt/sources.list.d/lvsfab-lvsfab.sources")
        assert "URIs: http://172.25.67.250/LoadBalancer\nSuites: stable" in written
        for host in ("server1", "server2", "server3"):
            assert "172.25.67.100/32" in lab.sh(host, "ip -o addr show dev tunl0")
        # the tutorial's two rules, in place of sysctls
        rules = lab.sh("server2", "arptables-legacy -nL")
        assert "-j DROP" in rules
        assert "--mangle-ip-s 172.25.67.2" in rules
        assert lab.sh("server2", "cat /proc/sys/net/ipv4/conf/all/arp_ignore") == "0\n"
        assert alternates(tries(lab, "172.25.67.100"))
        # rules and arptables saved: all of it comes back
        reboot(lab)
        assert lab.cli("verify", "-n", "20", "--json").json["status"] == "pass"
        assert "-j DROP" in lab.sh("server3", "arptables-legacy -nL")


def test_2_nat_with_a_leg_in_each_network(backend: str, tmp_path: Path) -> None:
    with system("2-nat-two-legs", backend, tmp_path) as lab:
        lab.cli("up", "nat", "--no-verify")
        shown = lab.cli("status", "--json").json["directors"][0]["services"]
        want = parse_table(TABLE).services[0]
        assert [(s["service"], s["scheduler"]) for s in shown] == [(want.key, want.scheduler)]
        fields = ("address", "port", "method", "weight", "active", "inactive")
        rows = [tuple(server[f] for f in fields) for server in shown[0]["servers"]]
        assert rows == [
            (str(s.address), s.port, s.method, s.weight, s.active, s.inactive) for s in want.servers
        ]
        assert alternates(tries(lab, "http://10.1.1.250"))
        assert lab.cli("verify", "-n", "20", "--json").json["status"] == "pass"

        # a client in the servers' own network: their replies go past the director
        failed = lab.cli("verify", "--from", "inside-client", "-n", "2", "--json", code=3).json
        assert failed["status"] == "fail"
        # another port on the servers; and for the client outside, too
        lab.cli("up", "nat", "--set", "full_nat=true", "--set", "real_port=8080", "--persist",
                "-n", "20")  # fmt: skip
        reboot(lab)
        assert lab.sh("director", "cat /proc/sys/net/ipv4/ip_forward") == "1\n"
        verdict = lab.cli("verify", "--from", "inside-client", "-n", "20", "--json").json
        assert verdict["status"] == "pass"
        ports = lab.cli("status", "--json").json["directors"][0]["services"][0]["servers"]
        assert [server["port"] for server in ports] == [8080, 8080]
        assert lab.cli("verify", "--from", "web1", code=64).err.count("inside-client") == 1


def test_2_dr_behind_a_router(backend: str, tmp_path: Path) -> None:
    with system("2-dr-behind-router", backend, tmp_path) as lab:
        assert "PASS" in lab.cli("up", "dr", "--persist").out
        reboot(lab)
        assert lab.cli("verify", "-n", "20", "--json").json["status"] == "pass"
        for host in ("web1", "web2"):
            assert "192.168.10.250/32" in lab.sh(host, "ip -o addr show dev lo")
            assert "via 192.168.10.254" in lab.sh(host, "ip route show default")
            values = "cd /proc/sys/net/ipv4/conf/all; cat arp_ignore arp_announce"
            assert lab.sh(host, values).split() == ["1", "2"]
        assert alternates(tries(lab, "http://192.168.10.250"))


def test_4_tun_across_networks(backend: str, tmp_path: Path) -> None:
    guarded = "director or role:real_server"
    with system("4-tun-across-networks", backend, tmp_path, guarded=guarded) as lab:
        # firewalls are opened for what is needed, if they may be; not switched off
        lab.cli("up", "tun", "--no-verify")
        once = "curl -s -m 2 -o /dev/null 203.0.113.100; echo $?"
        assert lab.sh("client", once) == "28\n"
        kept = ("up", "tun", "--persist", "--set", "firewall=yes", "--set", "monitor=true", "--set",
                "site=www.example.com")  # fmt: skip
        assert "PASS" in lab.cli(*kept).out
        assert "policy drop" in lab.sh("rs1", "nft list chain inet filter input")
        assert alternates(tries(lab, "http://203.0.113.100"))
        for host in inventory.load(lab.path).hosts:
            assert lab.sh(host, "getent hosts www.example.com").split()[0] == "203.0.113.100"
        assert alternates(tries(lab, "http://www.example.com"))
        # inner addresses are for those who want them; IPVS has the reachable ones
        for inner in ("10.0.0.2", "10.0.0.3"):
            lab.sh("director", f"ping -c 1 -W 2 -I 10.0.0.1 {inner}")
        assert " -r 198.51.100.22:80 -i" in lab.sh("director", "ipvsadm -Sn")

        # the tunnel monitor: a device that is down, a module that is gone; the director silent
        lab.sh("director", f"nft -f - <<'END'\n{SILENT}END")
        lab.sh("rs1", "ip link set tunl0 down")
        lab.sh("rs2", "rmmod ipip")
        vip = "ip -br addr show dev tunl0 2>/dev/null | grep 'UNKNOWN.* 203.0.113.100/32'"
        for host in ("rs1", "rs2"):
            lab.sh(host, f"for i in $(seq 90); do {vip} && exit; sleep 0.1; done; exit 1")
        lab.sh("director", "nft delete table ip silent")
        lab.cli("plan", *kept[1:])  # it has left nothing for `up` to mend
        assert alternates(tries(lab, "http://203.0.113.100"))

        sticky = (*kept[1:], "--set", "scheduler=wlc", "--set", "persistence=3600")
        lab.cli("up", *sticky, "--no-verify")
        assert len(set(tries(lab, "http://203.0.113.100"))) == 1
        assert "persistent 3600" in lab.sh("director", "ipvsadm -ln")

        reboot(lab)
        assert lab.cli("verify", "-n", "20", "--json").json["status"] == "pass"
        assert "policy drop" in lab.sh("rs2", "nft list chain inet filter input")
        lab.sh("rs2", "/etc/init.d/lvsfab-tunnel status")
        lab.cli("plan", *sticky)  # and nothing is left to do
