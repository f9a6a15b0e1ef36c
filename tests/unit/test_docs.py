"""What the documents show is run: a kind in one file, a recipe of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lvsfab import document, recipe
from lvsfab.model import Host, Inventory
from lvsfab.plan import plan_host
from lvsfab.states.base import Resource, changes

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
