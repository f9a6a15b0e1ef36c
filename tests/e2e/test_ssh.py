"""SSH as people have it: host keys, ssh_config, jumps, keys, agents. Against OpenSSH's own server
on loopback addresses of this machine.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Done, cli
from tests.sshd import USER, make_key, sshd


@dataclass(frozen=True)
class Server:
    base: Path
    address: str
    port: int
    host_key: str

    @property
    def named(self) -> str:
        return f"[{self.address}]:{self.port}"

    @property
    def fingerprint(self) -> str:
        argv = ["ssh-keygen", "-lf", str(self.base / "host.pub")]
        words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        return words[1]

    def log(self) -> str:
        return (self.base / "sshd.log").read_text()


@dataclass(frozen=True)
class Home:
    """A home of its own: what HOME/.ssh has is all that is known."""

    path: Path

    @property
    def known(self) -> Path:
        return self.path / ".ssh/known_hosts"

    def knows(self, *lines: str) -> None:
        self.known.write_text("".join(f"{line}\n" for line in lines))

    def config(self, text: str, name: str = "config") -> None:
        (self.path / ".ssh" / name).write_text(text)

    def run(self, host: str, *command: str, code: int = 0, more: tuple[str, ...] = ()) -> Done:
        return cli("run", "-H", host, *more, "*", "--json", "--", *command, code=code)


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two servers with keys of their own; one user's key logs in to both."""
    top = tmp_path_factory.mktemp("sshd")
    user_key = make_key(top / "id")
    with ExitStack() as stack:
        found = []
        for number in (1, 2):
            base = top / str(number)
            base.mkdir()
            (base / "authorized").write_text(user_key + "\n")
            address = f"127.77.0.{number}"
            port = free_port(address)
            found.append(Server(base, address, port, make_key(base / "host")))
            stack.enter_context(sshd(base, address, port, "LogLevel DEBUG1\nMaxAuthTries 20\n"))
        yield found[0], found[1]


