"""The table of faults tried, docs/faults.md, out of a test run's JUnit XML: `make faults`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

HEAD = """\
# Faults tried, and how they ended

Made by tests/faults.py from the results of test runs (`make faults` does both); do not edit.
"Tried" counts the places at which a run was ended, the hostile inputs, the cycles, or 1. "Held":
the test passed. "Not run": it has no result in the runs that this table was made from.

| where | fault | tried | outcome |
|---|---|---|---|
"""


# every file of tests that belongs in the table (FAULTS in the Makefile)
FILES = [
    "unit: interruption", "unit: deadman", "unit: conflicts", "unit: wire", "unit: partial",
    "unit: full_disk", "unit: lock", "unit: hostile", "e2e: interruption", "e2e: lockout",
    "e2e: faults", "e2e: keepalived", "e2e: load", "e2e: soak",
]  # fmt: skip


def rows(path: Path) -> list[tuple[str, str, int, str]]:
    """Where, fault, how often tried, outcome, for each test of a JUnit XML file."""
    found: list[tuple[str, str, int, str]] = []
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - our own file
        name = case.get("name", "").removeprefix("test_")
        if not name:  # pytest writes such a one where a run was ended from outside
            where = found[-1][0] if found else path.name
            found.append((where, "the run was ended here; what follows in this file", 0, "not run"))
            continue
        base, _, parameters = name.partition("[")
        told = base.replace("_", " ") + (f" ({parameters.rstrip(']')})" if parameters else "")
        told = re.sub(r"[|\x00-\x1f]", " ", told)
        tried = next((int(p.get("value", 1)) for p in case.iter("property")
                      if p.get("name") == "tried"), 1)  # fmt: skip
        bad = [case.find(word) is not None for word in ("failure", "error")]
        skipped = case.find("skipped") is not None
        outcome = "FAILED" if any(bad) else "skipped" if skipped else "held"
        module = case.get("classname", "").removeprefix("tests.")
        found.append((module.replace(".test_", ": "), told, tried, outcome))
    return found


def total(name: str, path: Path) -> int:
    """The sum of a property of the tests that passed."""
    return sum(
        int(found.get("value", 0))
        for case in ElementTree.parse(path).iter("testcase")  # noqa: S314 - our own file
        for found in case.iter("property")
        if found.get("name") == name and case.find("failure") is None
    )


def main(*paths: str) -> int:
    *sources, target = paths
    found = [row for source in sources for row in rows(Path(source))]
    there = {row[0] for row in found}
    found += [(name, "the whole file", 0, "not run") for name in FILES if name not in there]
    lines = [f"| {where} | {what} | {tried} | {how} |" for where, what, tried, how in found]
    held = [row for row in found if row[3] == "held"]
    ended = sum(row[2] for row in held if "interruption" in row[0] or "killed" in row[1])
    inputs = sum(row[2] for row in held if "hostile" in row[0])
    cycles = sum(row[2] for row in held if "soak" in row[0])
    sent, lost = (sum(total(n, Path(s)) for s in sources) for n in ("requests", "lost"))
    figures = (
        f"\n{len(held)} held, {sum(row[3] == 'FAILED' for row in found)} failed, "
        f"{sum(row[3] == 'not run' for row in found)} lines not run; "
        f"runs ended in the middle: {ended}; hostile inputs: {inputs}; cycles: {cycles}; "
        f"requests of load and soak: {sent}, of which {lost} were lost while one mode took "
        "another's place, and none else.\n"
    )
    Path(target).write_text(HEAD + "\n".join(lines) + "\n" + figures)
    return int(any(row[3] in ("FAILED", "not run") for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
