"""What reaches a terminal: whatever hosts, files and people say, text and our own colours."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsfab import audit, cli, cli_watch, facts, report, status
from lvsfab.apply import Event
from lvsfab.errors import CommandError, InputError, LvsfabError
from lvsfab.execute.task import HostResult, State
from lvsfab.model import Host, Inventory
from lvsfab.outcome import Outcome
from lvsfab.plan import HostPlan, Step
from lvsfab.report import Painted, Reporter, history_lines
from lvsfab.report_run import RunReport, print_facts
from lvsfab.session import Command
from lvsfab.states.base import Change, Resource
from lvsfab.states.sysctl import Sysctl
from lvsfab.verify.ipvsadm import ServerEntry, ServiceEntry, Table
from lvsfab.verify.verdict import Check, ServerRow, Status, Verdict
from lvsfab.verify.watch import Request, Watched
from tests.unit.verify.recorded import cluster

FORGED = "\x1b[35mforged"  # a colour of ours, where a host puts it
HOSTILE = (
    st.sampled_from([FORGED, "\x1b]0;pwned\x07\x1b[2J", "\x9b2J", "\u202e", "\u2066", "\x7f", "\r",
                     "\x08", "\x85", "\ud800", "[red]x[/red]", "\x1b[0m"])
    | st.text(max_size=8)
)  # fmt: skip
TEXTS = st.lists(HOSTILE, min_size=1, max_size=4).map("".join)
COLOUR = re.compile(r"\x1b\[[0-9;]+m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True, scope="module")
def coloured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm")
        yield


def run_events(report: Reporter, text: str) -> None:
    step = Step(
        Resource(Sysctl, text, Sysctl(name="net.ipv4.ip_forward", value="1")),
        None,
        (Change(text, text, text),),
        (Command((text, text), text),),
    )
    for what in ("read", "phase", "step", "undone", "failed", "note", text):
        for host in ("h", ""):
            report.event(Event(what, host, text, step if what in ("step", "undone") else None))
    plans = {"h": HostPlan("h", apply=(step,), conflicts=(text,))}
    report.plans(plans)
    ended = Outcome(plans, ["h"], {text: CommandError("h", text)}, [text], {}, [text])
    engine: Any = SimpleNamespace(handshakes=1, execs=1)
    report.outcome(text, ended, 1.0, engine)


def errors(report: Reporter, text: str) -> None:
    report.error(LvsfabError(text, tip=text))
    report.error(InputError(text, path=text, line=1, key=text))
    report.error(CommandError("h", text, command=text, status=1, output=text, tip=text))
    report.hosts([Host("h", groups=frozenset({text}))])


def run(report: Reporter, text: str) -> None:
    results = {
        state: HostResult("h", state, 1, text, text, text) for state in State
    } | {"other": HostResult("i", State.OK, 0, text)}  # fmt: skip
    for grouped in (True, False):
        shown = RunReport(report, ["h", text], grouped=grouped)
        shown.begin(text)
        shown.line("h", text)
        for result in results.values():
            shown.moved(result)
        shown.ended(results, interrupted=True, unsure=[text])
    found = facts.parse("")
    print_facts(report, {"h": msgspec.structs.replace(found, kernel=text, routes=(text,))})


def proof(report: Reporter, text: str) -> None:
    checks = tuple(Check(text, text, state, text, (text,), text) for state in Status)
    row = ServerRow(text, text, 1, 2, 3)
    verdict = Verdict(
        text, text, text, text, Status.FAIL, 4, 3, True, (row,), checks, checks[1], 1.0, 1.0,
        {text: 1},
    )  # fmt: skip
    for found in (verdict, replace(verdict, cause=None)):
        with suppress(SystemExit):
            cli.prove(report, found, None)


def watched(report: Reporter, text: str) -> None:
    found = Watched(text, 1, 1, (Request(0.0, 0.1, text),), text)
    app: Any = SimpleNamespace(watch=lambda *_: (cluster("dr"), found))
    nothing: Any = None
    with suppress(SystemExit):
        cli_watch.watch(report, app, nothing, nothing, 1, None, "", 5.0)


def looked_at(report: Reporter, text: str) -> None:
    address = ip_address("192.0.2.1")
    service = ServiceEntry(
        text, address, 80, scheduler=text, flags=(text,), servers=(ServerEntry(address, 80),)
    )
    found = status.DirectorStatus(text, Table((service,)), Table(), {})
    inventory = Inventory("i", {"h": Host("h")})
    if report.as_json:
        report.document(status.STATUS, {"directors": [status.data(found, inventory)]})
    else:
        report.screen(status.text(found, inventory), again=False)


def remembered(report: Reporter, text: str) -> None:
    past = audit.Run(
        at=text, seconds=1.0, who=text, command=text, asked=[text], sets={text: text},
        changed={text: [text]}, failed={text: text}, not_reached=[text], exit=1,
    )  # fmt: skip
    for line in history_lines([past], as_json=report.as_json):
        report.result(line)


def written(show: Callable[[Reporter, str], None], text: str, **how: Any) -> tuple[str, str]:
    """What `show` writes to standard output and standard error."""
    stream = Terminal if how.pop("terminal") else io.StringIO
    out, err = stream(), stream()
    with redirect_stdout(out), redirect_stderr(err):
        show(Reporter(**how), text)
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("how", [{}, {"verbose": 1}, {"as_json": True}], ids=str)
@pytest.mark.parametrize(
    "show",
    [run_events, errors, run, proof, watched, looked_at, remembered],
    ids=lambda f: f.__name__,
)
@settings(max_examples=40)
@given(text=TEXTS)
def test_no_control_character_gets_through(
    show: Callable[[Reporter, str], None], how: dict[str, Any], terminal: bool, text: str
) -> None:
    out, err = written(show, text, terminal=terminal, **how)
    assert out + err
    for said in (out, err):
        assert FORGED not in said
        plain = COLOUR.sub("", said) if terminal and not how.get("as_json") else said
        assert all(c.isprintable() or c in "\n\t" for c in plain)
    if how.get("as_json"):
        assert out.isascii()
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())


def test_a_terminal_gets_our_colours_and_a_text_none_of_its_own() -> None:
    def show(report: Reporter, text: str) -> None:
        report.say(Painted(text, "32"), text)

    assert written(show, "\x1b[31mx", terminal=True)[1] == "\x1b[32m\\x1b[31mx\x1b[0m \\x1b[31mx\n"
    assert written(show, "\x1b[31mx", terminal=False)[1] == "\\x1b[31mx \\x1b[31mx\n"
    assert f"{Painted('x', '32')}" == "x"


def test_what_json_says_is_what_was_said() -> None:
    said = "\x9b2J\u202e\x7f\x1b"
    out, _ = written(remembered, said, terminal=True, as_json=True)
    assert json.loads(out)["failed"] == {said: said}


def test_a_screen_that_comes_again_begins_with_an_empty_terminal() -> None:
    def show(report: Reporter, text: str) -> None:
        report.screen([text], again=True)

    assert written(show, "x\x1b[2J", terminal=True)[0] == "\x1b[H\x1b[2Jx\\x1b[2J\n"
    assert written(show, "x", terminal=False)[0] == "x\n"


@pytest.mark.parametrize("argv", [["\x9b2J"], ["plan", "--\x9b2J"], ["verify", "-n", "\x9b2J"],
                                  ["plan", "a", "--set", "\x9b2J"]])  # fmt: skip
def test_nor_do_words_of_the_command_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    said = capsys.readouterr().err
    assert ended.value.code == 64
    assert "\\x9b2J" in said
    assert "\x9b" not in said


@pytest.mark.parametrize("more", [[], ["-v"]], ids=["", "-v"])
def test_nor_does_a_fault_of_our_own(
    more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise ValueError("said \x1b[2J")

    monkeypatch.setattr("lvsfab.app.open_app", opened)
    with pytest.raises(SystemExit) as ended:
        cli.main(["hosts", *more])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ValueError: said \\x1b[2J" in said
    assert ("Traceback" in said) == bool(more)
    assert "\x1b" not in said


def test_the_help_shows_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert "\n    lvsfab up tun       build LVS-TUN and prove it\n    lvsfab verify  " in said


PRINTS = re.compile(r"\bprint\(|click\.echo\(|std(out|err)\.write\(|\\x1b|\\033")


def test_few_places_write_to_the_terminal() -> None:
    """The reports clean what they are told; the command line has words of its own (JSON schemas,
    that a run was interrupted). `labs` has programs that ssh starts, `api` an example.
    """
    package = Path(report.__file__).parent
    found = {p.name for p in package.rglob("*.py") if PRINTS.search(p.read_text())}
    assert found == {
        "report.py", "report_verify.py", "cli.py", "api.py", "docker_dial.py", "connect.py",
    }  # fmt: skip
