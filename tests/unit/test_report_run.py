"""What `run` shows: colours where a terminal is, groups, and those that failed at the end."""

from __future__ import annotations

import io
import sys

import pytest

from lvsfab.execute.task import HostResult, State
from lvsfab.report import Reporter
from lvsfab.report_run import RunReport

COLOUR = "\x1b["
MIXED = {
    "a": HostResult("a", State.OK, 0, "same\n"),
    "b": HostResult("b", State.FAILED, 3, "same\n"),
    "c": HostResult("c", State.OK, 0, "same\n"),
    "d": HostResult("d", State.OK, 0, "other\x1b[2J\n"),
    "e": HostResult("e", State.UNREACHABLE, error="e: no route", tip="is it on?"),
    "f": HostResult("f", State.NOT_RUN),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def streams(monkeypatch: pytest.MonkeyPatch, out: bool, err: bool) -> tuple[io.StringIO, ...]:
    found = tuple(Terminal() if tty else io.StringIO() for tty in (out, err))
    monkeypatch.setattr(sys, "stdout", found[0])
    monkeypatch.setattr(sys, "stderr", found[1])
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


def show(report: Reporter) -> None:
    shown = RunReport(report, MIXED, grouped=True)
    shown.line("a", "live")
    shown.ended(MIXED)


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("err", [False, True])
def test_each_stream_has_colours_if_it_is_a_terminal(
    out: bool, err: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout, stderr = streams(monkeypatch, out, err)
    show(Reporter())
    lines = stdout.getvalue().splitlines()
    assert (COLOUR in lines[0], COLOUR in lines[1]) == (out, out)  # a live line, a group's head
    assert (COLOUR in stderr.getvalue()) == err


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color(value: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = streams(monkeypatch, out=True, err=True)
    monkeypatch.setenv("NO_COLOR", value)
    show(Reporter())
    assert (COLOUR in stdout.getvalue(), COLOUR in stderr.getvalue()) == (coloured, coloured)


def test_equal_outputs_with_equal_statuses_are_one_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    RunReport(Reporter(), MIXED, grouped=True).ended(MIXED)
    assert capsys.readouterr().out == (
        "a, c (2)\n  same\nb (1): exit status 3\n  same\nd (1)\n  other\\x1b[2J\n"
    )


def test_those_that_did_not_succeed_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    RunReport(Reporter(), MIXED).ended(MIXED)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "b        FAILED exit status 3",
        "           same",
        "e        UNREACHABLE e: no route",
        "         tip: is it on?",
        "6 hosts: 3 ok, 1 failed, 1 unreachable, 1 not run",
    ]
