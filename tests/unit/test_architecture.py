"""Imports point one way; heavy modules stay off the start-up path; the wheel has its data."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lvsfab

PACKAGE = Path(lvsfab.__file__).parent

# What each room may import of the others; a room is a top-level module or folder of the package.
VALUES = {"errors", "model"}
STATES = VALUES | {"session", "states"}
PLANNING = STATES | {
    "document", "inventory", "cluster", "recipe", "plan", "journal", "scripts", "lock", "deadman",
    "persist", "wire", "outcome",
}  # fmt: skip
VERIFY = VALUES | {"session", "states", "verify"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": VALUES,
    "model": set(),
    "session": VALUES,
    "states": STATES,
    "document": VALUES | {"files"},
    "inventory": VALUES | {"document", "files"},
    "cluster_keepalived": VALUES,
    "cluster": VALUES | {"cluster_keepalived"},
    "targets": VALUES,
    "recipe": STATES | {"document", "inventory", "cluster"},
    "journal": STATES,
    "plan": STATES | {"journal"},
    "persist": STATES | {"journal", "plan"},
    "lock": set(),
    "wire": VALUES,
    "outcome": VALUES | {"plan"},
    "deadman": STATES | {"plan", "journal"},
    "audit": VALUES,
    "scripts": STATES | {"journal", "plan", "lock", "deadman", "wire"},
    "reading": PLANNING,
    "apply": PLANNING,
    "links": VALUES | {"session"},
    "rollback": STATES | {"journal", "plan", "reading"},
    "engine": PLANNING | {"reading", "apply", "links", "rollback"},
    "verify": VERIFY,
    "sources": VALUES | {"document", "inventory", "files"},
    "facts": STATES,
    "execute": PLANNING | {"engine", "transports", "facts", "files"},
    "copy": VALUES | {"session", "execute"},
    "capture": VERIFY | {"copy", "execute"},
    "transports": VALUES | {"transports", "files"},
    "labs": VALUES | {"labs"},
    "app": PLANNING | {"sources", "engine", "labs", "transports", "verify"},
    "report": PLANNING | {"engine", "audit"},
    "report_verify": VERIFY | {"report"},
    "status": VERIFY | {"report", "app", "engine"},
    "report_run": VALUES | {"report", "execute", "facts", "copy"},
    "api": PLANNING
    | {"app", "engine", "transports", "execute", "facts", "copy", "targets", "sources"},
    "cli_common": VALUES | {"app", "audit", "report"},
    "cli_run": VALUES | {"cli_common", "api", "report", "report_run", "execute"},
    "cli_capture": VALUES | {"cli_common", "api", "report", "report_run", "execute", "capture"},
    "cli_history": VALUES | {"cli_common", "app", "audit", "report"},
    "report_watch": VERIFY,
    "cli_watch": VALUES | {"cli_common", "app", "engine", "recipe", "report", "report_watch"},
    "cli_lab": VALUES | {"cli_common", "app", "report", "labs"},
}
FREE = {"cli", "__init__", "__main__"}  # what nobody imports but each other, in this order
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, wherever in it and however late."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if (
                parts[0] == "lvsfab"
                and len(parts) > 1
                and (PACKAGE / parts[1]).with_suffix(".py").exists() | (PACKAGE / parts[1]).is_dir()
            ):
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here in FREE:
        return
    assert here in ALLOWED, f"{here} is a new room: say in this test what it may import"
    assert imported(path) <= ALLOWED[here] | {here}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_only_transports_know_ssh_libraries() -> None:
    for path in MODULES:
        if room(path) != "transports":
            text = path.read_text()
            assert "import paramiko" not in text, path
            assert "import fabric" not in text, path


RUN = ("plan", "journal", "scripts", "deadman", "reading", "apply", "rollback", "engine")


@pytest.mark.parametrize("name", RUN)
def test_a_run_knows_no_kind_by_name(name: str) -> None:
    """Adding a kind is one file: what is special about one is an attribute of `State`."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named = {module for module in found if module and module.startswith("lvsfab.states.")}
    assert named <= {"lvsfab.states.base"}


def test_start_up_loads_nothing_heavy() -> None:
    script = (
        "import sys, lvsfab.cli\n"
        "heavy = {'paramiko', 'fabric', 'rich', 'docker', 'yaml', 'msgspec', 'tenacity'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_no_temporary_name_can_be_guessed() -> None:
    """A name with a process id in it, in a folder that others can write to, can be waited for."""
    for path in MODULES:
        assert not re.search(r"/(run|tmp)/[^ ;|/]*\$(\$|\{?PID)", path.read_text()), path