@pytest.fixture
def home(servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    key = (servers[0].base.parent / "id").read_text()
    (tmp_path / ".ssh/id_ed25519").write_text(key)
    (tmp_path / ".ssh/id_ed25519").chmod(0o600)
    return Home(tmp_path)


def at(server: Server) -> str:
    return f"{USER}@{server.address}:{server.port}"


def test_a_known_host_is_reached_by_plain_and_hashed_names(
    servers: tuple[Server, Server], home: Home
) -> None:
    one, _ = servers
    home.knows(f"{one.named} {one.host_key}")
    assert home.run(at(one), "echo", "there").json["output"] == "there\n"
    subprocess.run(["ssh-keygen", "-q", "-Hf", str(home.known)], check=True)
    assert one.address not in home.known.read_text()
    assert home.run(at(one), "echo", "there").json["output"] == "there\n"


def test_an_unknown_key_is_refused_and_not_learnt(
    servers: tuple[Server, Server], home: Home
) -> None:
    one, two = servers
    home.knows(f"{two.named} {two.host_key}")
    before = home.known.read_bytes()
    done = home.run(at(one), "true", code=4)
    assert f"unknown host key ssh-ed25519 {one.fingerprint} for {one.named}" in done.json["error"]
    assert f"ssh {at(one).rpartition(':')[0]} -p {one.port}" in done.json["tip"]
    assert home.known.read_bytes() == before


def test_a_changed_key_is_refused_with_both_fingerprints_and_the_way(
    servers: tuple[Server, Server], home: Home
) -> None:
    one, two = servers
    home.knows(f"{one.named} {two.host_key}")
    before = home.known.read_bytes()
    done = home.run(at(one), "true", code=4)
    assert f"expected ssh-ed25519 {two.fingerprint}, got ssh-ed25519 {one.fingerprint}" in str(done)
    assert f"ssh-keygen -R '{one.named}'" in done.json["tip"]
    assert home.known.read_bytes() == before


def known_lines(one: Server, two: Server) -> list[tuple[list[str], str]]:
    """Lines of known_hosts for server one, and what is to be said: "" where it is known."""
    right, wrong, port = one.host_key, two.host_key, one.port
    return [
        ([f"{one.named} {wrong}", f"{one.named} {right}"], ""),  # whichever comes last
        ([f"{one.named} {right}", f"{one.named} {wrong}"], ""),
        ([f"[127.77.*]:{port} {right}"], ""),
        ([f"[127.77.0.?]:{port} {right}"], ""),
        ([f"127.77.0.* {right}"], ""),  # without a port: as ssh does
        ([f"{one.address} {right}"], ""),
        ([f"[127.77.*]:{port},![127.77.0.1]:* {right}"], "unknown host key"),
        ([f"{one.named},!* {right}"], "unknown host key"),
        ([f"[127.77.0.[12]]:{port} {right}"], "unknown host key"),  # brackets are no pattern
        ([f"[127.77.*]:{port} {wrong}"], "host key changed"),
        ([f"{one.address} {wrong}"], "unknown host key"),
        ([f"{one.named}\t{right} a comment"], ""),
    ]


@pytest.mark.parametrize("number", range(12))
def test_known_hosts_is_read_as_ssh_reads_it(
    number: int, servers: tuple[Server, Server], home: Home
) -> None:
    one, two = servers
    lines, told = known_lines(one, two)[number]
    home.knows(*lines)
    done = home.run(at(one), "true", code=4 if told else 0)
    assert told in done.json.get("error", "")
    ssh = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={home.known}", "-p", str(one.port)]
    ssh += ["-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes"]
    ssh += ["-i", str(home.path / ".ssh/id_ed25519"), f"{USER}@{one.address}", "true"]
    ended = subprocess.run(ssh, check=False, capture_output=True, text=True)
    assert bool(ended.returncode) is bool(told), ended.stderr


def test_the_right_key_in_one_file_outweighs_an_old_one_in_another(
    servers: tuple[Server, Server], home: Home
) -> None:
    one, two = servers
    home.knows(f"{one.named} {one.host_key}")
    home.config(f"{one.named} {two.host_key}\n", "global")
    home.config(f"Host *\n  GlobalKnownHostsFile {home.path}/.ssh/global\n")
    home.run(at(one), "true")


def test_a_host_with_keys_of_several_types_is_asked_for_the_known_one(
    tmp_path_factory: pytest.TempPathFactory, servers: tuple[Server, Server], home: Home
) -> None:
    base = tmp_path_factory.mktemp("rsa")
    make_key(base / "host")
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(base / "rsa")], check=True)
    (base / "authorized").write_text((servers[0].base / "authorized").read_text())
    port = free_port("127.77.0.3")
    rsa = " ".join((base / "rsa.pub").read_text().split()[:2])
    with sshd(base, "127.77.0.3", port, f"HostKey {base}/rsa"):
        home.knows(f"[127.77.0.3]:{port} {rsa}")
        home.run(f"{USER}@127.77.0.3:{port}", "true")


def test_a_revoked_key_is_refused(servers: tuple[Server, Server], home: Home) -> None:
    one, _ = servers
    home.knows(f"{one.named} {one.host_key}", f"@revoked * {one.host_key}")
    assert "is revoked" in home.run(at(one), "true", code=4).json["error"]


def test_ssh_config_names_address_port_user_key_and_known_hosts(
    servers: tuple[Server, Server], home: Home
) -> None:
    one, _ = servers
    (home.path / ".ssh/id_ed25519").rename(home.path / ".ssh/mine")
    home.config("Include conf.d\n")
    home.config(
        f"Host box\n  HostName {one.address}\n  Port {one.port}\n  User {USER}\n"
        "  IdentityFile ~/.ssh/mine\n  HostKeyAlias the-box\n  UserKnownHostsFile ~/.ssh/others\n",
        "conf.d",
    )
    home.config(f"the-box {one.host_key}\n", "others")
    assert home.run("box", "echo", "there").json["output"] == "there\n"
    done = cli("run", "b*", "-i", "ssh_config", "--json", "--", "echo", "as an inventory")
    assert (done.json["host"], done.json["output"]) == ("box", "as an inventory\n")
    home.config(f"the-box {servers[1].host_key}\n", "others")
    assert "ssh-keygen -R 'the-box'" in home.run("box", "true", code=4).json["tip"]


