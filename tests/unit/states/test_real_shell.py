"""Readers and commands for real: in dash and busybox ash, in a network of the test's own.

`unshare` makes namespaces for users, network, mounts and processes, so nothing outside is touched,
whoever runs this.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lvsfab import scripts
from lvsfab.model import Host, Inventory
from lvsfab.plan import Have, Unsupported, plan_host
from lvsfab.session import Command, Shell, by_id, command
from lvsfab.states import BUILDERS, KINDS, readers_script
from lvsfab.states.base import Context, Resource, UnsupportedError, changes
from lvsfab.states.file import File
from lvsfab.states.keepalived import KeepalivedConfig, mode_of
from lvsfab.states.sysctl import Sysctl
from tests.unit.local import SHELLS, LocalChannel, shell_argv
from tests.unit.states.state_helpers import journalled

# user, network, mounts, and processes: what a failed test leaves running ends with its shell
NAMESPACES = ["-Urnmp", "--fork", "--kill-child", "--mount-proc"]
NETWORK = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /mnt || exit 1
echo 0 >/proc/sys/net/ipv4/ip_forward # a new namespace inherits the machine's own values
ip link set lo up; ip link add e0 type veth peer name e1; ip link set e0 up; ip link set e1 up
ip addr add 10.1.1.1/24 brd + dev e0; ip addr add 10.1.1.7/24 dev e0 label e0:x
ip addr add fd00::1/64 dev e0 nodad
ip route add default via 10.1.1.254 dev e0 proto static onlink
ip route add unreachable 198.51.100.0/24
ip -6 route add default via fd00::fe dev e0 proto static
printf '\\377\\000' >/mnt/binary; chmod 4750 /mnt/binary
exec "$@"
"""
CONTEXT = Context(Inventory("lab", {}), Host("h"), {})


def can_unshare() -> bool:
    done = subprocess.run(["unshare", *NAMESPACES, "true"], check=False, capture_output=True)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not can_unshare(), reason="this machine forbids user namespaces (unshare -Ur)"
)


class Local:
    """A host: a shell on this machine, in namespaces of its own."""

    def __init__(self, argv: list[str]) -> None:
        inside = ["unshare", *NAMESPACES, "sh", "-c", NETWORK, "sh", *argv]
        self.shell = Shell("here", LocalChannel(inside), readers_script())
        self.do(command("mkdir", "-p", "/run/lvsfab"))

    def read(self, *resources: Resource) -> dict[str, Have]:
        calls = [("rec", r.id, f"read_{r.type.kind}", r.key) for r in resources]
        records = by_id(self.shell.run("\n".join(map(shlex.join, calls)), timeout=20))
        found: dict[str, Have] = {}
        for resource in resources:
            try:
                found[resource.id] = resource.type.parse(resource.key, records[resource.id].output)
            except UnsupportedError as error:
                found[resource.id] = Unsupported(str(error))
        return found

    def do(self, *commands: Command) -> str:
        body = " &&\n".join(c.script() for c in commands)
        (record,) = self.shell.run(f"do_it() {{\n{body}\n}}\nrec do do_it", timeout=30)
        assert record.status == 0, record.output
        return record.output


@pytest.fixture(params=sorted(SHELLS))
def host(request: pytest.FixtureRequest) -> Iterator[Local]:
    found = Local(shell_argv(request.param))
    yield found
    found.shell.close()


def line(kind: str, **args: Any) -> Resource:
    (resource,) = BUILDERS[kind].build(args, CONTEXT)
    return resource


ROUND_TRIPS = [
    line("sysctl", name="net.ipv4.ip_forward", value="1"),
    line("sysctl", name="net.ipv4.conf.e0.rp_filter", value="2"),
    line("sysctl", name="net.ipv6.conf.all.forwarding", value="1"),
    line("link", name="e1", mtu=1400, up=False),
    line("address", address="10.1.1.100/32", dev="e0", announce=True),
    line("address", address="10.1.1.7/32", dev="e0"),
    line("address", address="10.1.1.100/32", dev="lo", label="lo:0"),
    line("address", address="fd00::100/128", dev="e0", deprecated=True),
    line("route", to="default", via="10.1.1.250", dev="e0"),
    line("route", to="default", via="fd00::fa"),
    line("route", to="198.51.100.0/24", via="10.1.1.9"),
    line("route", to="192.0.2.0/24", dev="e0", src="10.1.1.1", table=100, metric=7),
    line("file", path="/mnt/new/er/f", content="a'b\n$x`y`\\\n\n", mode="0640"),
    line("file", path="/mnt/binary", content="text"),
    line("testpage", port=8080, name="rs1"),
    line("testpage", port=8080, protocol="udp", name="rs1", bind="10.1.1.1"),
]
TOOLS = {"testpage": "apache2", "nft": "nft", "arptables": "arptables-legacy"}


