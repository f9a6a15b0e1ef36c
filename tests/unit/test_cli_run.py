"""The executor's command line as a whole: words in, streams and exit status out. The hosts are
shells of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lvsfab.cli import main
from lvsfab.errors import UnreachableError
from lvsfab.transports import ssh
from lvsfab.transports.endpoint import Endpoint
from tests.unit.local import LocalChannel


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
    """rs1, rs2, rs3; those in `dead` do not answer. `reached`: who was asked for a connection."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    dead: set[str] = field(default_factory=set)
    reached: list[Endpoint] = field(default_factory=list)

    def connect(self, endpoint: Endpoint) -> LocalChannel:
        self.reached.append(endpoint)
        if endpoint.name in self.dead:
            raise UnreachableError(endpoint.name, "no SSH connection")
        return LocalChannel()

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
    (tmp_path / "few.yml").write_text("name: few\nhosts: {rs1: {}, rs2: {}, rs3: {}}\n")
    found = Hosts(tmp_path, capsys)
    monkeypatch.setattr(ssh, "connect", found.connect)
    yield found


def test_hosts_that_cannot_be_asked_for_facts_are_left_out_and_told(hosts: Hosts) -> None:
    hosts.dead = {"rs2"}
    done = hosts("run", "not fact:os=plan9", "--json", "--", "echo", "here")
    assert {d["host"]: d["state"] for d in done.documents} == {
        "rs1": "ok", "rs2": "unreachable", "rs3": "ok",
    }  # fmt: skip
    assert done.code == 4
    assert "rs2      UNREACHABLE no facts, so whether `not fact:os=plan9` means it" in done.err
    assert hosts("hosts", "not fact:os=plan9").code == 4
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
