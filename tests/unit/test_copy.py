"""Files to and from a host, for real: a shell of this machine is the host."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lvsfab import copy
from lvsfab.copy import Local, Wanted
from lvsfab.errors import CommandError, HostError, InputError
from lvsfab.execute.limits import MOST, size_of
from lvsfab.session import Record, Shell
from tests.unit.local import SHELLS, LocalChannel, shell_argv


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    found = Shell("here", LocalChannel(shell_argv(request.param)), copy.PRELUDE)
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
    with pytest.raises(CommandError, match="is a directory") as error:
        copy.put(shell, Local(source), Wanted(str(tmp_path)))
    assert error.value.tip == f"give the file's whole path: {tmp_path}/source"
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(CommandError, match="is a directory"):
        copy.put(shell, Local(source), Wanted(str(tmp_path / "link")))
    with pytest.raises(CommandError, match="is a directory") as error:
        copy.get(shell, str(tmp_path), tmp_path / "got")
    assert "tar czf" in error.value.tip
    with pytest.raises(CommandError, match="no regular file"):
        copy.get(shell, "/dev/null", tmp_path / "got")


def test_a_link_at_the_place_is_replaced_and_what_it_names_left_alone(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    """Who may write in the directory could have let it name any file."""
    named, to = tmp_path / "named", tmp_path / "to"
    named.write_bytes(source.read_bytes())
    to.symlink_to(named)
    done = copy.put(shell, Local(source), Wanted(str(to)))
    assert (done.changes, done.output) == (1, "content: instead of a link, 300008 bytes")
    assert not to.is_symlink()
    assert named.stat().st_ino != to.stat().st_ino
    assert named.read_bytes() == to.read_bytes() == source.read_bytes()
    assert copy.put(shell, Local(source), Wanted(str(to))).output == "equal"
    to.unlink()
    to.symlink_to("nowhere")
    copy.put(shell, Local(source), Wanted(str(to)))
    assert not to.is_symlink()


def test_an_owner_is_given_and_found_again_by_name_or_number(
    shell: Shell, source: Path, tmp_path: Path
) -> None:
    """Whoever runs this: chown is made to tell what it is asked, and on what."""
    to, log = tmp_path / "to", tmp_path / "log"
    shell.run(f'chown() {{ echo "$1 $([ -s "$2" ] && echo whole)" >>{log}; }}', timeout=5)
    copy.put(shell, Local(source), Wanted(str(to), owner="games", group="60"))
    assert log.read_text() == "games:60 whole\n"  # before it is moved there
    status = to.stat()
    user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    for pair in ((user, group), (str(status.st_uid), str(status.st_gid))):
        done = copy.put(shell, Local(source), Wanted(str(to), "", *pair))
        assert done.output == "equal"
    done = copy.put(shell, Local(source), Wanted(str(to), owner="games"))
    assert done.output.startswith("owner: changed")
    assert log.read_text().splitlines()[1:] == [f"games:{status.st_gid} whole"]


def test_files_made_up_by_the_kernel_come_whole(shell: Shell, tmp_path: Path) -> None:
    to = tmp_path / "to"
    done = copy.get(shell, "/proc/version", to)
    assert to.read_bytes() == Path("/proc/version").read_bytes()
    assert done.output == f"{to.stat().st_size} bytes -> {to}"
    assert copy.get(shell, "/proc/version", to).output == "equal"
    assert copy.get(shell, "/proc/uptime", to).changes == 1  # another with each reading
    copy.get(shell, "/sys/kernel/mm/transparent_hugepage/enabled", to)
    assert to.read_text().endswith("\n")


def test_a_file_here_that_cannot_be_read_is_its_hosts_trouble_alone(
    shell: Shell, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root can read any: so the file here is made to say no."""
    to = tmp_path / "to"
    copy.get(shell, str(source), to)

    def refused(_: Path) -> None:
        raise InputError("cannot be read: Permission denied", path=to)

    monkeypatch.setattr("lvsfab.copy.Local", refused)
    with pytest.raises(HostError, match="is here already, and cannot be read"):
        copy.get(shell, str(source), to)


