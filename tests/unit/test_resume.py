"""up --resume: the hosts that failed or were not reached, and the director that sends to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lvsfab import audit, document, inventory, recipe
from lvsfab.app import App
from lvsfab.audit import Run
from lvsfab.cli import main
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
    run(tmp_path)
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
