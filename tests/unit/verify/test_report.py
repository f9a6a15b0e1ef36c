"""A verdict as text, JSON and JUnit XML."""

from __future__ import annotations

import io
import json
import stat
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lvsfab import report_verify
from lvsfab.verify.verdict import Status, Verdict
from tests.unit.verify.recorded import cluster, load, verdict


@pytest.fixture
def good() -> Verdict:
    return verdict(load("dr-good"), cluster("dr"))


@pytest.fixture
def bad() -> Verdict:
    return verdict(load("tun-rp-filter"), cluster("tun"))


def text(found: Verdict) -> str:
    stream = io.StringIO()
    report_verify.print_verdict(found, stream)
    return stream.getvalue()


def test_text_of_a_proof(good: Verdict) -> None:
    lines = text(good).splitlines()
    assert lines[0] == "dr: tcp:192.168.10.100:80 rr, 60 of 60 requests answered"
    assert lines[2].split()[:4] == ["rs1", "1", "30", "30"]
    assert sum(line.startswith("PASS ") for line in lines) == len(good.checks)
    assert lines[-1].startswith("PROVED: ")
    assert "\x1b" not in text(good)


def test_text_of_a_failure_names_cause_and_cure(bad: Verdict) -> None:
    lines = text(bad).splitlines()
    assert any(line.startswith("FAIL ") and "TcpExtIPReversePathFilter" in line for line in lines)
    assert lines[-2].startswith("cause: rs3: ")
    assert lines[-1].startswith("next: on rs3: sysctl -w ")


def test_unchecked_is_shown_as_not_proved(good: Verdict) -> None:
    checks = (replace(good.checks[0], status=Status.UNCHECKED, advice="look"), *good.checks[1:])
    said = text(replace(good, checks=checks, status=Status.UNCHECKED))
    assert "\nNOT PROVED: " in said
    assert said.endswith("next: look\n")


def test_what_hosts_print_is_no_markup(good: Verdict) -> None:
    checks = (replace(good.checks[0], fact="[red]x[/red] [link=http://a]"),)
    assert "[red]x[/red] [link=http://a]" in text(replace(good, checks=checks))


def test_json_is_versioned_and_whole(bad: Verdict) -> None:
    said = json.loads(json.dumps(report_verify.to_dict(bad)))
    assert said["schema"] == "lvsfab.verify/1"
    assert said["status"] == "fail"
    assert said["cause"] == "server:rs3"
    assert [server["name"] for server in said["servers"]] == ["rs1", "rs2", "rs3"]
    assert {check["status"] for check in said["checks"]} == {"pass", "fail", "unchecked"}
    assert said["requests"] > said["answered"] > 0


def test_junit(bad: Verdict, tmp_path: Path) -> None:
    path = tmp_path / "out.xml"
    path.write_text("old")
    checks = (replace(bad.checks[0], fact="bell \x07 <&>"), *bad.checks[1:])
    report_verify.write_junit(replace(bad, checks=checks), path)
    suite = ET.parse(path).getroot()  # noqa: S314 - our own
    assert suite.get("tests") == str(len(suite.findall("testcase")))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
    assert suite.get("errors") == str(len(suite.findall("testcase/error")))
    assert int(suite.get("failures") or 0) > 0
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.xml"]