def test_a_jump_is_gone_by_and_its_key_is_verified(
    servers: tuple[Server, Server], home: Home
) -> None:
    jump, target = servers
    home.config(
        f"Host jump\n  HostName {jump.address}\n  Port {jump.port}\n"
        f"Host inner\n  HostName {target.address}\n  Port {target.port}\n  ProxyJump jump\n"
        f"Host *\n  User {USER}\n"
    )
    home.knows(f"{jump.named} {jump.host_key}", f"{target.named} {target.host_key}")
    assert home.run("inner", "echo", "there").json["output"] == "there\n"
    assert re.search(rf"direct-tcpip.*\n.*target {target.address} port {target.port}", jump.log())
    home.knows(f"{target.named} {target.host_key}")
    done = home.run("inner", "true", code=4)
    assert f"unknown host key ssh-ed25519 {jump.fingerprint}" in done.json["error"]
    home.knows(f"{jump.named} {jump.host_key}")
    done = home.run("inner", "true", code=4)
    assert f"unknown host key ssh-ed25519 {target.fingerprint}" in done.json["error"]


def test_a_proxy_command_carries_the_connection(servers: tuple[Server, Server], home: Home) -> None:
    one, two = servers
    home.config(f"{two.named} {two.host_key}\n", "others")
    by = (
        f"ssh -F none -i {home.path}/.ssh/id_ed25519 -o UserKnownHostsFile={home.path}/.ssh/others "
        f"-W %h:%p -p {two.port} {USER}@{two.address}"
    )
    home.config(
        f"Host box\n  HostName {one.address}\n  Port {one.port}\n  User {USER}\n"
        f"  ProxyCommand echo %h >{home.path}/went; {by}\n"
    )
    home.knows(f"{one.named} {one.host_key}")
    assert home.run("box", "echo", "there").json["output"] == "there\n"
    assert (home.path / "went").read_text() == f"{one.address}\n"


@contextmanager
def agent(home: Home, monkeypatch: pytest.MonkeyPatch, *keys: Path) -> Iterator[None]:
    """An agent that holds these keys (locked ones by the word `secret`)."""
    path = home.path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        deadline = time.monotonic() + 10
        while subprocess.run(["ssh-add", "-l"], check=False, capture_output=True).returncode == 2:
            # its socket is there a moment before it listens
            assert time.monotonic() < deadline, "ssh-agent did not start"
            time.sleep(0.02)
        (home.path / "ask").write_text("#!/bin/sh\necho secret\n")
        (home.path / "ask").chmod(0o700)
        env = {**os.environ, "SSH_ASKPASS": str(home.path / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
        for key in keys:
            subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)
        yield
    finally:
        process.terminate()
        process.wait(timeout=5)


def tries(server: Server, since: int) -> int:
    return len(re.findall("method publickey", server.log()[since:]))


def locked(key: Path) -> None:
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)