@needs_namespaces
@pytest.mark.parametrize("wanted", ROUND_TRIPS, ids=lambda r: r.id)
def test_apply_then_undo_leaves_what_was_there(host: Local, wanted: Resource) -> None:
    tool = TOOLS.get(wanted.type.kind)
    if tool is not None and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed here")
    before = host.read(wanted)[wanted.id]
    assert not isinstance(before, Unsupported)
    before = journalled(before) if before is not None else None
    assert changes(wanted.state, before)
    host.do(*wanted.type.commands(wanted.key, before, wanted.state))
    now = host.read(wanted)[wanted.id]
    assert not isinstance(now, Unsupported)
    assert changes(wanted.state, now) == ()
    host.do(*wanted.type.commands(wanted.key, now, before))
    assert host.read(wanted)[wanted.id] == before


@needs_namespaces
@pytest.mark.parametrize("was", [None, "0644", "0640"])
def test_a_password_of_vrrp_is_at_no_time_anybodys(host: Local, was: str | None) -> None:
    """The modes looked at: of what keepalived tries, of files before they are given their own."""
    told = """
keepalived() { stat -c %a "$3" >>/mnt/modes; }
chmod() { stat -c %a "$2" >>/mnt/modes; command chmod "$@"; }"""
    host.shell.run(told, timeout=20)
    path, text = "/mnt/keepalived.conf", "auth_pass x\n"
    if was is not None:
        host.do(*File.commands(path, None, File(path=path, content="old\n", mode=was)))
    wanted = KeepalivedConfig(path=path, content=text, mode=mode_of(text))
    resource = Resource(KeepalivedConfig, path, wanted)
    before = host.read(resource)[resource.id]
    assert isinstance(before, KeepalivedConfig)
    host.do(*KeepalivedConfig.commands(path, before, wanted))
    now = host.read(resource)[resource.id]
    assert isinstance(now, KeepalivedConfig)
    assert (now.mode, wanted.changes(now)) == ("0600", ())
    assert set(host.do(command("cat", "/mnt/modes")).split()) == {"600"}
    host.do(*KeepalivedConfig.commands(path, now, before))
    assert host.read(resource)[resource.id] == before


@needs_namespaces
def test_what_is_not_there_reads_as_absent(host: Local) -> None:
    keys = {
        "sysctl": "net.ipv4.vs.no_such",
        "link": "none0",
        "address": "192.0.2.1@none0",
        "route": "203.0.113.0/24",
        "fou": "6080",
        "virtual_service": "tcp:192.0.2.1:80",
        "real_server": "tcp:192.0.2.1:80->192.0.2.2:80",
        "nft": "arp/lvsfab_none",
        "service": "no-such-service",
        "testpage": "8099",
        "arptables": "INPUT,-d,192.0.2.1,-j,DROP",
    }
    resources = [Resource(KINDS[kind], key, None) for kind, key in keys.items()]
    assert host.read(*resources) == dict.fromkeys((r.id for r in resources), None)
    file = Resource(KINDS["file"], "/mnt/no/such", None)
    assert host.read(file)[file.id] == line("file", path="/mnt/no/such", absent=True).type.parse(
        file.key, "absent\nmissing /mnt/no\n"
    )


@needs_namespaces
def test_a_module_the_kernel_lacks_is_unsupported(host: Local) -> None:
    have = host.read(Resource(KINDS["module"], "no_such_module", None))
    assert isinstance(have["module:no_such_module"], Unsupported)


def get(url: str, *options: str) -> Command:
    return command("curl", "-s", "-m", "5", *options, url)


@needs_namespaces
@pytest.mark.skipif(shutil.which("apache2") is None, reason="apache2 is not installed here")
def test_the_page(host: Local) -> None:
    page = line("testpage", port=8080, name="rs1")
    host.do(*page.type.commands(page.key, None, page.state))
    four, six = "http://10.1.1.1:8080", "http://[fd00::1]:8080"
    assert (
        host.do(get(f"{four}/?[1-3]")).splitlines()
        == ["rs1 reached at 10.1.1.1 port 8080 by 10.1.1.1"] * 3
    )
    assert host.do(get(f"{six}/")) == "rs1 reached at fd00::1 port 8080 by fd00::1\n"
    sized = ("-o", "/dev/null", "-w", "%{http_code} %{size_download} %{size_upload}")
    assert host.do(get(f"{four}/1m", *sized)) == "200 1048576 0"
    host.do(command("dd", "if=/dev/zero", "of=/mnt/up", "bs=65536", "count=16"))
    told = host.do(get(f"{four}/upload", *sized, "--data-binary", "@/mnt/up"))
    assert told.split()[::2] == ["200", "1048576"]
    assert len(host.do(command("testpage_pids", "8080")).split()) == 2  # a parent and its worker
    log = host.do(command("cat", "/run/lvsfab/testpage-8080/access.log")).splitlines()
    assert len(log) == 6
    assert log[0] == "10.1.1.1 10.1.1.1 200 46"
    assert log[3].split()[:3] == ["fd00::1", "fd00::1", "200"]
    host.do(*page.type.commands(page.key, page.state, None))
    assert host.do(command("find", "/run", "-name", "*testpage*")) == ""


