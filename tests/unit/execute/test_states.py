"""`lvsfab state`: words of a command line as one line of a recipe, for every kind."""

from __future__ import annotations

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
    assert arguments("nft", ['rules=["a", "b"]']) == {"rules": ["a", "b"]}


@pytest.mark.parametrize(
    ("kind", "words", "why"),
    [
        ("sysctll", ["a=1"], "no resource kind `sysctll`"),
        ("file", ["/a", "/b"], "`/b` is not NAME=VALUE"),
        ("file", ["/a", "absent=perhaps"], "true or false"),
        ("file", ["/a", "content=@/nowhere/at/all"], "cannot be read"),
        ("nft", ["rules=[1"], "not JSON"),
    ],
)
def test_what_is_no_state_is_refused(kind: str, words: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        arguments(kind, words)
