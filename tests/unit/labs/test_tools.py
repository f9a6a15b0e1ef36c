from __future__ import annotations

import os
from pathlib import Path

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import tools

said: list[str] = []


def test_run_returns_both_streams_and_shows_each_line(tmp_path: Path) -> None:
    said.clear()
    log = tmp_path / "logs" / "x.log"
    output = tools.run(["sh", "-c", "echo a; echo b >&2"], timeout=10, line=said.append, log=log)
    assert output.split() == said == log.read_text().split() == ["a", "b"]


def test_run_puts_stdout_where_it_is_told(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        assert tools.run(["sh", "-c", "echo a; echo b >&2"], timeout=10, stdout=out) == "b"
    assert (tmp_path / "out").read_text() == "a\n"


def test_a_failure_has_the_last_lines_and_the_tip(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="status 3") as caught:
        tools.run(
            ["sh", "-c", "seq 100; exit 3"], timeout=10, tip="do this", log=tmp_path / "x.log"
        )
    assert "\n  100\n" in str(caught.value)
    assert "\n  5\n" not in str(caught.value)
    assert str(tmp_path / "x.log") in str(caught.value)
    assert caught.value.tip == "do this"


def test_run_is_bounded() -> None:
    with pytest.raises(LabError, match="took over 1 s"):
        tools.run(["sleep", "30"], timeout=1)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="no-such-program"):
        tools.run(["no-such-program"], timeout=10)


def test_an_ordinary_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs = {"sh": "dash", "no-such-program": "b-package", "/no/such/file": "a-package"}
    with pytest.raises(LabError, match="lacks a-package, b-package") as caught:
        tools.ensure(needs, said.append)
    assert caught.value.tip == "sudo apt-get install -y --no-install-recommends a-package b-package"


def test_nothing_is_installed_where_nothing_lacks() -> None:
    said.clear()
    tools.ensure({"sh": "dash", "/bin/sh": "dash"}, said.append)
    assert said == []


def test_an_installation_with_old_lists_is_tried_again_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new machine's apt has no lists, or knows packages that its mirror no longer has."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$1" >>{tmp_path}/calls\n'
        f'if [ "$1" = update ]; then : >{tmp_path}/lists; else [ -e {tmp_path}/lists ]; fi &&\n'
        f"if [ $1 = install ]; then : >{tmp_path}/needed; fi\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tools.ensure({str(tmp_path / "needed"): "a-package"}, said.append)
    assert (tmp_path / "calls").read_text().split() == ["install", "update", "install"]
