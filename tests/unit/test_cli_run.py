"""The executor's command line as a whole: words in, streams and exit status out."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lvsfab.cli import main
from lvsfab.errors import UnreachableError
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from lvsfab.transports import ssh
from lvsfab.transports.endpoint import Endpoint
from tests.unit.local import LocalChannel
from tests.unit.test_engine import Machine


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Hosts:
    """rs1, rs2, rs3: shells of this machine, or of `machines`; those in `dead` do not answer.
    `reached`: who was asked for a connection.
    """

    folder: Path
    capture: pytest.CaptureFixture[str]
    machines: dict[str, Machine] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    reached: list[Endpoint] = field(default_factory=list)

    def help(self, verb: str) -> str:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        return self.capture.readouterr().out

    def only(self, *names: str) -> None:
        """An inventory of these."""
        hosts = ", ".join(f"{name}: {{groups: [servers]}}" for name in names)
        (self.folder / "few.yml").write_text(f"name: few\nhosts: {{{hosts}}}\n")

    def connect(self, endpoint: Endpoint) -> LocalChannel:
        self.reached.append(endpoint)
        if endpoint.name in self.dead:
            raise UnreachableError(endpoint.name, "no SSH connection")
        machine = self.machines.get(endpoint.name)
        return LocalChannel([*machine.enter, "sh", "-s"]) if machine is not None else LocalChannel()

    def __call__(self, *words: str) -> Ended:
        self.reached.clear()
        verb, *rest = words
        with pytest.raises(SystemExit) as ended:
            main([verb, "-i", str(self.folder / "few.yml"), *rest])
        assert isinstance(ended.value.code, int)
        told = self.capture.readouterr()
        return Ended(ended.value.code, told.out, told.err)


@pytest.fixture
def hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Hosts]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = Hosts(tmp_path, capsys)
    found.only("rs1", "rs2", "rs3")
    monkeypatch.setattr(ssh, "connect", found.connect)
    yield found


@pytest.fixture
def kernels(hosts: Hosts) -> Iterator[Hosts]:
    """Hosts that may be changed: namespaces."""
    hosts.machines = {name: Machine(name) for name in ("rs1", "rs2")}
    hosts.dead = {"rs3"}
    yield hosts
    for machine in hosts.machines.values():
        machine.close()


def test_hosts_that_cannot_be_asked_for_facts_are_left_out_and_told(hosts: Hosts) -> None:
    hosts.dead = {"rs2"}
    done = hosts("run", "not fact:os=plan9", "--json", "--", "echo", "here")
    assert {d["host"]: d["state"] for d in done.documents} == {
        "rs1": "ok", "rs2": "unreachable", "rs3": "ok",
    }  # fmt: skip
    assert done.code == 4
    assert "rs2      UNREACHABLE no facts, so whether `not fact:os=plan9` means it" in done.err
    done = hosts("hosts", "not fact:os=plan9", "--json")
    assert done.code == 4
    listed, unasked = done.documents
    assert [host["name"] for host in listed["hosts"]] == ["rs1", "rs3"]
    assert (unasked["host"], unasked["state"]) == ("rs2", "unreachable")
    assert hosts("run", "rs1 or fact:os=*", "--", "true").code == 4
    assert hosts("run", "rs* and not rs2 and fact:os=*", "--", "true").code == 0


def test_what_is_not_a_target_or_a_limit_is_refused_before_a_host_is_touched(
    hosts: Hosts,
) -> None:
    source = str(hosts.folder / "few.yml")
    target = "fact:os=*"
    for words in [
        ("run", "fact:oss=debian", "--", "true"),
        ("run", target, "--batch", "0", "--", "true"),
        ("facts", target, "--batch", "0"),
        ("put", target, source, "/tmp/x", "--batch", "0"),
        ("put", target, source, "/tmp/x", "--mode", "rwx"),
        ("put", target, source, "x"),
        ("get", target, "/tmp/x", "there", "--batch", "0"),
        ("get", target, "x", "there"),
        ("state", target, "package", "x", "--batch", "0"),
        ("apply", source, "--batch", "0"),
    ]:
        assert hosts(*words).code == 64, words
        assert hosts.reached == [], words


def test_a_target_is_resolved_once(hosts: Hosts) -> None:
    source = str(hosts.folder / "few.yml")
    there = str(hosts.folder / "there")
    assert hosts("put", "fact:os=* and rs1", source, there, "--dry-run").code == 2
    assert [endpoint.name for endpoint in hosts.reached].count("rs1") == 2  # its facts, the file
    assert [endpoint.name for endpoint in hosts.reached].count("rs2") == 1


def test_a_command_goes_after_two_dashes(hosts: Hosts) -> None:
    passwd = ("grep", "-v", "root", "/etc/passwd")
    done = hosts("run", "rs1", *passwd)
    assert (done.code, done.out, hosts.reached) == (64, "", [])
    assert done.err.splitlines()[-1].endswith("rs1 -- grep -v root /etc/passwd")
    assert "A command goes after `--`: lvsfab run" in hosts("run", "rs1", "ls", "-la").err
    assert hosts("run", "rs1", "--group", "hostname", "--", "x").code == 64
    done = hosts("run", "rs1", "--json", "--", "printf", "%s|", "--json", "--", "-v")
    assert done.documents[0]["output"] == "--json|--|-v|"


def test_who_failed_is_remembered_until_it_succeeds(hosts: Hosts) -> None:
    hosts.dead = {"rs2", "rs3"}
    hosts("run", "*", "--", "true")
    done = hosts("run", "--retry-failed", "--json", "--", "true")
    assert {d["host"] for d in done.documents} == {"rs2", "rs3"}
    hosts.dead = {"rs3"}
    done = hosts("run", "rs2", "--retry-failed", "--json", "--", "true")
    assert [(d["host"], d["state"]) for d in done.documents] == [("rs2", "ok")]
    done = hosts("run", "--retry-failed", "--json", "--", "true")
    assert [(d["host"], d["state"]) for d in done.documents] == [("rs3", "unreachable")]
    assert "nothing to do" in hosts("run", "rs1", "--retry-failed", "--", "true").err
    hosts.dead = set()
    assert hosts("run", "--retry-failed", "--", "true").code == 0
    assert "nothing to do" in hosts("run", "--retry-failed", "--", "true").err


FORWARD = ("sysctl", "net.ipv4.ip_forward=1")
PAGE = ("file", "/run/page", "content=ours")


def recipe(folder: Path, *, phases: int) -> str:
    """One that wants PAGE on hosts, and a sysctl on them in a phase of its own."""
    path = folder / f"mine{phases}.yml"
    steps = ["file: {path: /run/page, content: ours}"]
    steps += ["sysctl: {name: net.ipv4.ip_forward, value: 1}"] * (phases - 1)
    lines = ["name: mine", "title: for these tests", "steps:"]
    for step in steps:
        lines += ["  - on: servers", "    do:", f"      - {step}"]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_state_is_planned_and_made(kernels: Hosts) -> None:
    done = kernels("state", "rs1,rs2", *FORWARD, "--dry-run")
    assert (done.code, done.out.count("value 0 -> 1")) == (2, 2)
    done = kernels("state", "*", *FORWARD, "--dry-run", "--json")
    told = [d for d in done.documents if d["schema"] == "lvsfab.run/1"]
    assert [(d["host"], d["state"]) for d in told] == [("rs3", "unreachable")]
    assert done.documents[-1]["schema"] == "lvsfab.plan/1"
    done = kernels("state", "*", *FORWARD)
    assert done.code == 4
    assert "2 changes on 2 of 3 hosts" in done.err
    assert kernels.machines["rs2"].sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    assert kernels("state", "rs1", *FORWARD, "--dry-run").code == 0


@pytest.mark.parametrize("what", ["state", "apply", "apply in phases"])
def test_what_is_in_the_way_is_a_change_that_is_refused_unless_adopted(
    kernels: Hosts, what: str
) -> None:
    kernels.only("rs1")
    kernels.machines["rs1"].sh("echo theirs >/run/page")
    mine = recipe(kernels.folder, phases=1 + ("phases" in what))
    words = ("state", "rs1", *PAGE) if what == "state" else ("apply", mine)
    done = kernels(*words, "--dry-run")
    assert (done.code, "in the way: file:/run/page" in done.out) == (2, True)
    refused = kernels(*words)
    assert refused.code not in (0, 2)
    assert "--adopt" in refused.err
    assert kernels.machines["rs1"].sh("cat /run/page") == "theirs\n"
    assert kernels(*words, "--adopt").code == 0
    assert kernels.machines["rs1"].sh("cat /run/page") == "ours"


def test_what_is_in_the_way_alone_is_told_by_the_exit_status(kernels: Hosts) -> None:
    vip = ("state", "rs1", "address", "192.0.2.1/32", "dev=lo")
    assert kernels(*vip).code == 0
    assert kernels(*vip, "--dry-run").code == 0
    kernels.machines["rs1"].sh(
        "ip link add d0 type veth peer name d1; ip addr add 192.0.2.1/32 dev d0"
    )
    done = kernels(*vip, "--dry-run")
    assert (done.code, "192.0.2.1 is on d0" in done.out) == (2, True)
    assert "nothing to change" in done.out


@pytest.mark.parametrize("what", ["state", "apply", "apply in phases"])
def test_a_lock_is_kept_unless_broken(kernels: Hosts, what: str) -> None:
    kernels.only("rs1")
    mine = recipe(kernels.folder, phases=1 + ("phases" in what))
    words = ("state", "rs1", *FORWARD) if what == "state" else ("apply", mine)
    channel = LocalChannel([*kernels.machines["rs1"].enter, "sh", "-s"])
    holder = Shell("rs1", channel, prelude())
    holder.run("rec lock lock_take somebody", timeout=20, what="its lock")
    refused = kernels(*words)
    assert refused.code not in (0, 2)
    assert "somebody" in refused.err
    assert channel.process.poll() is None
    assert kernels(*words, "--break-lock").code == 0
    assert channel.process.wait(10) == -signal.SIGKILL
    holder.close()


def test_sudo_is_for_every_verb(kernels: Hosts) -> None:
    mine = recipe(kernels.folder, phases=1)
    two = recipe(kernels.folder, phases=2)
    for words in [
        ("facts", "rs1"), ("run", "rs1", "--shell", "true"), ("put", "rs1", mine, "/run/mine"),
        ("get", "rs1", "/etc/hostname", str(kernels.folder)), ("state", "rs1", *FORWARD),
        ("apply", mine, "--dry-run"), ("apply", two, "--dry-run"),
    ]:  # fmt: skip
        kernels(*words)
        assert {endpoint.sudo for endpoint in kernels.reached} == {False}
        kernels(words[0], "--sudo", *words[1:])
        assert {endpoint.sudo for endpoint in kernels.reached} == {True}, words


def test_hosts_shows_how_each_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    listed = ["hosts", "-H", "a,ops@192.0.2.1:2222,root@[fd00::1]:22"]
    with pytest.raises(SystemExit):
        main(listed)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["a", "a"], ["192.0.2.1", "ops@192.0.2.1:2222"], ["fd00--1", "root@[fd00::1]:22"],
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        main([*listed, "--json"])
    assert json.loads(capsys.readouterr().out)["hosts"][1] == {
        "name": "192.0.2.1", "roles": "", "groups": "", "address": "192.0.2.1", "port": 2222,
        "user": "ops",
    }  # fmt: skip


def test_hosts_shows_groups_and_roles(hosts: Hosts) -> None:
    (hosts.folder / "few.yml").write_text(
        "name: few\nhosts: {d: {roles: [director], groups: [rack1, a]}}\n"
    )
    assert hosts("hosts").out.split() == ["d", "director", "a,rack1"]


def test_standard_input_can_be_our_own(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\r\n\xff\n")))

    typed()
    done = hosts("run", "rs1,rs2", "--stdin", "-", "--json", "--", "od", "-An", "-c")
    assert {d["output"] for d in done.documents} == {"   o   n   e  \\r  \\n 377  \\n\n"}
    typed()
    done = hosts("run", "rs1", "--stdin", "-", "-K", "--", "cat")
    assert (done.code, hosts.reached) == (64, [])
    assert "both read standard input" in done.err


def test_verbose_tells_what_is_run_and_how_long_it_took(hosts: Hosts) -> None:
    source = str(hosts.folder / "few.yml")
    for words, begun in [
        (("run", "rs1", "-v", "--", "echo", "a b"), "-- echo 'a b'\n"),
        (("run", "rs1", "-v", "--shell", "echo | cat"), "-- echo | cat\n"),
        (("put", "rs1", source, str(hosts.folder / "x"), "-v"), ""),
        (("get", "rs1", source, str(hosts.folder), "-v"), ""),
        (("facts", "rs1", "-v"), ""),
    ]:
        done = hosts(*words)
        assert done.code == 0
        assert done.err.startswith(begun)
        assert re.search(
            r"^rs1      ok, exit status 0, [0-9]+[.][0-9]{2} s$", done.err, re.MULTILINE
        ), words
        quiet = hosts(*(word for word in words if word != "-v"))
        assert "exit status" not in quiet.err


def test_connect_timeout(hosts: Hosts) -> None:
    hosts("run", "rs1", "--connect-timeout", "2.5", "--", "true")
    assert [endpoint.connect_timeout for endpoint in hosts.reached] == [2.5]
    hosts("run", "rs1", "--", "true")
    assert [endpoint.connect_timeout for endpoint in hosts.reached] == [None]
    for text in ("0", "-1", "nan", "inf", "soon"):
        assert hosts("run", "rs1", "--connect-timeout", text, "--", "true").code == 64


def test_a_host_that_says_nothing_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that accepts connections, and no more than that."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            main(["run", "-H", f"127.0.0.1:{silent.getsockname()[1]}", "*",
                  "--connect-timeout", "1", "--", "true"])  # fmt: skip
    assert ended.value.code == 4
    assert "UNREACHABLE" in capsys.readouterr().err
    assert time.monotonic() - began < 10  # 15 s is what it waits else


def test_get_can_be_tried(hosts: Hosts) -> None:
    there, here = hosts.folder / "there", hosts.folder / "here"
    there.write_text("text\n")
    for _ in range(2):
        done = hosts("get", "rs1,rs2", str(there), str(here), "--dry-run", "--json")
        assert done.code == 2
        assert [(d["state"], d["changes"]) for d in done.documents] == [("ok", 1), ("ok", 1)]
        assert not here.exists()
    assert hosts("get", "rs1,rs2", str(there), str(here)).code == 0
    assert (here / "rs2/there").read_text() == "text\n"
    assert hosts("get", "rs1,rs2", str(there), str(here), "--dry-run").code == 0


@pytest.mark.parametrize("phases", [1, 2])
def test_apply_can_be_tried(kernels: Hosts, phases: int) -> None:
    kernels.only("rs1", "rs2")
    mine = recipe(kernels.folder, phases=phases)
    look = "ls /run/page; cat /proc/sys/net/ipv4/ip_forward; find /run /var/lib"
    before = kernels.machines["rs1"].sh(look)
    done = kernels("apply", mine, "--dry-run", "--json")
    assert done.code == 2
    plan = done.documents[-1]
    assert plan["changes"] == 2 * phases
    assert plan["hosts"]["rs1"][0]["key"] == "/run/page"
    assert kernels.machines["rs1"].sh(look) == before
    assert kernels("apply", mine).code == 0
    assert kernels("apply", mine, "--dry-run").code == 0


def states(done: Ended) -> list[str]:
    return [document["state"] for document in done.documents]


def test_what_the_help_says_of_limits_holds(hosts: Hosts) -> None:
    said = " ".join(hosts.help("run").split())
    assert "--batch N|P% The next N hosts only when these are done." in said
    assert "--fail-fast The same as --max-fail 1." in said
    text = f"echo x >>{hosts.folder}/ran; [ $(wc -l <{hosts.folder}/ran) -lt 2 ]"
    failing = ("run", "*", "--shell", text, "--batch", "1", "--json")
    for fast in (["--fail-fast"], ["--max-fail", "1"]):
        done = hosts(*failing, *fast)
        assert (done.code, states(done)) == (5, ["ok", "failed", "not_run"])
        (hosts.folder / "ran").unlink()
    assert states(hosts(*failing)) == ["ok", "failed", "failed"]
    assert hosts(*failing, "--fail-fast", "--max-fail", "2").code == 64
