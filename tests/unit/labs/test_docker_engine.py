"""Engines that are not there, not ours to speak to, too old, full, or slow: a stub in place of the
SDK's client, with the errors that the SDK itself raises.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException

from lvsfab.errors import LabError
from lvsfab.labs import docker_engine as engine


class Client:
    """What `connect` asks a client for."""

    base_url = "http+docker://localhost"

    def __init__(self, **version: str) -> None:
        self._version = {
            "Version": "27.1",
            "ApiVersion": "1.46",
            "Os": "linux",
            "Arch": "amd64",
            "KernelVersion": os.uname().release,
            **version,
        }

    def version(self) -> dict[str, str]:
        return self._version

    def info(self) -> dict[str, str]:
        return {"Name": self._version.get("Name", os.uname().nodename)}


def fails(error: Exception) -> Callable[[], Any]:
    def open_client() -> Any:
        raise error

    return open_client


def test_an_engine_says_what_it_is() -> None:
    found = engine.connect(Client)
    assert (found.version, found.kernel, found.here) == ("27.1", os.uname().release, True)


@pytest.mark.parametrize(
    ("what", "url"),
    [
        ({"KernelVersion": "6.6.12-linuxkit"}, "http+docker://localhost"),
        ({"Name": "far"}, "http+docker://ssh"),
        ({"Name": "far"}, "http+docker://localhost"),  # its socket, carried here by ssh -L
        ({}, "tcp://far.example:2375"),
    ],
)
def test_engines_elsewhere(what: dict[str, str], url: str) -> None:
    client = Client(**what)
    client.base_url = url
    assert not engine.connect(lambda: client).here


def test_where_an_engine_is_likely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(engine, "SOCKET", tmp_path / "docker.sock")
    config = tmp_path / "config.json"
    for text in (None, "{", "[]", "{}", '{"currentContext": "default"}'):
        if text is not None:
            config.write_text(text)
        assert not engine.likely()
    config.write_text('{"currentContext": "far"}')
    assert engine.likely()
    config.unlink()
    engine.SOCKET.touch()
    assert engine.likely()
    engine.SOCKET.unlink()
    monkeypatch.setenv("DOCKER_HOST", "tcp://far.example:2375")
    assert engine.likely()


@pytest.mark.parametrize(
    ("version", "api"), [("19.03.8", "1.40"), ("20.10.0", "1.41"), ("20.10.9", "1.41")]
)
def test_too_old(version: str, api: str) -> None:
    with pytest.raises(LabError, match=rf"too old: {version} \(API {api}\)") as raised:
        engine.connect(lambda: Client(Version=version, ApiVersion=api))
    assert "20.10.10" in raised.value.tip
    assert "--backend rootless" in raised.value.tip


@pytest.mark.parametrize("version", ["20.10.10", "20.10.24+dfsg1", "28.0.1", "4.3.1", "?"])
def test_old_enough(version: str) -> None:
    assert engine.connect(lambda: Client(Version=version, ApiVersion="1.41")).version == version


@pytest.mark.parametrize("what", [{"Os": "windows"}, {"Arch": "arm64"}])
def test_another_world(what: dict[str, str]) -> None:
    with pytest.raises(LabError, match="Linux on x86-64"):
        engine.connect(lambda: Client(**what))


def wrapped(error: OSError) -> DockerException:
    """As the SDK wraps what its HTTP library raised."""
    middle = requests.exceptions.ConnectionError("Connection aborted.", error)
    return DockerException(f"Error while fetching server API version: {middle}", middle)


def test_no_permission() -> None:
    error = wrapped(PermissionError(13, "Permission denied"))
    with pytest.raises(LabError, match="no permission") as raised:
        engine.connect(fails(error))
    assert "usermod -aG docker" in raised.value.tip


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file"), ConnectionRefusedError(111, "refused")]
)
def test_no_engine(error: OSError) -> None:
    with pytest.raises(LabError, match="no Docker engine answers") as raised:
        engine.connect(fails(wrapped(error)))
    assert "systemctl start docker" in raised.value.tip
    assert "--backend rootless" in raised.value.tip


def test_no_engine_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LabError, match=r"no Docker engine answers at unix:///.*/none.sock"):
        engine.connect()


def test_something_else_on_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/tmp/lvsfab-noengine-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            for _ in range(2):  # a look whether there is anything, then the SDK's question
                talk, _ = server.accept()
                with talk:
                    talk.settimeout(10)
                    if talk.recv(4096):
                        talk.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
            with pytest.raises(LabError, match="no Docker engine answers"):
                engine.connect()
        finally:
            thread.join(10)
            Path(path).unlink()


def says(text: str) -> APIError:
    return APIError("500 Server Error", explanation=text)


@pytest.mark.parametrize(
    ("error", "message", "tip"),
    [
        (
            says("write /var/lib/docker/tmp/x: no space left on device"),
            r"rs1: making its container: the Docker engine says: write .* no space",
            "docker system df",
        ),
        (
            says('Conflict. The container name "/lvsfab.lab.rs1" is already in use by container'),
            "already in use",
            "not the lab's",
        ),
        (
            says("Pool overlaps with other one on this address space"),
            "overlaps",
            "docker network ls",
        ),
        (
            says("error while removing network: network inner id 7 has active endpoints"),
            "active endpoints",
            "docker network inspect",
        ),
        (
            requests.exceptions.ReadTimeout("Read timed out. (read timeout=60)"),
            "did not answer within 60 s",
            "lvsfab lab up",
        ),
        (
            requests.exceptions.ConnectionError("Connection aborted."),
            "engine is gone",
            "lvsfab lab up",
        ),
        (DockerException("no"), "rs1: making its container: no", ""),
    ],
)
def test_an_engines_complaint_is_a_sentence(error: Exception, message: str, tip: str) -> None:
    with (
        pytest.raises(LabError, match=message) as raised,
        engine.asking("rs1: making its container"),
    ):
        raise error
    assert tip in raised.value.tip
