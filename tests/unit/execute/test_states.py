"""`lvsfab state`: words of a command line as one line of a recipe, for every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lvsfab.errors import InputError
from lvsfab.execute.states import arguments, compile_state
from lvsfab.model import Host, Inventory
from tests.unit.states.test_registry import LINES

HOSTS = (Host("a", frozenset({"real_server"})), Host("b", frozenset({"real_server"})))
INVENTORY = Inventory("t", {host.name: host for host in HOSTS})


@pytest.mark.parametrize("kind", sorted(LINES))
def test_each_kind_can_be_a_state_of_its_own(kind: str) -> None:
    compiled = compile_state(INVENTORY, HOSTS, kind, LINES[kind])
    assert set(compiled.hosts) == {"a", "b"}
    assert compiled.resources("a")
    assert [r.id for r in compiled.resources("a")] == [r.id for r in compiled.resources("b")]


def test_words_are_fields(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("two\nlines\n")
    assert arguments("sysctl", ["net.ipv4.ip_forward=1"]) == {
        "name": "net.ipv4.ip_forward", "value": "1",
    }  # fmt: skip
    assert arguments("package", ["ipvsadm"]) == {"name": "ipvsadm"}
    assert arguments("file", ["path=/srv/a", f"content=@{page}"]) == {
        "path": "/srv/a", "content": "two\nlines\n",
    }  # fmt: skip
    assert arguments("file", ["/srv/a", "absent=yes"]) == {"path": "/srv/a", "absent": True}
    assert arguments("virtual_service", ['flags=["sh-port"]']) == {"flags": ["sh-port"]}
    assert arguments("package", ["httpd", 'names={"apt": "apache2"}']) == {
        "name": "httpd", "names": {"apt": "apache2"},
    }  # fmt: skip
    assert arguments("forwarding", ['devices=["e0"]']) == {"devices": ["e0"]}


@pytest.mark.parametrize("text", ["[Unit]\nAfter=x", '{"a": 1}', "[1, 2]", "a=b", ""])
def test_text_is_never_taken_for_json(text: str) -> None:
    assert arguments("file", ["/srv/a", f"content={text}"])["content"] == text


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"one\r\ntwo\r")
    assert arguments("file", ["/a", f"content=@{there}"])["content"] == "one\r\ntwo\r"
    assert arguments("file", ["/a", "content=@@there"])["content"] == "@there"
    assert arguments("file", ["/a", "content=@@@there"])["content"] == "@@there"
    there.write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="is no text"):
        arguments("file", ["/a", f"content=@{there}"])


def as_words(kind: str) -> list[str]:
    """A line as a person types it."""
    return [
        f"{name}={json.dumps(value) if isinstance(value, list | dict | bool) else value}"
        for name, value in LINES[kind].items()
    ]


@pytest.mark.parametrize("kind", sorted(LINES))
def test_each_kind_can_be_said_in_words(kind: str) -> None:
    said = compile_state(INVENTORY, HOSTS, kind, arguments(kind, as_words(kind)))
    assert said.resources("a") == compile_state(INVENTORY, HOSTS, kind, LINES[kind]).resources("a")


@pytest.mark.parametrize(
    ("kind", "words", "why"),
    [
        ("sysctll", ["a=1"], "no resource kind `sysctll`"),
        ("file", ["/a", "/b"], "`/b` is not NAME=VALUE"),
        ("file", ["/a", "absent=perhaps"], "true or false"),
        ("file", ["/a", "content=@/nowhere/at/all"], "cannot be read"),
        ("virtual_service", ["flags=[1"], "not JSON"),
        ("virtual_service", ["flags=sh-port"], "not JSON"),
        ("sysctl", ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=2"], "was given before"),
        ("sysctl", ["net.ipv4.ip_forward=1", "value=2"], "value was given before"),
        ("file", ["/a", "content=1", "content=2"], "`content=2`: content was given before"),
        ("file", ["/a", "path=/b"], "path was given before"),
    ],
)
def test_what_is_no_state_is_refused(kind: str, words: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        arguments(kind, words)
