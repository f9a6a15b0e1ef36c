"""What directors say is up decides what is proven and drained: how far their word goes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pytest

from lvsfab import inventory, recipe
from lvsfab.app import MAX_MARK, App, Mark
from lvsfab.cli import main
from lvsfab.errors import HostError, InputError
from lvsfab.reading import HostRead

PAIR = "3-nat-keepalived"
SETS = {"balancer": "keepalived", "vip": "203.0.113.100"}
NAT = json.dumps({"recipe": "nat", "sets": SETS})


class Said:
    """An engine that reads of each host what it says is up."""

    def __init__(self, **marks: str) -> None:
        self._marks = marks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(
        self, hosts: Iterable[str], *, owner: str = ""
    ) -> tuple[dict[str, HostRead], dict[str, HostError]]:
        del owner
        return {h: HostRead(h, {}, (), mark=self._marks.get(h, "")) for h in hosts}, {}


def up(*, lock: bool = False, **marks: str) -> Mark:
    app = App(inventory.load(inventory.find(PAIR)), lambda _: None)
    engine: Any = Said(**marks)
    return app.what_is_up(engine, lock=lock)[1]


def test_what_all_directors_say_is_up() -> None:
    assert up(lock=True, lb1=NAT, lb2=NAT) == Mark("nat", SETS)


def test_a_director_that_lost_its_word_is_proven_and_not_drained() -> None:
    """After a power cut, say: verify tells what it lacks; a drain would give it a part of it."""
    assert up(lb2=NAT) == up(lb1=NAT) == Mark("nat", SETS)
    with pytest.raises(InputError, match=r"lb2 says that nat .* is up, lb1 that nothing is"):
        up(lock=True, lb2=NAT)


@pytest.mark.parametrize("other", [
    {"recipe": "dr", "sets": SETS},
    {"recipe": "nat", "sets": SETS | {"weights": "web1:0"}},
    {"recipe": "nat", "sets": SETS, "persist": True},
])  # fmt: skip
def test_directors_that_differ_are_both_named_and_neither_is_believed(
    other: dict[str, object],
) -> None:
    with pytest.raises(InputError, match=r"lb1 says that nat \(.*\) is up, lb2 that") as raised:
        up(lb1=NAT, lb2=json.dumps(other))
    assert "lvsfab up MODE says it anew" in raised.value.tip


@pytest.mark.parametrize(
    "name", ["{here}/mine.yml", "./mine.yml", "mine.yml", "../mine", "", "x\n"]
)
def test_a_host_names_a_recipe_and_no_file_of_the_controller(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yml").write_text("name: mine\ntitle: x\nsteps: []\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="lb1: what it says is up is no recipe's name"):
        up(lb1=json.dumps({"recipe": name.format(here=tmp_path), "sets": {}}))


def test_a_recipe_of_ones_own_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yml").write_text("name: mine\ntitle: x\nsteps: []\n")
    monkeypatch.chdir(tmp_path)
    found = up(lb1=json.dumps({"recipe": "mine", "sets": {}}))
    assert recipe.find(found.recipe) == Path("recipes/mine.yml")


@pytest.mark.parametrize(
    "said", ["x", "[]", "{}", '{"recipe":' + "[" * 100_000, "x" * MAX_MARK * 2]
)
def test_a_word_that_makes_no_sense_names_its_host(said: str) -> None:
    with pytest.raises(InputError, match="lb1: its word on what is up") as raised:
        up(lb1=said)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("verb", ["drain", "restore"])
def test_one_director_does_not_decide_what_another_gets(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(App, "engine", lambda _: Said(lb1=NAT))
    with pytest.raises(SystemExit) as ended:
        main([verb, "web1", "-i", PAIR])
    assert ended.value.code == 64
    assert "lb2 that nothing is" in capsys.readouterr().err
