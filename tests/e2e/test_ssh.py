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
from contextlib import ExitStack
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


def test_where_a_key_is_named_no_other_and_no_agent_is_tried(
    servers: tuple[Server, Server], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = servers
    home.knows(f"{one.named} {one.host_key}")
    make_key(home.path / "wrong")
    agent = home.path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not agent.exists():
            assert time.monotonic() < deadline, "ssh-agent did not start"
            time.sleep(0.02)
        added = ["ssh-add", "-q", str(home.path / ".ssh/id_ed25519")]
        subprocess.run(added, check=True, env=dict(os.environ))
        inventory = home.path / "inventory.yml"
        login = f"host: {one.address}, port: {one.port}, user: {USER}"
        text = "name: one\nhosts:\n  box: {ssh: {%s}}\n"
        inventory.write_text(text % login)
        tried = one.log().count("userauth-request")
        (home.path / ".ssh/id_ed25519").unlink()  # the agent alone has it
        cli("run", "*", "-i", str(inventory), "--", "true")
        inventory.write_text(text % f"{login}, key: {home.path}/wrong")
        seen = len(one.log())
        done = cli("run", "*", "-i", str(inventory), "--json", "--", "true", code=4)
        assert "login refused" in done.json["error"]
        assert one.log().count("userauth-request") > tried
        assert one.log()[seen:].count("Failed publickey") <= 1
        assert len(re.findall(r"method publickey", one.log()[seen:])) == 1
    finally:
        process.terminate()
        process.wait(timeout=5)
