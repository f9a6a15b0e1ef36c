"""The table of faults tried, docs/faults.md, out of a test run's JUnit XML."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

HEAD = """\
# Faults tried, and how they ended

Made by tests/faults.py from the results that `make test` leaves (`make faults-table`); do not edit.
"Tried" counts the places at which a run was ended, the hostile inputs, the cycles, or 1. "Held":
the test passed; "held again": when it was tried a second time. "Not run": it has no result in the
run that this table was made from.

| where | fault | tried | outcome |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """A test: how often it `tried`, how it ended, the requests that it sent and lost."""

    where: str
    fault: str
    tried: int
    outcome: str
    requests: int = 0
    lost: int = 0


def told(name: str) -> str:
    """A test's name as words."""
    base, _, parameters = name.removeprefix("test_").partition("[")
    words = base.replace("_", " ") + (f" ({parameters.rstrip(']')})" if parameters else "")
    return re.sub(r"[|\x00-\x1f]", " ", re.sub(r"/\S*/tests/", "tests/", words))  # no one's paths


def expected(text: str) -> list[tuple[str, str]]:
    """Where and fault of each test that `pytest --collect-only -q` lists."""
    found = re.findall(r"^tests/(\w+)/test_(\w+)\.py::(.*)$", text, flags=re.MULTILINE)
    return [(f"{folder}: {file}", told(name)) for folder, file, name in found]


def rows(path: Path) -> list[Row]:
    """Each test of a JUnit XML file."""
    found = []
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - our own file
        if not case.get("name"):  # pytest writes such a one where a run was ended from outside
            continue
        said = {p.get("name"): p.get("value", "0") for p in case.iter("property")}
        bad = [case.find(word) is not None for word in ("failure", "error")]
        skipped = case.find("skipped") is not None
        found.append(Row(
            where=case.get("classname", "").removeprefix("tests.").replace(".test_", ": "),
            fault=told(case.get("name", "")),
            tried=int(said.get("tried", 1)),
            outcome="FAILED" if any(bad) else "skipped" if skipped else "held",
            requests=int(said.get("requests", 0)),
            lost=int(said.get("lost", 0)),
        ))  # fmt: skip
    return found


def main(listed: str, *paths: str) -> int:
    """`listed`: a file with what pytest collects; then JUnit files, of which a later one counts
    for more, and the file to write.
    """
    *sources, target = paths
    results: dict[tuple[str, str], Row] = {}
    for row in (row for source in sources for row in rows(Path(source))):
        before = results.get((row.where, row.fault))
        if before and before.outcome == "FAILED" and row.outcome == "held":
            row = replace(row, outcome="held again")  # noqa: PLW2901
        results[row.where, row.fault] = row
    found = [
        results.get(key, Row(*key, 0, "not run")) for key in expected(Path(listed).read_text())
    ]
    lines = [f"| {r.where} | {r.fault} | {r.tried} | {r.outcome} |" for r in found]
    held = [row for row in found if row.outcome.startswith("held")]
    bad, missing = ([r for r in found if r.outcome == word] for word in ("FAILED", "not run"))
    ended = [r for r in held if "interruption" in r.where or "lvsfab killed" in r.fault]
    shells = sum(row.tried for row in ended if row.where.startswith("unit"))
    figures = (
        f"\n{len(held)} held, {len(bad)} failed, {len(missing)} not run. Of what held: "
        f"runs ended in the middle: {shells} in namespaces of one machine, "
        f"{sum(r.tried for r in ended) - shells} on kernels of their own; "
        f"hostile inputs: {sum(r.tried for r in held if 'hostile' in r.where)}; "
        f"cycles: {sum(r.tried for r in held if 'soak' in r.where)}; "
        f"requests of load and soak: {sum(r.requests for r in held)}, of which "
        f"{sum(r.lost for r in held)} were lost while one mode took another's place, "
        "and none else.\n"
    )
    Path(target).write_text(HEAD + "\n".join(lines) + "\n" + figures)
    return int(bool(bad or missing))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