def test_where_a_key_is_named_no_other_and_no_agent_is_tried(
    servers: tuple[Server, Server], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = servers
    home.knows(f"{one.named} {one.host_key}")
    make_key(home.path / "wrong")
    with agent(home, monkeypatch, home.path / ".ssh/id_ed25519"):
        inventory = home.path / "inventory.yml"
        login = f"host: {one.address}, port: {one.port}, user: {USER}"
        text = "name: one\nhosts:\n  box: {ssh: {%s}}\n"
        inventory.write_text(text % login)
        (home.path / ".ssh/id_ed25519").unlink()  # the agent alone has it
        cli("run", "*", "-i", str(inventory), "--", "true")
        inventory.write_text(text % f"{login}, key: {home.path}/wrong")
        seen = len(one.log())
        done = cli("run", "*", "-i", str(inventory), "--json", "--", "true", code=4)
        assert "login refused" in done.json["error"]
        assert one.log()[seen:].count("Failed publickey") <= 1
        assert tries(one, seen) == 1
        home.config(f"Host *\n  IdentityFile {home.path}/wrong\n")
        inventory.write_text(text % login)
        seen = len(one.log())
        cli("run", "*", "-i", str(inventory), "--", "true", code=4)
        assert tries(one, seen) == 1


@pytest.mark.parametrize("by", ["inventory", "ssh_config"])
def test_a_named_key_that_is_locked_is_the_agents(
    by: str, servers: tuple[Server, Server], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = servers
    home.knows(f"{one.named} {one.host_key}")
    mine = (home.path / ".ssh/id_ed25519").rename(home.path / "mine")
    mine.with_name("mine.pub").write_text((servers[0].base / "authorized").read_text())
    locked(mine)
    make_key(home.path / "other")
    inventory = home.path / "inventory.yml"
    key = f", key: {mine}" if by == "inventory" else ""
    inventory.write_text(
        "name: one\nhosts:\n"
        f"  b: {{ssh: {{host: {one.address}, port: {one.port}, user: {USER}{key}}}}}\n"
    )
    if by == "ssh_config":
        home.config(f"Host *\n  IdentityFile {mine}\n")
    done = cli("run", "*", "-i", str(inventory), "--json", "--", "true", code=4)
    assert "encrypted" in done.json["error"]
    with agent(home, monkeypatch, home.path / "other", mine):
        seen = len(one.log())
        cli("run", "*", "-i", str(inventory), "--", "true")
        assert tries(one, seen) == 1


@pytest.mark.parametrize("proxy", ["ProxyJump jump", "ProxyCommand ssh-of-ours"])
def test_on_the_way_too_only_the_named_keys_are_tried(
    proxy: str, servers: tuple[Server, Server], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One try on the jump, with its key of ssh_config; one on the target, with the inventory's."""
    jump, target = servers
    mine = (home.path / ".ssh/id_ed25519").rename(home.path / "mine")
    others = [home.path / ".ssh/id_ed25519", home.path / "other", home.path / "another"]
    for other in others:
        make_key(other)
    by_hand = (
        f"ProxyCommand ssh -F none -o IdentitiesOnly=yes -o IdentityAgent=none -i {mine} "
        f"-o UserKnownHostsFile={home.known} -W %h:%p -p {jump.port} {USER}@{jump.address}"
    )
    home.config(
        f"Host jump\n  HostName {jump.address}\n  Port {jump.port}\n  IdentityFile {mine}\n"
        f"Host {target.address}\n  IdentityFile {home.path}/other\n"
        f"  {by_hand if 'Command' in proxy else proxy}\nHost *\n  User {USER}\n"
    )
    home.knows(f"{jump.named} {jump.host_key}", f"{target.named} {target.host_key}")
    inventory = home.path / "inventory.yml"
    login = f"host: {target.address}, port: {target.port}"
    text = "name: one\nhosts:\n  box: {ssh: {%s}}\n"
    with agent(home, monkeypatch, *others):
        inventory.write_text(text % f"{login}, key: {mine}")
        seen = [len(server.log()) for server in servers]
        cli("run", "*", "-i", str(inventory), "--", "true")
        assert tries(target, seen[1]) == 1
        if "Jump" in proxy:  # ssh itself asks first whether a key would do
            assert tries(jump, seen[0]) == 1
        inventory.write_text(text % login)  # ssh_config's, which is the wrong one
        seen = [len(server.log()) for server in servers]
        done = cli("run", "*", "-i", str(inventory), "--json", "--", "true", code=4)
        assert "login refused" in done.json["error"]
        assert tries(target, seen[1]) == 1


@pytest.mark.parametrize("jump", ["", "  ProxyJump silent\n"])
def test_ssh_configs_connect_timeout_counts(jump: str, home: Home) -> None:
    """Of a server that takes the connection and says nothing."""
    with socket.create_server(("127.77.0.4", 0)) as silent:
        port = silent.getsockname()[1]
        home.config(
            f"Host silent\n  HostName 127.77.0.4\n  Port {port}\n"
            f"Host box\n  HostName 127.77.0.4\n  Port {port}\n{jump}Host *\n  ConnectTimeout 2\n"
        )
        began = time.monotonic()
        home.run("box", "true", code=4)
        assert 1.5 < time.monotonic() - began < 8