def test_the_time_for_a_file_is_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of 100 GB takes more than two minutes."""
    given: dict[str, float] = {}

    def run(script: str, *, timeout: float, what: str) -> list[Record]:
        del what
        given[script.split()[2]] = timeout
        said = f"{STAT} {10**11}\n" if "c_sta" in script else SUM + "\n"
        return [Record("x", 0, said)]

    shell = cast("Shell", SimpleNamespace(host="h", run=run))
    copy.get(shell, "/x", Path("/nowhere"), dry=True, most=10**12)
    assert given["c_stat"] == copy.TIMEOUT
    assert given["c_sum"] > 1_000_000
    local = SimpleNamespace(size=10**11, sum=SUM, mode="644", path=Path("x"))
    monkeypatch.setattr("lvsfab.copy._send", lambda *_: None)
    copy.put(shell, cast("Local", local), Wanted("/x"))
    assert given["c_state"] > 1_000_000
    assert given["c_end"] > 1_000_000


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
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InputError, match="is no regular file"):
            Local(path)
    with pytest.raises(InputError, match="is a directory") as error:
        Local(tmp_path)
    assert "tar czf" in error.value.tip


class Liar:
    """A host that answers a copy as it likes: what a file is, its sum, a part of it."""

    host = "liar"

    def __init__(self, *said: str) -> None:
        self.said = dict(zip(("c_stat", "c_sum", "c_part", "c_whole"), said, strict=True))

    def run(self, script: str, timeout: float, **_: object) -> list[Record]:
        assert timeout <= threading.TIMEOUT_MAX
        (word,) = [word for word in self.said if f" {word}" in script]
        return [Record(word, 0, self.said[word])]


SUM = "0" * 64
STAT = "644 root 0 root 0"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("", "", "", ""), "what it is cannot be read"),
        (("644 root\n", "", "", ""), "what it is cannot be read"),
        (("999 root 0 root 0 1\n", SUM, "", ""), "what it is cannot be read"),
        ((f"{STAT} {'9' * 5000}\n", SUM, "", ""), "what it is cannot be read"),
        ((f"{STAT} {'9' * 18}\n", f"{SUM}\n", "", ""), "at most 1073741824 are taken"),
        ((f"{STAT} {MOST}\n", f"{SUM}\n", "", ""), "changed while it was read"),
        ((f"{STAT} 9\n", "x\n", "", ""), "its sum cannot be read"),
        ((f"{STAT} 9\n", f"{SUM}\n", "x", ""), "cannot be read"),
        ((f"{STAT} 1\n", f"{SUM}\n", "eHh4eHg=", ""), "changed while it was read"),
        ((f"{STAT} 1\n", f"{SUM}\n", "eA==", ""), "changed while it was read"),
        ((f"{STAT} 0\n", "", "", "x"), "cannot be read"),
    ],
)
def test_what_a_host_says_of_a_file_may_be_anything(
    said: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=told):
        copy.get(cast("Shell", Liar(*said)), "/x", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def endless(size: int) -> Liar:
    """A host that says that a file has so many bytes, and never ends to give them."""
    part = base64.b64encode(bytes(copy.CHUNK)).decode()
    return Liar(f"{STAT} {size}\n", f"{SUM}\n", part, part)


def test_a_host_fills_no_disk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it announces is refused before, and more than that is not taken."""
    monkeypatch.setattr("lvsfab.copy.CHUNK", 1000)
    to, most = tmp_path / "to", 10_000
    for size in (10**15, most + 1):
        with pytest.raises(CommandError, match=f"{size} bytes, and at most 10000 are") as raised:
            copy.get(cast("Shell", endless(size)), "/x", to, most=most)
        assert raised.value.tip == "lvsfab get --max SIZE"
    for size in (most, 1500):  # parts that are whole, and then one that is not; the sum is another
        with pytest.raises(CommandError, match="changed while it was read"):
            copy.get(cast("Shell", endless(size)), "/x", to, most=most)
    whole = Liar(f"{STAT} 0\n", "", "", base64.b64encode(bytes(most + 1)).decode())
    with pytest.raises(CommandError, match="10001 bytes, and at most"):
        copy.get(cast("Shell", whole), "/proc/x", to, most=most)
    assert not list(tmp_path.iterdir())


def test_a_size_is_given_in_words() -> None:
    sizes = {"0": 0, "1500": 1500, "2k": 2048, "500M": 500 << 20, "1G": MOST, "3T": 3 << 40}
    assert {text: size_of(text, "--max") for text in sizes} == sizes
    for text in ("", "-1", "1.5G", "G", "1GB", "9" * 16, "nan"):
        with pytest.raises(InputError, match="is no size") as raised:
            size_of(text, "--max")
        assert raised.value.key == "--max"
