"""What the documents show is run: a kind in one file, a recipe of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import lvsfab
from lvsfab import audit, document, facts, recipe
from lvsfab.engine import Event
from lvsfab.errors import CommandError, InputError
from lvsfab.execute.task import HostResult, State
from lvsfab.labs.base import LabHostStatus
from lvsfab.model import Host, Inventory
from lvsfab.plan import HostPlan, Step, plan_host
from lvsfab.report import Reporter, event_data, host_data, step_data
from lvsfab.report_run import result_data
from lvsfab.states.base import Change, Resource, changes
from lvsfab.states.sysctl import Sysctl

DOCS = Path(__file__).parent.parent.parent / "docs"


def block(file: str, language: str, number: int = 0) -> str:
    text = (DOCS / file).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]  # type: ignore[no-any-return]


def test_the_example_of_a_kind_works() -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    code = compile(block("recipes.md", "python"), "hostname.py", "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102 - our own document
    kind = namespace["Hostname"]
    want, have = kind(name="new"), kind.parse("kernel", "old\n")
    assert [c.field for c in changes(want, have)] == ["name"]
    assert changes(want, kind.parse("kernel", "new\n")) == ()
    plan = plan_host("h", [Resource(kind, "kernel", want)], {"hostname:kernel": have}, ())
    assert [str(c) for s in plan.steps for c in s.commands] == ["hostname new"]
    assert plan.record[0].before == have


def test_the_example_of_a_recipe_compiles() -> None:
    text = block("recipes.md", "yaml")
    read = recipe.read(document.parse(text.encode(), Path("mine.yml")))
    hosts = {"d": Host("d", frozenset({"director"})), "r": Host("r", frozenset({"real_server"}))}
    compiled = recipe.compile_recipe(read, Inventory("t", hosts), {"page": "x"})
    assert [r.id for r in compiled.resources("r")] == [
        "sysctl:net.ipv4.conf.all.arp_ignore", "file:/srv/page",
    ]  # fmt: skip
    assert [r.id for r in compiled.resources("d")] == ["package:ipvsadm"]


def documented() -> dict[str, set[str]]:
    """Each schema of executor.md, and the names in its row."""
    rows = re.findall(r"^\| `(lvsfab[.][a-z-]+/[0-9]+)` \|(.*)", read_doc(), re.MULTILINE)
    return {schema: set(re.findall(r"`([a-z_]+)`", row)) for schema, row in rows}


def read_doc() -> str:
    return (DOCS / "executor.md").read_text()


def test_each_json_document_is_in_the_table() -> None:
    package = Path(lvsfab.__file__).parent
    found = {
        schema
        for path in package.rglob("*.py")
        for schema in re.findall(r"\"(lvsfab[.][a-z-]+/[0-9]+)\"", path.read_text())
    }
    assert found - {"lvsfab.last-run/1"} == set(documented())  # that one is a file of ours


def test_each_field_of_a_json_document_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    step = Step(Resource(Sysctl, "a", None), None, (Change("f", "x", "y"),), ())
    report = Reporter(as_json=True)
    report.plans({"h": HostPlan("h", apply=(step,), conflicts=("x",))})
    report.error(CommandError("h", "it failed", status=3))
    report.error(InputError("it is wrong", path=Path("a"), line=1, key="k"))
    plan, *errors = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ended = [
        HostResult("h", State.OK, 0, "x", changes=1),
        HostResult("h", State.FAILED, 1, "x", "why", "tip"),
    ]
    told: dict[str, list[Mapping[str, object]]] = {
        "lvsfab.run/1": [result_data(result) for result in ended],
        "lvsfab.hosts/1": [host_data(Host("h"))],
        "lvsfab.facts/1": [facts.document("h", facts.parse(""))],
        "lvsfab.history/1": [dict.fromkeys(audit.Run.__struct_fields__)],
        "lvsfab.event/1": [event_data(Event("step", "h", "text", step, 1.0))],
        "lvsfab.plan/1": [plan, step_data(step)],
        "lvsfab.error/1": errors,
        "lvsfab.lab-status/1": [dict.fromkeys(f.name for f in fields(LabHostStatus))],
    }
    for schema, bodies in told.items():
        names = {name for body in bodies for name in body} - {"schema"}
        assert names <= documented()[schema], schema
