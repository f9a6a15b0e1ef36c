"""The history: one line a run, its user's alone, secrets masked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lvsfab import audit
from lvsfab.audit import Run
from lvsfab.cli import main
from lvsfab.errors import LvsfabError
from lvsfab.report import history_lines

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


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    audit.append(tmp_path, RUN)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"at": "2026')
    assert audit.read(tmp_path) == [RUN]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["up", "tun", "--set", "auth_pass=hunter2"], ["up", "tun", "--set", "auth_pass=***"]),
        (["run", "*", "--", "x", "--password", "hunter2"], None),
        (["run", "*", "--", "x", "--token=hunter2"], None),
        (["run", "*", "--", "env", "API_KEY=hunter2", "x"], None),
        (["up", "--set", "vip=10.0.0.1"], ["up", "--set", "vip=10.0.0.1"]),
    ],
)
def test_secrets_are_masked(words: list[str], shown: list[str] | None) -> None:
    found = audit.masked(words)
    assert "hunter2" not in " ".join(found)
    assert len(found) == len(words)
    assert shown is None or found == shown


def test_the_last_up_is_what_a_resume_goes_on_with(tmp_path: Path) -> None:
    assert audit.last_up(tmp_path, "lab") is None
    audit.append(tmp_path, RUN)
    other = Run(at="x", seconds=0, who="x", command="up", asked=[], inventory="b", recipe="dr")
    audit.append(tmp_path, other)
    assert audit.last_up(tmp_path, "lab") == RUN
    audit.append(tmp_path, Run(at="x", seconds=0, who="x", command="down", asked=[],
                               inventory="lab"))  # fmt: skip
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
