"""docs/faults.md tells each test of the list, those without a result too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import faults

LIST = """\
tests/e2e/test_soak.py::test_soak[rootless]
tests/unit/test_lock.py::test_what_a_lock_says
tests/unit/test_lock.py::test_of_many_one_gets_it[a|b]

3 tests collected in 0.01s
"""
CASE = '<testcase classname="tests.{where}" name="{name}">{more}</testcase>'
SOAK = "e2e.test_soak", "test_soak[rootless]"
LOCK = "unit.test_lock", "test_what_a_lock_says"
MANY = "unit.test_lock", "test_of_many_one_gets_it[a|b]"
SENT = "".join(
    f'<property name="{name}" value="{value}"/>'
    for name, value in (("tried", 3), ("requests", 900), ("lost", 2))
)


def junit(path: Path, *cases: tuple[tuple[str, str], str]) -> str:
    text = "".join(CASE.format(where=w, name=n, more=more) for (w, n), more in cases)
    path.write_text(f"<testsuites>{text}</testsuites>")
    return str(path)


@pytest.fixture
def ids(tmp_path: Path) -> str:
    (tmp_path / "ids").write_text(LIST)
    return str(tmp_path / "ids")


def test_a_test_without_a_result_is_told_and_fails(ids: str, tmp_path: Path) -> None:
    one = junit(tmp_path / "1.xml", (SOAK, f"<properties>{SENT}</properties>"), (LOCK, ""))
    assert faults.main(ids, one, str(tmp_path / "table")) == 1
    table = (tmp_path / "table").read_text()
    assert "| e2e: soak | soak (rootless) | 3 | held |" in table
    assert "| unit: lock | of many one gets it (a b) | 0 | not run |" in table
    assert "2 held, 0 failed, 1 not run" in table
    assert "cycles: 3; requests of load and soak: 900, of which 2 were lost" in table


def test_ends_in_namespaces_and_on_real_kernels_are_counted_apart(tmp_path: Path) -> None:
    names = [
        ("unit.test_interruption", "test_a_shell_that_dies", 29),
        ("e2e.test_interruption", "test_lvsfab_killed", 5),
        ("e2e.test_keepalived", "test_3_lvsfab_killed_every_few_steps", 11),
        ("unit.test_lock", "test_a_killed_holder", 7),  # the end of no run
    ]
    (tmp_path / "ids").write_text(
        "".join(f"tests/{where.replace('.', '/')}.py::{name}\n" for where, name, _ in names)
    )
    told = '<properties><property name="tried" value="{}"/></properties>'
    one = junit(tmp_path / "1.xml", *(((w, name), told.format(n)) for w, name, n in names))
    assert faults.main(str(tmp_path / "ids"), one, str(tmp_path / "table")) == 0
    table = (tmp_path / "table").read_text()
    assert (
        "ended in the middle: 29 in namespaces of one machine, 16 on kernels of their own" in table
    )


def test_of_two_results_the_later_counts_and_once(ids: str, tmp_path: Path) -> None:
    soak = (SOAK, f"<properties>{SENT}</properties>")
    first = junit(tmp_path / "1.xml", soak, (LOCK, "<failure/>"), (MANY, ""))
    again = junit(tmp_path / "2.xml", soak, (LOCK, ""))
    assert faults.main(ids, first, again, str(tmp_path / "table")) == 0
    assert "3 held, 0 failed, 0 not run" in (tmp_path / "table").read_text()
    assert "load and soak: 900," in (tmp_path / "table").read_text()
    assert "what a lock says | 1 | held again |" in (tmp_path / "table").read_text()
    assert faults.main(ids, again, first, str(tmp_path / "table")) == 1


def test_the_table_names_nobodys_directories() -> None:
    said = faults.told("test_x[run a --script /home/me/lvsfab/tests/unit/test_a.py -- /etc/x]")
    assert said == "x (run a --script tests/unit/test_a.py -- /etc/x)"
