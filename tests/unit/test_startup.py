"""Starting is quick: what is loaded is counted, and time is held against a bare interpreter's."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

HELP = "import sys; sys.argv = ['lvsfab', '--help']; import lvsfab.cli as c\n"
HEAVY = ("paramiko", "fabric", "rich", "docker", "invoke", "cryptography", "tenacity",
         "distributed", "asyncio", "lvsfab.engine", "lvsfab.states")  # fmt: skip
ROUNDS = 5


def python(script: str, *argv: str, cwd: Path | None = None) -> tuple[float, str]:
    """The best of some rounds, in seconds of wall time, and what was printed."""
    best, out = 1e9, ""
    for _ in range(ROUNDS):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True,
            cwd=cwd,
        )  # fmt: skip
        best, out = min(best, time.monotonic() - began), done.stdout
    return best, out


def loaded(*argv: str) -> set[str]:
    script = (
        "import sys, contextlib, io\nimport lvsfab.cli as c\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    c.main(sys.argv[1:])\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    _, out = python(script, *argv)
    return set(out.split())


def big(folder: Path, number: int = 1000) -> Path:
    path = folder / "big.yml"
    lines = [f"  h{i}: {{groups: [g{i % 7}], ssh: {{host: 192.0.2.1, port: {i + 1}}}}}"
             for i in range(number)]  # fmt: skip
    path.write_text("\n".join(["name: big", "hosts:", *lines]) + "\n")
    return path


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["lab", "--help"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    assert loaded(*argv) == set()


def test_listing_hosts_loads_nothing_that_only_runs_need(tmp_path: Path) -> None:
    assert loaded("hosts", "*", "-i", str(big(tmp_path))) == set()


def test_help_and_a_thousand_hosts_are_quick(tmp_path: Path) -> None:
    """0.2 s and 0.5 s on a machine where a bare interpreter takes 0.02 s; on one that is slow
    or busy, in proportion.
    """
    bare, _ = python("pass")
    run = "import sys, lvsfab.cli as c; c.main(sys.argv[1:])"
    took, _ = python(run, "--help")
    assert took < max(0.2, 10 * bare)
    took, out = python(run, "hosts", "*", "-i", str(big(tmp_path)))
    assert len(out.splitlines()) == 1000
    assert took < max(0.5, 25 * bare)
