"""Builds that fail, kernels that are looked at, containers that ended, streams in frames."""

from __future__ import annotations

import io
import socket
import struct
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError

from lvsfab.errors import LabError
from lvsfab.labs import docker_console, docker_dial, docker_image, docker_kernel, docker_plan
from lvsfab.labs.docker import DockerLab
from lvsfab.labs.docker_engine import Engine
from lvsfab.labs.docker_objects import Objects
from lvsfab.labs.kernel import Kernel
from lvsfab.model import Host, Inventory, LabSpec

STEPS = [
    {"stream": "Step 1/3 : FROM base"},
    {"stream": "\n"},
    {"stream": " ---> 8359d7eef727\n"},
    {"stream": "Step 2/3 : RUN apt-get update"},
    {"stream": "\n"},
    {"stream": " ---> Running in 1f3cf9d0e1\n"},
    {"stream": "Err:1 http://mirror.example trixie InRelease\n"},
]


def test_a_build_that_fails_shows_step_and_last_lines() -> None:
    said: list[str] = []
    error = {"error": "The command '/bin/sh -c apt-get update' returned a non-zero code: 100"}
    with pytest.raises(LabError) as raised:
        docker_image.follow([*STEPS, error], said.append)
    assert "failed at\n  Step 2/3 : RUN apt-get update\n  Err:1 http" in raised.value.message
    assert "non-zero code: 100" in raised.value.message
    assert "Running in" not in raised.value.message
    assert said == ["Step 1/3 : FROM base", "Step 2/3 : RUN apt-get update"]


def test_a_full_disk_is_no_fault_of_the_base() -> None:
    error = {"error": "write /x: no space left on device"}
    with pytest.raises(LabError) as raised:
        docker_image.follow([*STEPS, error], lambda _: None)
    assert "docker system df" in raised.value.tip


def test_a_build_that_ends_well_says_nothing_more() -> None:
    docker_image.follow([*STEPS, {"aux": {"ID": "sha256:1"}}], lambda _: None)


@pytest.mark.parametrize(
    ("said", "short"),
    [
        (
            'Get "https://registry/v2/": dial tcp: lookup registry on [::1]:53: no such host',
            "no such host",
        ),
        ("toomanyrequests", "toomanyrequests"),
        ("", "no reason"),
    ],
)
def test_an_engines_reason_in_short(said: str, short: str) -> None:
    assert docker_image.short(said) == short


def kernel(tmp_path: Path, entry: str) -> Kernel:
    return Kernel(tmp_path, tmp_path, "7.2", "built", frozenset(), frozenset(), tmp_path / entry)


def test_an_images_name_is_all_it_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LVSFAB_BASE", raising=False)
    one, other = kernel(tmp_path, "kernel-built-1"), kernel(tmp_path, "kernel-built-2")
    assert docker_image.recipe(one) == docker_image.recipe(one)
    tags = {docker_image.recipe(k).tag for k in (None, one, other)}
    tags.add(docker_image.recipe(one, "nginx").tag)
    assert docker_image.recipe(None).target == "host"
    monkeypatch.setenv("LVSFAB_BASE", "debian:sid")
    tags.add(docker_image.recipe(one).tag)
    assert len(tags) == 5


class Pulled:
    """An engine that answers a pull with these events."""

    def __init__(self, *events: dict[str, str]) -> None:
        self.events = events

    def pull(self, *_: str, **__: object) -> tuple[dict[str, str], ...]:
        return self.events


def pulled(*events: dict[str, str]) -> str:
    return docker_image._pull(Engine(Pulled(*events), "27.1", "", ""), "debian:x", lambda _: None)


def test_what_comes_of_a_pull() -> None:
    assert pulled({"status": "Pull complete"}) == ""
    assert pulled({"error": "Get registry: no such host"}, {"error": "x"}) == "no such host"
    assert pulled({"error": ""}) == "no reason"
    with pytest.raises(LabError, match=r"pulling debian:x.*no space left") as raised:
        pulled({"error": "write /var/lib/docker/tmp/x: no space left on device"})
    assert "docker system df" in raised.value.tip


def test_what_a_kernel_has() -> None:
    rr = "loadable ip_vs_rr\n"
    found = docker_kernel.Found(f"loaded ip_vs\nloadable ipip\n{rr}loadable fou\nnoise\n")
    assert found.missing == ()
    assert found.to_load == ("ip_vs_rr", "ipip", "fou")
    assert docker_kernel.Found("").missing == ("ip_vs", "ip_vs_rr", "ipip")
    assert docker_kernel.Found(f"loadable ip_vs\n{rr}").missing == ("ipip",)
    assert len(set(docker_kernel.WANTED)) == len(docker_kernel.WANTED)


