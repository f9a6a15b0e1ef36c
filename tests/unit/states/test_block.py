"""Lines in somebody else's file."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from lvsfab.errors import InputError
from lvsfab.session import PRELUDE
from lvsfab.states import readers_script
from lvsfab.states.base import UnsupportedError, changes
from lvsfab.states.block import Block

CONTENT = "192.0.2.1 director\n192.0.2.2 rs1"


def do(script: str) -> str:
    text = f"{PRELUDE}\n{readers_script()}\n{script}"
    done = subprocess.run(
        ["/bin/sh", "-c", text], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


@pytest.mark.parametrize("before", ["127.0.0.1 localhost\n", "no newline at its end", "", "\n\n"])
def test_a_file_is_to_the_byte_what_it_was(tmp_path: Path, before: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(before)
    path.chmod(0o640)
    want = Block(path=str(path), name="lab", content=CONTENT)
    absent = Block.parse(want.key, do(f"read_block '{want.key}'"))
    assert changes(want, absent)
    (put,) = Block.commands(want.key, absent, want)
    do(put.script())
    assert path.read_text() == f"# lvsfab begin lab\n{CONTENT}\n# lvsfab end lab\n{before}"
    now = Block.parse(want.key, do(f"read_block '{want.key}'"))
    assert changes(want, now) == ()
    other = Block(path=str(path), name="lab", content="192.0.2.9 x")
    (put,) = Block.commands(want.key, now, other)
    do(put.script())
    (undo,) = Block.commands(want.key, now, absent)
    do(undo.script())
    assert path.read_text() == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_there_goes_again(tmp_path: Path) -> None:
    want = Block(path=str(tmp_path / "hosts"), name="lab", content=CONTENT)
    absent = Block.parse(want.key, do(f"read_block '{want.key}'"))
    assert absent is not None
    assert absent.made
    for command in Block.commands(want.key, absent, want):
        do(command.script())
    assert (tmp_path / "hosts").stat().st_mode & 0o777 == 0o644
    for command in Block.commands(want.key, want, absent):
        do(command.script())
    assert list(tmp_path.iterdir()) == []


CUT = """{0}() {{ case $* in *.lvsfab.*) kill -9 $$; sh -c 'kill -9 $PPID' ;; esac
  command {0} "$@"; }}\n"""


@pytest.mark.parametrize("before", [None, "127.0.0.1 localhost\n"])
@pytest.mark.parametrize("tool", ["chmod", "sync", "mv"])
def test_what_a_run_that_was_cut_off_left_goes(
    tmp_path: Path, tool: str, before: str | None
) -> None:
    """At whatever command its shell ends: what comes next sees it, and clears it away."""
    path = tmp_path / "hosts"
    if before is not None:
        path.write_text(before)
    want = Block(path=str(path), name="lab", content=CONTENT)
    was = Block.parse(want.key, do(f"read_block '{want.key}'"))
    (put,) = Block.commands(want.key, was, want)
    for again in (False, True):  # down at once, or up and down
        with pytest.raises(subprocess.CalledProcessError):
            do(CUT.format(tool) + f"put() {{ {put.script()}; }}\nput")
        left = Block.parse(want.key, do(f"read_block '{want.key}'"))
        assert left is not None
        assert (left.made, len(left.strays)) == (before is None, 1)
        if again:
            assert changes(want, left)
            do(put.script())
            left = Block.parse(want.key, do(f"read_block '{want.key}'"))
            assert changes(want, left) == ()
        assert [c.field for c in changes(was, left)] == ["content" if again else "left over"]
        for command in Block.commands(want.key, left, was):
            do(command.script())
        assert Block.parse(want.key, do(f"read_block '{want.key}'")) == was
        assert list(tmp_path.iterdir()) == ([path] if before is not None else [])


def test_block_input() -> None:
    for path, name, content in (
        ("hosts", "lab", "x"),
        ("/etc/../x", "lab", "x"),
        ("/etc/hosts", "a b", "x"),
        ("/etc/hosts", "lab", "x\n# lvsfab end lab"),
        ("/etc/hosts", "lab", "é"),
    ):
        with pytest.raises(InputError):
            Block(path=path, name=name, content=content)
    text = base64.b64encode(b"\xff").decode()
    for output in ("other", f"text {text}"):
        with pytest.raises(UnsupportedError):
            Block.parse("/etc/hosts#lab", output)