@needs_namespaces
@pytest.mark.skipif(shutil.which("apache2") is None, reason="apache2 is not installed here")
def test_the_page_says_why_it_cannot_start(host: Local) -> None:
    page = line("testpage", port=8081, protocol="udp", name="rs1", bind="10.1.1.1")
    host.do(*page.type.commands(page.key, None, page.state))
    other = line("testpage", port=8081, name="rs1")
    edit = command("sed", "-i", "s/rs1/rs2/", "/run/lvsfab/testpage-8081/responder")
    host.do(*page.type.commands(page.key, None, page.state), edit, command("true"))
    assert host.read(page)[page.id] == page.state  # the name is an argument, not in the program
    host.do(command("sh", "-c", "echo >>/run/lvsfab/testpage-8081/responder"))
    assert [c.field for c in changes(page.state, host.read(page)[page.id])] == ["text"]  # type: ignore[arg-type]
    host.do(*other.type.commands(other.key, None, other.state))
    host.do(*other.type.commands(other.key, other.state, None))


@needs_namespaces
def test_the_udp_responder_answers_from_its_own_address(host: Local) -> None:
    page = line("testpage", port=8082, protocol="udp", name="rs1", bind="10.1.1.7")
    host.do(*page.type.commands(page.key, None, page.state))
    ask = (
        "use Socket; socket(S,AF_INET,SOCK_DGRAM,0);"
        "bind(S,sockaddr_in(5555,inet_aton('10.1.1.1')));"
        "send(S,'x',0,sockaddr_in(8082,inet_aton('10.1.1.7'))); alarm 5;"
        "my $f=recv(S,my $d,200,0); my($p,$a)=sockaddr_in($f); print inet_ntoa($a),' ',$d"
    )
    said = host.do(command("perl", "-e", ask))
    assert said == "10.1.1.7 rs1 reached at 10.1.1.7 port 8082 by 10.1.1.1\n"
    for health_check in ("", "keepalived check - keepalived ch"):  # answered, and no request
        assert host.do(command("perl", "-e", ask.replace("'x'", f"'{health_check}'"))) == said
    log = host.do(command("cat", "/run/lvsfab/testpage-8082/access.log"))
    assert log == "10.1.1.1 10.1.1.7 200 46\n"
    host.do(*page.type.commands(page.key, page.state, None))


@needs_namespaces
@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed here")
def test_a_table_of_nft(host: Local) -> None:
    *_, table = BUILDERS["arp"].build(
        {"vip": "10.1.1.100", "by": "nft", "address": "10.1.1.1", "dev": "e0"}, CONTEXT
    )
    if "Operation not supported" in host.do(
        command("sh", "-c", "nft add table arp probe 2>&1; nft delete table arp probe 2>&1; :")
    ):
        pytest.skip("this machine's kernel has no nftables for ARP")
    assert host.read(table) == {table.id: None}
    host.do(*table.type.commands(table.key, None, table.state))
    assert changes(table.state, host.read(table)[table.id]) == ()  # type: ignore[arg-type]
    host.do(command("nft", "add", "rule", "arp", table.key[4:], "input", "drop"))
    drifted = host.read(table)[table.id]
    assert changes(table.state, drifted)  # type: ignore[arg-type]
    host.do(*table.type.commands(table.key, drifted, table.state))  # type: ignore[arg-type]
    assert changes(table.state, host.read(table)[table.id]) == ()  # type: ignore[arg-type]
    host.do(*table.type.commands(table.key, table.state, None))
    assert host.read(table) == {table.id: None}
    assert json.loads(host.do(command("nft", "-j", "list", "tables")))["nftables"][1:] == []


CONTENTS = (
    b"", b"\n", b"a", b"a\n\n", b"two\nlines", b"\ta tab\n", b"%s \\n $x `y` '\"\n", b"-n",
    b" a \n ", b"x\0y", b"\0", b"\r\n", b"\x7f", b"\x81\x88\xff", bytes(range(256)),
    "\u00e9\n".encode(), b"x" * 1024, b"x" * 1025, b"lvsfab-0>have\n",
)  # fmt: skip


