from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import runtime


def test_start_time_of_a_process_with_an_odd_name() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    assert runtime.start_ticks(f"7 (a) S b (c) R {fields}") == 22


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["a", 1, "b"]', "[1, 2", "null"])
def test_a_record_that_is_none(text: str) -> None:
    assert runtime.parse_identity(text) is None


def test_a_record_is_read_back() -> None:
    who = runtime.Identity(7, 22, "boot")
    assert runtime.parse_identity(who.text()) == who


def test_end_spares_a_process_that_is_not_the_one(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        who = runtime.identity(process.pid)
        assert who is not None
        for other in (replace(who, start=who.start + 1), replace(who, boot="another")):
            assert runtime.end(other, signal.SIGKILL, 1.0)
            (tmp_path / "keeper").write_text(other.text())
            assert runtime.recorded_keeper(tmp_path) is None
        assert process.poll() is None
        (tmp_path / "keeper").write_text(who.text())
        assert runtime.recorded_keeper(tmp_path) == who
        assert runtime.end(who, signal.SIGTERM, 5.0)
    assert runtime.identity(process.pid) is None


def test_a_directory_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(LabError, match="alone"):
        runtime.secure(tmp_path / "open")
    (tmp_path / "link").symlink_to(runtime.secure(tmp_path / "mine"))
    with pytest.raises(LabError, match="alone"):
        runtime.secure(tmp_path / "link")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


def test_the_runtime_directory_is_xdg_s_where_that_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime.base_directory() == tmp_path / "lvsfab"
    tmp_path.chmod(0o755)
    assert runtime.base_directory() != tmp_path / "lvsfab"


def test_the_lock_excludes_and_survives_a_directory_taken_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    lab = tmp_path / "lab"
    order = []

    def second() -> None:
        with runtime.locked(lab) as fd:
            order.append("second")
            assert os.fstat(fd).st_ino == lab.stat().st_ino

    with runtime.locked(lab):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
        runtime.clean(lab, itself=True)
        assert not lab.exists()
    waiting.join(10)
    assert order == ["first", "second"]
    assert lab.is_dir()


def test_a_shared_lock_excludes_those_that_do_not_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    lab = tmp_path / "lab"
    monkeypatch.setattr(runtime, "LOCK_WAIT", 0.1)
    with runtime.locked(lab, shared=True):
        with runtime.locked(lab, shared=True):
            pass
        with pytest.raises(LabError, match="busy with the lab"), runtime.locked(lab):
            pass
    with runtime.locked(lab), pytest.raises(LabError), runtime.locked(lab, shared=True):
        pass


def test_clean_takes_all_but_follows_no_link(tmp_path: Path) -> None:
    lab, other = tmp_path / "base/lab", tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    (lab / "console").mkdir(parents=True)
    (lab / "console/x.log").touch()
    (lab / "link").symlink_to(other)
    runtime.clean(lab, itself=True)
    assert not lab.parent.exists()
    assert (other / "file").exists()
