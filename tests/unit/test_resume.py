"""up --resume: the hosts that failed, were not reached or were brought back, and the director that
sends to them; all where a run was killed or ended before it could say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lvsfab import audit, document, inventory, recipe
from lvsfab.app import App
from lvsfab.audit import Run
from lvsfab.cli import main
from lvsfab.errors import ConflictError, LockedError, LvsfabError, UnreachableError
from lvsfab.recipe import Compiled
from tests.unit.test_hostile import INVENTORY


def test_only_what_is_left_and_the_director_take_part() -> None:
    tree = json.loads(json.dumps(INVENTORY))
    tree["hosts"]["r2"] = {
        "roles": ["real_server"],
        "interfaces": {"e0": {"network": "n", "addresses": ["10.0.0.3/24"]}},
    }
    found = inventory.read(document.parse(json.dumps(tree).encode(), Path("good.yml")))
    app = App(found, lambda _: None)
    compiled = recipe.compile_recipe(recipe.load(recipe.find("dr")), found, {})
    assert compiled.hosts == ("d", "r", "r2")
    part = app.narrowed(compiled, ["r2"])
    assert part.hosts == ("d", "r2")
    assert part.cluster == compiled.cluster  # the director's table stays whole


def run(tmp_path: Path, **fields: object) -> None:
    base = {"at": "x", "seconds": 0.0, "who": "me", "command": "up", "asked": ["up", "tun"],
            "inventory": "lab", "recipe": "tun"}  # fmt: skip
    audit.append(tmp_path / "lvsfab", Run(**{**base, **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "left"),
    [
        ({"done": ["d", "r"]}, ()),
        ({"done": ["r"], "failed": {"r2": "x"}, "not_reached": ["d"]}, ("r2", "d")),
        ({"failed": {"r2": "x"}, "returned": ["d", "r", "r2"]}, ("r2", "d", "r")),
        ({"exit": 4}, None),
    ],
)
def test_who_is_left(ended: dict[str, Any], left: tuple[str, ...] | None) -> None:
    before = {"at": "x", "seconds": 0.0, "who": "me", "command": "up", "asked": ["up", "tun"]}
    assert Run(**before, **ended).left == left  # type: ignore[arg-type]


class Asked:
    """What the engine would be asked to do; nothing is done, the run ends with `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.hosts: tuple[str, ...] = ()
        self.options: dict[str, Any] = {}

        def up(_: App, part: Compiled, *__: object, **options: Any) -> None:
            self.hosts, self.options = part.hosts, options
            raise error

        monkeypatch.setattr(App, "up", up)
        monkeypatch.setattr(App, "ensure_lab", lambda _: None)


def exit_code(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


WITHOUT_OUTCOME = [
    (UnreachableError("rs2", "no answer"), 4),
    (ConflictError("in the way"), 1),
    (LockedError("rs2", "held by anna"), 1),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("error", "code"), WITHOUT_OUTCOME, ids=lambda v: type(v).__name__)
def test_a_run_that_ended_without_an_outcome_is_gone_on_with_on_all_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: LvsfabError | KeyboardInterrupt, code: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked = Asked(monkeypatch, error)
    assert exit_code("up", "dr") == code
    whole = asked.hosts
    assert {"director", "rs1", "rs2"} <= set(whole)
    assert exit_code("up", "--resume") == code
    assert asked.hosts == whole
    assert "goes on with `up dr`: all hosts" in capsys.readouterr().err


def test_a_resume_does_what_is_left_as_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked = Asked(monkeypatch, UnreachableError("rs2", "no answer"))
    options = ["--adopt", "--skip-unreachable", "--persist", "--rollback"]
    options += ["--set", "scheduler=wrr"]
    assert exit_code("up", "dr", *options) == 4
    first = asked.options
    assert first["adopt"] is first["skip_unreachable"] is first["persist"] is True
    assert first["rollback"] is True
    assert exit_code("up", "--resume") == 4
    assert asked.options == first
    (*_, last) = audit.read(tmp_path / "lvsfab")
    assert last.sets == {"scheduler": "wrr"}
    assert last.adopt
    assert last.skip_unreachable
    audit.append(tmp_path / "lvsfab", msgspec.structs.replace(last, failed={"rs2": "x"}))
    assert exit_code("up", "--resume") == 4
    assert set(asked.hosts) == {"director", "rs2"}
    assert "goes on with `up dr`: rs2" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from lvsfab.app import App
from lvsfab.cli import main
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
App.ensure_lab = lambda _: None
App.up = App.down = killed
main(sys.argv[1:])
"""


def kill(tmp_path: Path, *words: str) -> None:
    """A run that is killed with -9 when it comes to its hosts."""
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=env, check=False)
    assert done.returncode == -9


def test_an_up_that_was_killed_is_gone_on_with_and_not_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run(tmp_path, recipe="nat", asked=["up", "nat"], done=["rs1", "director"])
    kill(tmp_path, "up", "dr", "--adopt")
    assert exit_code("history") == 0
    *_, good, last = capsys.readouterr().out.splitlines()
    assert good.endswith("good")
    assert last.endswith("not ended")
    asked = Asked(monkeypatch, UnreachableError("rs2", "no answer"))
    assert exit_code("up", "--resume") == 4
    assert asked.options["adopt"] is True
    assert {"director", "rs1", "rs2"} <= set(asked.hosts)
    assert "goes on with `up dr`: all hosts" in capsys.readouterr().err
    (*_, killed, resumed) = audit.read(tmp_path / "lvsfab")
    assert (killed.ended, killed.exit, killed.left) == (False, -1, None)
    assert (resumed.ended, resumed.exit, resumed.recipe) == (True, 4, "dr")


def test_a_down_that_was_killed_ends_what_there_was_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An `up` that was good is no word on hosts that are half taken down."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(App, "ensure_lab", lambda _: None)
    run(tmp_path, inventory="away", done=["rs1", "director"])
    listed = tmp_path / "away.yml"
    listed.write_text("name: away\nhosts:\n  rs1: {roles: [real_server], ssh: {host: 192.0.2.1}}\n")
    kill(tmp_path, "down", "-i", str(listed))
    assert exit_code("up", "--resume", "-i", str(listed)) == 64
    assert "no `up` of inventory away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["up", "--resume"], 0, "nothing to go on with: every host of `up tun` is done"),
        (["up", "tun", "--resume"], 64, "give no MODE"),
        (["up"], 64, "MODE"),
    ],
)
def test_what_a_resume_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run(tmp_path, done=["rs1", "director"])
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code
    assert told in capsys.readouterr().err


def test_a_resume_without_a_run_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["up", "--resume"])
    assert ended.value.code == 64
    assert "no `up` of inventory lab" in capsys.readouterr().err


def test_a_resume_by_masked_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run(tmp_path, sets={"auth_pass": audit.MASK}, failed={"rs1": "x"})
    with pytest.raises(SystemExit):
        main(["up", "--resume"])
    assert "gone on with" in capsys.readouterr().err
