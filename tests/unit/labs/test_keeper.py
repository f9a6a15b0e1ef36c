"""The keeper's socket and a machine's console, without namespaces: the code that strangers and
endless output meet.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lvsfab.labs import connect, machine
from lvsfab.labs.keeper import Keeper
from lvsfab.labs.machine import Machine


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A keeper of no hosts that listens; its loop runs in a thread, as this user's own."""
    if os.geteuid() != 0:  # in its namespace the keeper's user is 0
        monkeypatch.setattr(Keeper, "_trusted", lambda self, talk: True)
    keeper = Keeper(tmp_path, {"digest": "d", "hosts": {}, "hold": []})
    keeper.listen()

    def loop() -> None:
        while not keeper.ending:
            keeper.turn(0.05)

    thread = threading.Thread(target=loop)
    thread.start()
    yield tmp_path
    keeper.ending = True
    thread.join(10)
    keeper.close()


def test_status_and_socket(served: Path) -> None:
    assert connect.ask(served, {"do": "status"}) == {"digest": "d", "hosts": {}}
    server = socket.create_server(("127.0.0.1", 0))
    with server, connect.dial(served, "127.0.0.1", server.getsockname()[1], 5) as talk:
        other, _ = server.accept()
        other.sendall(b"hello")
        other.close()
        assert talk.recv(5) == b"hello"
    assert connect.keeper_pid(served) == os.getpid()


@pytest.mark.parametrize(
    "sent",
    [b"\n", b"[]\n", b"{}\n", b'{"do": "dance"}\n', b'{"do": "start", "host": "x"}\n', b"\xff\n"],
)
def test_nonsense_is_answered_with_an_error(served: Path, sent: bytes) -> None:
    with connect._connected(served, 5) as talk:
        talk.sendall(sent)
        assert "error" in json.loads(talk.recv(4096))
    assert connect.ask(served, {"do": "status"})["digest"] == "d"


def test_a_line_without_end_is_cut_off(served: Path) -> None:
    with connect._connected(served, 5) as talk:
        talk.sendall(b"x" * connect.MAX_REQUEST)
        assert talk.recv(10) == b""


def test_a_silent_client_is_dropped(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.labs.keeper.CLIENT_TIME", 0.2)
    with connect._connected(served, 5) as talk:
        assert talk.recv(10) == b""


def test_a_socket_path_of_any_length(tmp_path: Path, served: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / connect.SOCKET).symlink_to(served / connect.SOCKET)
    assert connect.ask(deep, {"do": "status"})["digest"] == "d"


def test_no_keeper_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect.ask(tmp_path, {"do": "status"})


def host(tmp_path: Path, **spec: Any) -> Machine:
    return Machine(
        "rs1",
        {"memory": 1, "files": {}, **spec},
        tree=tmp_path,
        linux="/bin/false",
        home=tmp_path,
        log=tmp_path / "rs1.log",
        disk=1,
        cpu=0,
        watch=lambda fd, ready: None,
    )


def test_a_console_without_end_is_cut_in_time(tmp_path: Path) -> None:
    one = host(tmp_path)
    for number in range(40):
        one.say(f"{number:06}\n".encode() * 10_000)
    text = (tmp_path / "rs1.log").read_text()
    assert len(text) <= machine.LOG_SIZE + 70_000
    assert text.startswith("-- older lines are gone\n")
    assert text.endswith("000039\n")


@pytest.mark.parametrize(("code", "said"), [(9, "signal 9"), (3 << 8, "exit status 3")])
def test_how_a_kernel_ended(tmp_path: Path, code: int, said: str) -> None:
    one = host(tmp_path)
    one.pid = 2**22 + 1  # beyond any process number
    one.ended(5, code)
    assert one.status()["exit"] == ""
    one.ended(2**22 + 1, code)
    status = one.status()
    assert (status["exit"], status["pid"]) == (said, 0)
