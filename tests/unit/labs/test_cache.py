from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import cache

said: list[str] = []


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    said.clear()
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(directory: Path) -> Mapping[str, str]:
    (directory / "a").write_text("whole")
    return {"version": "1"}


def leftovers(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob(".making-*"))


def test_root_is_lvsfab_below_the_xdg_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LVSFAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "lvsfab"


def test_root_is_closed_to_others(home: Path) -> None:
    assert cache.root() == home
    assert home.stat().st_mode & 0o777 == 0o700


def test_root_that_others_may_write_is_refused_and_left_alone(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(LabError, match="others may write"):
        cache.root()
    assert home.stat().st_mode & 0o777 == 0o777


def test_root_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LabError, match="cannot be used"):
        cache.root()


def test_key_depends_on_every_input_and_on_their_boundaries() -> None:
    keys = {
        cache.key("a", "b"),
        cache.key("b", "a"),
        cache.key("ab"),
        cache.key("ab", ""),
        cache.key("a", "b", ""),
    }
    assert len(keys) == 5
    assert cache.key("a", "b") in keys


def test_build_once(home: Path) -> None:
    key = cache.key("x")
    assert cache.find("image", key) is None
    made = cache.build("image", key, fill, said.append)
    assert (made / "a").read_text() == "whole"
    assert cache.facts(made) == {"version": "1"}
    assert cache.find("image", key) == made

    def never(_: Path) -> Mapping[str, str]:
        raise AssertionError("made twice")

    assert cache.build("image", key, never, said.append) == made
    assert leftovers(home) == []


def test_a_failing_build_leaves_nothing(home: Path) -> None:
    def fail(directory: Path) -> Mapping[str, str]:
        fill(directory)
        raise LabError("no network")

    with pytest.raises(LabError, match="no network"):
        cache.build("image", cache.key("x"), fail, said.append)
    assert cache.find("image", cache.key("x")) is None
    assert leftovers(home) == []


def test_an_entry_without_its_mark_is_none_and_is_replaced(home: Path) -> None:
    key = cache.key("x")
    half = home / f"image-{key}"
    half.mkdir(parents=True)
    (half / "b").write_text("half")
    assert cache.find("image", key) is None
    made = cache.build("image", key, fill, said.append)
    assert made == half
    assert not (made / "b").exists()


def _build_for_ever(home: str, ready: str) -> None:
    os.environ["LVSFAB_CACHE"] = home

    def slow(directory: Path) -> Mapping[str, str]:
        (directory / "a").write_text("half")
        (directory / "closed").mkdir(mode=0o500)
        Path(ready).write_text("")
        time.sleep(60)
        return {}

    cache.build("image", cache.key("x"), slow, lambda _: None)


@pytest.fixture
def builder(home: Path, tmp_path: Path) -> multiprocessing.process.BaseProcess:
    """Another process in the middle of building the same entry."""
    ready = tmp_path / "ready"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_build_for_ever, args=(str(home), str(ready)), daemon=True)
    process.start()
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline, "the builder did not begin"
        time.sleep(0.02)
    return process


def test_a_killed_builder_leaves_no_entry_and_the_next_one_sweeps(
    home: Path, builder: multiprocessing.process.BaseProcess
) -> None:
    key = cache.key("x")
    assert cache.find("image", key) is None
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join(10)
    assert cache.find("image", key) is None
    assert len(leftovers(home)) == 1
    made = cache.build("image", key, fill, said.append)
    assert (made / "a").read_text() == "whole"
    assert leftovers(home) == []


def test_a_second_builder_waits_bounded_and_says_for_whom(
    home: Path, builder: multiprocessing.process.BaseProcess
) -> None:
    try:
        with pytest.raises(LabError, match=f"process {builder.pid} has been making the image"):
            cache.build("image", cache.key("x"), fill, said.append, wait=0.5)
        assert said == [f"waiting for process {builder.pid} that is making the image"]
        other = cache.build("kernel", cache.key("x"), fill, said.append, wait=0.5)
        assert other.is_dir()  # another kind waits for nobody
    finally:
        builder.kill()
        builder.join(10)


def test_prune_keeps_the_present_entry_and_those_in_use(home: Path) -> None:
    old, used, new = (
        cache.build("image", cache.key(name), fill, said.append) for name in ("old", "used", "new")
    )
    other = cache.build("image-other", cache.key("old"), fill, said.append)
    with cache.use(used):
        assert cache.prune("image", cache.key("new")) == (old,)
        assert used.is_dir()
    assert cache.prune("image", cache.key("new")) == (used,)
    assert new.is_dir()
    assert other.is_dir()
    assert leftovers(home) == []


def test_use_of_an_entry_that_is_gone_is_said() -> None:
    made = cache.build("image", cache.key("x"), fill, said.append)
    cache.remove(made)
    with pytest.raises(LabError, match="not in the cache any more"), cache.use(made):
        pass


def test_remove_follows_no_link(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_text("")

    def link(directory: Path) -> Mapping[str, str]:
        (directory / "link").symlink_to(outside)
        return {}

    cache.remove(cache.build("image", cache.key("x"), link, said.append))
    assert (outside / "kept").exists()
    assert outside.stat().st_mode & 0o777 == 0o755