@needs_namespaces
def test_every_content_comes_back_as_it_was(host: Local) -> None:
    """Short plain text goes by the shell's own means, all else in base64: both ways, any bytes."""
    states = [
        File(path=f"/mnt/c{i}", data=base64.b64encode(c).decode(), mode="0644")
        for i, c in enumerate(CONTENTS)
    ]
    wanted = [Resource(File, state.key, state) for state in states]
    host.do(*(c for w in wanted for c in File.commands(w.key, None, w.state)))  # type: ignore[arg-type]
    records = host.shell.run(scripts.reads_script(wanted), timeout=20)
    found = scripts.haves("here", records)
    for state, content in zip(states, CONTENTS, strict=True):
        have = found[f"file:{state.path}"]
        assert isinstance(have, File)
        assert have.bytes == content
        assert (have.mode, have.owner, have.group) == ("0644", "root", "root")


@needs_namespaces
def test_a_file_is_seen_anew_each_time(host: Local) -> None:
    """What stat said of several files is for that reading alone."""
    wanted = [line("file", path=f"/mnt/f{i}", content="a\n", mode="0640") for i in (1, 2)]
    host.do(*(c for w in wanted for c in w.type.commands(w.key, None, w.state)))
    host.shell.run(scripts.reads_script(wanted), timeout=20)
    host.do(command("chmod", "0600", "/mnt/f1"))
    have = host.read(wanted[0])[wanted[0].id]
    assert isinstance(have, File)
    assert have.mode == "0600"


SYSCTLS = [
    line("sysctl", name=name, value="1")
    for name in ("net.ipv4.ip_forward", "net.ipv4.conf.e0.rp_filter", "net.ipv4.conf.e1.rp_filter",
                 "net.ipv4.conf.all.rp_filter", "net.ipv6.conf.all.forwarding",
                 "net.ipv4.conf.v0/5.arp_ignore", "net.ipv4.conf.gone.arp_ignore",
                 "net.ipv4.tcp_rmem")
]  # fmt: skip


@needs_namespaces
def test_sysctls_looked_at_together_are_what_each_is(host: Local) -> None:
    """Slashes, absent devices and several numbers too; and each reading looks anew."""
    host.do(command(*["ip", "link", "add", "v0.5", "type", "veth", "peer", "name", "v1"]))
    for value in ("1", "0"):
        host.do(command("set_sysctl", SYSCTLS[1].key, value))
        records = host.shell.run(scripts.reads_script(SYSCTLS), timeout=20)
        found = scripts.haves("here", records)
        assert found == {r.id: host.read(r)[r.id] for r in SYSCTLS}
        rp_filter = found[SYSCTLS[1].id]
        assert isinstance(rp_filter, Sysctl)
        assert rp_filter.value == value
    assert [r.key for r in SYSCTLS if found[r.id] is None] == ["net.ipv4.conf.gone.arp_ignore"]


@needs_namespaces
def test_sysctls_of_interfaces_are_read_by_one_process(host: Local) -> None:
    wanted = [r for r in SYSCTLS if ".conf.e" in r.key or ".conf.v" in r.key]
    count = "".join(
        f'{tool}() {{ echo {tool} >>/run/count; command {tool} "$@"; }}\n' for tool in
        ("cat", "grep", "sed", "tr")
    )  # fmt: skip
    host.shell.run(count + scripts.reads_script(wanted), timeout=20)
    assert host.do(command("cat", "/run/count")) == "grep\ncat\n"  # cat is this very look


@needs_namespaces
def test_ten_files_cost_few_processes(host: Local) -> None:
    wanted = [line("file", path=f"/mnt/f{i}", content=f"{i}\n", mode="0644") for i in range(10)]
    tools = "stat base64 cat sed id chown chmod sync mv rm mktemp mkdir"
    count = "".join(
        f'{tool}() {{ echo {tool} >>/run/count; command {tool} "$@"; }}\n' for tool in tools.split()
    )
    plan = plan_host("here", wanted, dict.fromkeys(w.id for w in wanted), [])
    host.shell.run(count + scripts.change_script("unit", plan.apply), timeout=20)
    done = host.do(command("sort", "/run/count")).split()
    assert {tool: done.count(tool) for tool in done} == {
        "chmod": 10, "sync": 10, "mv": 10, "id": 2, "stat": 1,
    }  # fmt: skip


@needs_namespaces
def test_a_failed_write_says_so(host: Local) -> None:
    sysctl = line("sysctl", name="net.ipv4.ip_forward", value="never")
    with pytest.raises(AssertionError, match="refuses `never`"):
        host.do(*sysctl.type.commands(sysctl.key, None, sysctl.state))
