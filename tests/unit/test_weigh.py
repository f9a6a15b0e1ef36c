"""drain and restore change what is up: nobody else may between their look and their change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lvsfab import cli
from lvsfab.app import App, Mark
from lvsfab.errors import LockedError
from lvsfab.recipe import Compiled
from lvsfab.report import Reporter
from lvsfab.scripts import prelude
from lvsfab.session import Shell
from tests.unit.local import LocalChannel
from tests.unit.test_engine import INVENTORY, RECIPE, Machine, Run, compiled
from tests.unit.test_engine import machines as machines  # noqa: PLC0414 - a fixture
from tests.unit.test_partial import ONE


def named(name: str) -> Compiled:
    return replace(compiled(RECIPE.replace("name: mine", f"name: {name}")), cluster=ONE)


class Here(App):
    """On machines of the test's own; another run tries to come between."""

    def __init__(self, machines: dict[str, Machine]) -> None:
        super().__init__(INVENTORY, lambda _: None)
        self.machines = machines
        self.refused = ""

    def connect(self, name: str) -> Shell:
        return Shell(name, LocalChannel([*self.machines[name].enter, "sh", "-s"]), prelude())

    def compile(self, recipe: str, sets: Mapping[str, str]) -> Compiled:
        del sets
        return named(recipe)

    def weighed(self, *_: Any) -> dict[str, str]:
        with Run(self.machines) as other:
            try:
                other.up(named("later"), "anna", mark='{"recipe": "later", "sets": {}}')
            except LockedError as error:
                self.refused = str(error)
        return {"weights": "s1:0"}


def test_an_up_that_comes_between_is_refused(
    machines: dict[str, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Here(machines)
    with app.engine() as engine:
        assert not app.up(named("first"), {}, engine).failed
    monkeypatch.setattr(cli, "open_app", lambda *_: app)
    cli._weigh(Reporter(), "here", "s1", 0)
    assert "is being changed by" in app.refused
    with app.engine() as engine:
        assert app.what_is_up(engine)[1] == Mark("first", {"weights": "s1:0"})