class Containers:
    """An engine that runs containers without effect, and prints `said` in each."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.made: list[dict[str, Any]] = []
        self.removed = 0

    def create_container_from_config(self, config: dict[str, Any]) -> dict[str, str]:
        self.made.append(config)
        return {"Id": "1"}

    def start(self, container: str) -> None: ...

    def wait(self, container: str, timeout: float) -> dict[str, int]:
        return {"StatusCode": 0}

    def logs(self, container: str, stdout: bool, stderr: bool) -> bytes:
        return self.said.encode()

    def remove_container(self, container: str, force: bool) -> None:
        self.removed += 1


def test_modules_that_cannot_be_loaded_are_named_with_the_line_to_type() -> None:
    api = Containers("loadable ip_vs\nloaded ip_vs_rr\nloadable ipip\n")
    found = docker_kernel.Found(api.said)
    elsewhere = Engine(api, "27.1", "6.1-elsewhere", "http://far.example:2375")
    with pytest.raises(LabError, match="cannot be loaded through the engine") as raised:
        docker_kernel.load(elsewhere, "image", {"lvsfab.lab": "x"}, found, lambda _: None)
    assert "sudo modprobe -a ip_vs ipip;" in raised.value.tip
    loading, looking = api.made
    assert loading["HostConfig"]["CapAdd"] == ["SYS_MODULE"]
    assert looking["HostConfig"]["CapAdd"] == []
    assert loading["Labels"] == {"lvsfab.lab": "x"}
    assert api.removed == 2


def test_what_is_loaded_needs_no_container() -> None:
    api = Containers("")
    found = docker_kernel.Found("loaded ip_vs\nloaded ip_vs_rr\nloaded ipip\n")
    engine = Engine(api, "27.1", "6.1-elsewhere", "http://far.example:2375")
    assert docker_kernel.load(engine, "image", {}, found, lambda _: None) is found
    assert api.made == []


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"ExitCode": 0}, "exit status 0"),
        ({"ExitCode": 137}, "signal 9"),
        ({"ExitCode": 137, "OOMKilled": True}, "signal 9, out of memory"),
        ({"ExitCode": 127, "Error": "no such file"}, "exit status 127: no such file"),
    ],
)
def test_how_a_container_ended(state: dict[str, Any], text: str) -> None:
    assert docker_console.ended(state) == text


@pytest.mark.parametrize(
    ("state", "died"),
    [
        ({"ExitCode": 139}, True),
        ({"ExitCode": 134}, True),
        ({"ExitCode": 1}, True),
        ({"ExitCode": 0}, False),
        ({"ExitCode": 69}, False),  # docker/entrypoint: an interface is missing
        ({"ExitCode": 74}, False),  # docker/entrypoint: no disk could be made
        ({"ExitCode": 127, "Error": "no such file"}, False),
        ({"ExitCode": 137, "OOMKilled": True}, False),
    ],
)
def test_what_is_a_kernels_death(state: dict[str, Any], died: bool) -> None:
    assert docker_console.kernel_died(state) is died


class NoGate:
    """An engine on which the gate does not run."""

    def __init__(self, status: int) -> None:
        self.status = status

    def exec_create(self, gate: str, *_: object, **__: object) -> None:
        answer = requests.Response()
        answer.status_code = self.status
        raise APIError("error", response=answer, explanation=f"Container {gate} is not running")


@pytest.mark.parametrize("status", [404, 409])
def test_a_dead_gate_is_named(status: int) -> None:
    with pytest.raises(LabError, match=r"gate, the container lvsfab\.lab, is dead") as raised:
        docker_dial.through(Engine(NoGate(status), "27.1", "", ""), "lvsfab.lab", "100.64.10.11")
    assert raised.value.tip == "lvsfab lab up"
    with pytest.raises(LabError, match="the Docker engine says"):
        docker_dial.through(Engine(NoGate(500), "27.1", "", ""), "lvsfab.lab", "100.64.10.11")


def test_age() -> None:
    now = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
    assert docker_console.age("2026-11-20T12:00:00.123456789Z", now) == 30
    assert docker_console.age("2026-11-20T12:01:00Z", now) == 0


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


class Answer:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_frames_of_standard_output_are_the_connection() -> None:
    text = frame(1, b"SSH-2.0-") + frame(2, b"socat: warning\n") + frame(1, b"x\r\n") + b"\1\0"
    ours, theirs = socket.socketpair()
    answer = Answer()
    with ours, theirs:
        docker_dial._down(io.BytesIO(text), theirs, answer)
        assert ours.recv(100) == b"SSH-2.0-x\r\n"
        assert ours.recv(100) == b""
    assert answer.closed


def test_this_machines_addresses_are_here() -> None:
    assert docker_dial.is_here("127.0.0.1")
    assert not docker_dial.is_here("192.0.2.77")


class Listing:
    """An engine's API that knows some containers, and makes none."""

    def __init__(self, labels: dict[str, str], states: dict[str, str]) -> None:
        self._listed = [
            {"Id": host, "State": state, "Labels": {**labels, docker_plan.HOST: host}}
            for host, state in states.items()
        ]

    def containers(self, **_: object) -> list[dict[str, Any]]:
        return self._listed


@pytest.mark.parametrize(
    ("state", "up"),
    [("running", True), ("restarting", True), ("exited", False), ("dead", False)],
)
def test_a_host_that_reboots_by_itself_is_not_made_anew(
    tmp_path: Path, state: str, up: bool
) -> None:
    """It would come back without its files, for a command that came at that moment."""
    found = Inventory("lab", {"rs1": Host("rs1"), "rs2": Host("rs2")},
                      lab=LabSpec(IPv4Network("100.64.7.0/24")))  # fmt: skip
    engine = Engine(None, "28.0", "6.1", "unix:///x")
    lab = DockerLab(found, directory=tmp_path, engine=engine)
    labels = Objects(engine, found, lab.directory, ()).labels
    known = Listing(labels, {"rs1": "running", "rs2": state})
    lab = DockerLab(found, directory=tmp_path, engine=replace(engine, api=known))
    lab.directory.mkdir()
    (lab.directory / "spec").write_text('{"gate": false}')
    assert lab.whole() is up
    assert lab.running()
