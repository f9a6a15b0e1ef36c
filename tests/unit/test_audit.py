"""The history: one line a run, its user's alone, secrets masked."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from lvsfab import audit
from lvsfab.audit import Run
from lvsfab.cli import main
from lvsfab.errors import LvsfabError, UnreachableError
from lvsfab.report import history_lines
from lvsfab.transports.endpoint import Endpoint
from tests.unit.local import LocalChannel

RUN = Run(at="2026-01-02T03:04:05Z", seconds=1.5, who="anna@desk process 7", command="up",
          asked=["up", "tun"], inventory="lab", recipe="tun")  # fmt: skip


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    assert audit.read(tmp_path / "new") == []
    for _ in range(3):
        audit.append(tmp_path / "new", RUN)
    assert audit.read(tmp_path / "new") == [RUN] * 3


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        audit.append(tmp_path / "new", RUN)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    file = tmp_path / "new/history.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    audit.append(tmp_path / "new", RUN)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("")
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(LvsfabError, match="cannot be recorded"):
        audit.append(tmp_path, RUN)
    assert (tmp_path / "victim").read_text() == ""


@pytest.mark.parametrize("line", [b'{"at": "2026', b'{"at": ' + b"[" * 100_000])
def test_a_half_written_line_is_passed_over(tmp_path: Path, line: bytes) -> None:
    audit.append(tmp_path, RUN)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(line)
    assert audit.read(tmp_path) == [RUN]


def test_a_line_that_was_cut_swallows_no_other(tmp_path: Path) -> None:
    audit.append(tmp_path, RUN)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"at": "2026')
    audit.append(tmp_path, RUN)
    assert audit.read(tmp_path) == [RUN, RUN]


def test_a_disk_that_fills_up_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit.append(tmp_path, RUN)
    before = (tmp_path / "history.jsonl").read_bytes()
    write, room = os.write, [10]

    def short(handle: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(handle, data[: room.pop()])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(LvsfabError, match="No space left"):
        audit.append(tmp_path, RUN)
    assert (tmp_path / "history.jsonl").read_bytes() == before
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    audit.append(tmp_path, RUN)
    assert audit.read(tmp_path) == [RUN, RUN]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("up tun --set vip=10.0.0.1", "up tun --set vip=10.0.0.1"),
        ("up tun -n 5 --persist -vv", "up tun --requests 5 --persist --verbose"),
        ("up tun --set auth_pass=hunter2", "up tun --set auth_pass=***"),
        ("up tun --set=vrrp_password=hunter2", "up tun --set vrrp_password=***"),
        ("run a --env=DB_PASSWORD=hunter2 -- id", "run a --env DB_PASSWORD=*** -- id"),
        ("run a --env X=hunter2 -- id", "run a --env X=*** -- id"),
        ("run a --sudo -- mysql -phunter2 -e x", "run a --sudo -- mysql ..."),
        ("run a -- X=hunter2", "run a -- ***"),
        ("run a -- env X=hunter2 ./x", "run a -- env ..."),
        ("run a -- -phunter2", "run a -- ***"),
        ("run a --shell 'echo hunter2 | passwd --stdin root'", "run a --shell 'echo ...'"),
        ("run a --shell='X=hunter2; id'", "run a --shell '*** ...'"),
        ("run a --shell '$(hunter2)'", "run a --shell ***"),
        ("run a --via dask://me:hunter2@s:1 -- id", "run a --via dask://***@s:1 -- id"),
        (f"run a --script {__file__} -- hunter2 x", f"run a --script {__file__} -- ..."),
        ("state a file /x 'content=password hunter2'", "state a file /x content=***"),
        ("state a file /x data=hunter2 mode=0600", "state a file /x data=*** mode=0600"),
        ("state a file /x content=@@hunter2", "state a file /x content=***"),
        ("state a file /x content=@hunter", "state a file /x content=@hunter"),
        (
            "state a repository x url=https://u:hunter2@h/",
            "state a repository x url=https://***@h/",
        ),
        (f"put a {__file__} /etc/x --mode 600", f"put a {__file__} /etc/x --mode 600"),
        ("capture a -o d", "capture a --output d"),
        ("lab reboot a", "lab reboot a"),
    ],
)
def test_secrets_and_what_is_run_are_not_recorded(
    words: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, but for the hosts: none of these is one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    argv, at = shlex.split(words), 2 if words.startswith("lab") else 1
    with pytest.raises(SystemExit):
        main([*argv[:at], "-i", "no-such", *argv[at:]])
    (run,) = audit.read(tmp_path / "lvsfab")
    found = shlex.join(run.asked).replace(" --inventory no-such", "")
    assert shlex.split(found) == shlex.split(shown)
    assert "hunter2" not in (tmp_path / "lvsfab/history.jsonl").read_text()


def test_a_run_is_one_that_began_until_it_ended(tmp_path: Path) -> None:
    """Whoever else is at work: a run is when it began, by whom, and what it is."""
    began = replace(RUN, seconds=0.0, ended=False, exit=-1)
    other = replace(began, who="anna@desk process 8")
    audit.append(tmp_path, began)
    audit.append(tmp_path, other)
    assert audit.read(tmp_path) == [began, other]
    text = "\n".join(history_lines([began], as_json=False))
    assert "not ended" in text
    assert "exit" not in text
    audit.append(tmp_path, RUN)
    assert audit.read(tmp_path) == [other, RUN]
    audit.append(tmp_path, began)
    assert audit.read(tmp_path) == [other, RUN, began]


def test_what_cannot_be_recorded_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lvsfab").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["put", "-H", "a", "*", __file__, "relative"])
    assert capsys.readouterr().err.count("cannot be recorded") == 1


@pytest.mark.parametrize("ended", ["down", "lab down"])
def test_the_last_up_is_what_a_resume_goes_on_with(tmp_path: Path, ended: str) -> None:
    assert audit.last_up(tmp_path, "lab") is None
    audit.append(tmp_path, RUN)
    other = Run(at="x", seconds=0, who="x", command="up", asked=[], inventory="b", recipe="dr")
    audit.append(tmp_path, other)
    for command in ("up", "lab up", "run"):  # no recipe: it came to no host
        audit.append(tmp_path, replace(RUN, command=command, recipe=""))
    assert audit.last_up(tmp_path, "lab") == RUN
    audit.append(tmp_path, replace(RUN, command=ended, recipe=""))
    assert audit.last_up(tmp_path, "lab") is None


def test_a_run_that_fails_is_recorded_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["up", "no-such-recipe", "--set", "password=hunter2"])
    assert ended.value.code == 64
    (run,) = audit.read(tmp_path / "lvsfab")
    assert (run.command, run.exit, run.inventory) == ("up", 64, "lab")
    assert "hunter2" not in (tmp_path / "lvsfab/history.jsonl").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["history"])
    assert ended.value.code == 0
    assert "exit 64" in capsys.readouterr().out


def test_what_only_looks_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["hosts"])
    assert not (tmp_path / "lvsfab").exists()


def test_lines_for_people_hold_no_control_characters() -> None:
    evil = Run(at="x", seconds=0, who="a\x1b[2J", command="run", asked=["\r\n\x07"],
               failed={"h\x9b": "y"})  # fmt: skip
    text = "".join(history_lines([evil], as_json=False))
    assert all(c.isprintable() for c in text.replace("\n", ""))


def test_how_it_went_on_each_host_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(endpoint: Endpoint) -> LocalChannel:
        if endpoint.name == "b":
            raise UnreachableError("b", "no route")
        return LocalChannel(["sh", "-s"])

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("lvsfab.transports.ssh.connect", connect)
    listed = ["-H", "a,b,c,d", "--max-fail", "2", "--parallel", "1"]
    (tmp_path / "there").touch()
    with pytest.raises(SystemExit):
        main(
            [
                "run",
                *listed,
                "*",
                "--shell",
                "exit $(($(ls | grep -c there) > 0))",
                "--cwd",
                str(tmp_path),
            ]
        )
    with pytest.raises(SystemExit):
        main(["put", "-H", "a,b", "*", __file__, str(tmp_path / "there")])
    with pytest.raises(SystemExit):
        main(["put", "-H", "a", "*", __file__, str(tmp_path / "there"), "--dry-run"])
    ran, put = audit.read(tmp_path / "lvsfab")
    assert (ran.done, ran.not_reached) == ([], ["c", "d"])
    assert ran.failed == {"a": "exit status 1", "b": "no route"}
    assert (put.done, put.failed) == (["a"], {"b": "no route"})
