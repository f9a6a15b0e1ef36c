"""Files to and from a host, for real: a shell of this machine is the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from lvsfab import copy
from lvsfab.copy import Local, Wanted
from lvsfab.errors import CommandError, HostError, InputError
from lvsfab.session import Record, Shell
from tests.unit.local import LocalChannel


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed here")
    argv = ["busybox", "ash", "-s"] if request.param == "busybox" else [request.param, "-s"]
    found = Shell("here", LocalChannel(argv), copy.PRELUDE)
    yield found
    found.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(300_000) + b"\nexit 9\n")
    path.chmod(0o640)
    return path


def test_a_file_arrives_whole_and_again_is_skipped(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    to = tmp_path / "there" / "it's here"
    to.parent.mkdir()
    first = copy.put(shell, Local(source), Wanted(str(to)))
    assert (first.changes, to.read_bytes()) == (1, source.read_bytes())
    assert to.stat().st_mode & 0o7777 == 0o640
    again = copy.put(shell, Local(source), Wanted(str(to)))
    assert (again.changes, again.output) == (0, "equal")
    assert [p.name for p in to.parent.iterdir()] == ["it's here"]


def test_mode_alone_is_changed_without_sending(shell: Shell, source: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    copy.put(shell, Local(source), Wanted(str(to)))
    done = copy.put(shell, Local(source), Wanted(str(to), mode="0600"))
    assert done.output.startswith("mode: changed")
    assert to.stat().st_mode & 0o7777 == 0o600
    copy.put(shell, Local(source), Wanted(str(to)))
    assert to.stat().st_mode & 0o7777 == 0o600  # not said: kept


def test_a_dry_run_changes_nothing(shell: Shell, source: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    done = copy.put(shell, Local(source), Wanted(str(to)), dry=True)
    assert done.changes == 1
    assert not to.exists()


def test_an_empty_file_is_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    copy.put(shell, Local(tmp_path / "empty"), Wanted(str(tmp_path / "to")))
    assert (tmp_path / "to").read_bytes() == b""
    copy.get(shell, str(tmp_path / "to"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_what_does_not_fit_is_told_and_none_of_it_is_run(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    """The rest of the file stands on the shell's standard input: it must not be a script."""
    mark = tmp_path / "mark"
    source.write_bytes(f": >{mark}\n".encode() * 200_000)
    with pytest.raises(CommandError, match=r"did not take the file|no room"):
        shell.run(f"ulimit -f 8; trap '' XFSZ; c_dir={tmp_path}", timeout=5)
        copy.put(shell, Local(source), Wanted(str(tmp_path / "to")))
    shell.close()
    assert not mark.exists()
    assert not (tmp_path / "to").exists()
    assert not list(tmp_path.glob(".lvsfab.*"))


def test_no_directory_no_file(shell: Shell, source: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none/to"):
        copy.put(shell, Local(source), Wanted(str(tmp_path / "none/to")))
    with pytest.raises(CommandError, match="no regular file"):
        copy.put(shell, Local(source), Wanted(str(tmp_path)))


def test_a_file_comes_back(
    shell: Shell, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvsfab.copy.CHUNK", 70_000)
    to = tmp_path / "got" / "here" / "it"
    assert copy.get(shell, str(source), to).changes == 1
    assert to.read_bytes() == source.read_bytes()
    assert to.stat().st_mode & 0o7777 == 0o640
    assert copy.get(shell, str(source), to).changes == 0
    with pytest.raises(CommandError, match="no such file"):
        copy.get(shell, str(tmp_path / "none"), to)


@pytest.mark.parametrize(
    "fields",
    [
        ("relative",),
        ("/dir/",),
        ("/a\nb",),
        ("/a", "9999"),
        ("/a", "", "a b"),
        ("/a", "", "", "$(x)"),
    ],
)
def test_what_is_no_place_for_a_file_is_refused(fields: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        Wanted(*fields)


def test_a_file_of_ours_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Local(tmp_path / "none")


def test_a_file_that_grows_sends_what_it_was_and_no_script(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    """What the host was not told of would be read by its shell."""
    before, mark = source.read_bytes(), tmp_path / "mark"
    local = Local(source)
    with source.open("ab") as file:
        file.write(f": >{mark}\n".encode())
    copy.put(shell, local, Wanted(str(tmp_path / "to")))
    shell.run("rec still true", timeout=5)  # the next script is read as one
    shell.close()
    assert (tmp_path / "to").read_bytes() == before
    assert not mark.exists()


def test_a_file_that_shrinks_is_told_and_the_shell_is_closed(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    local = Local(source)
    source.write_bytes(b"short")
    with pytest.raises(HostError, match="became shorter while it was sent"):
        copy.put(shell, local, Wanted(str(tmp_path / "to")))
    assert not (tmp_path / "to").exists()
    assert not list(tmp_path.glob(".lvsfab.*"))
    with pytest.raises(HostError):
        shell.run("rec still true", timeout=5)


def test_what_has_no_size_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bytes were read of a file of 0"):
        Local(Path("/proc/version"))
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="is no regular file"):
            Local(path)


class Liar:
    """A host that answers a copy as it likes."""

    host = "liar"

    def __init__(self, state: str, part: str = "") -> None:
        self.said = {"state": state, "part": part}

    def run(self, script: str, **_: object) -> list[Record]:
        word = "part" if "c_part" in script else "state"
        return [Record(word, 0, self.said[word])]


SUM = "0" * 64


@pytest.mark.parametrize(
    ("state", "part", "told"),
    [
        ("", "", "cannot be read"),
        ("644 root\n", "", "cannot be read"),
        ("999 a b 1\n" + SUM + "\n", "", "cannot be read"),
        (f"644 a b {'9' * 5000}\n{SUM}\n", "", "cannot be read"),
        (f"644 a b {'9' * 18}\n{SUM}\n", "", "changed while it was read"),
        (f"644 a b 9\n{SUM}\n", "x", "cannot be read"),
        (f"644 a b 1\n{SUM}\n", "eHh4eHg=", "changed while it was read"),
    ],
)
def test_what_a_host_says_of_a_file_may_be_anything(
    state: str, part: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=told):
        copy.get(cast("Shell", Liar(state, part)), "/x", tmp_path / "x")
    assert not list(tmp_path.iterdir())
