"""A verdict for people (text), for programs (JSON) and for CI (JUnit XML).

JSON, schema "lvsfab.verify/1" (fields are added, never changed, within a version):

    {"schema": "lvsfab.verify/1", "status": "pass"|"fail"|"unchecked",
     "recipe", "method": "nat"|"dr"|"tun", "service": "tcp:10.1.1.100:80", "scheduler",
     "requests": sent, "answered": number, "outcomes": {how it ended: number},
     "held": were connections held open at once,
     "seconds": whole run, "batch_seconds": the requests alone,
     "servers": [{"name", "address", "weight", "expected": number or null, "answered",
                  "conns", "in_pkts", "out_pkts": as the director counted, or null,
                  "logged": lines in the server's own log, or null}],
     "checks": [{"id", "title", "status", "fact", "blamed": [host], "advice"}],
     "cause": the id of the first failed check on the packet's way, or null}
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO
from xml.etree import ElementTree as ET

from lvsfab.report import clean
from lvsfab.verify.verdict import Check, ServerRow, Status, Verdict

SCHEMA = "lvsfab.verify/1"
BAR = 24  # characters of the longest bar
_STYLE = {Status.PASS: "green", Status.FAIL: "bold red", Status.UNCHECKED: "yellow"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict as the JSON above."""
    return {
        "schema": SCHEMA,
        "status": str(verdict.status),
        "recipe": verdict.recipe,
        "method": verdict.method,
        "service": verdict.service,
        "scheduler": verdict.scheduler,
        "requests": verdict.requests,
        "answered": verdict.answered,
        "outcomes": dict(verdict.outcomes),
        "held": verdict.held,
        "seconds": round(verdict.seconds, 3),
        "batch_seconds": round(verdict.batch_seconds, 3),
        "servers": [asdict(row) for row in verdict.rows],
        "checks": [
            {**asdict(check), "status": str(check.status), "blamed": list(check.blamed)}
            for check in verdict.checks
        ],
        "cause": verdict.cause.id if verdict.cause else None,
    }


def print_verdict(verdict: Verdict, stream: TextIO) -> None:
    """The table, the checks, the cause; in colour on a terminal, plain in a pipe or with NO_COLOR.
    What hosts said is cleaned here, and never taken for markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # rich folds at 80 columns in a pipe; a line of a log is better whole
    console = Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
    if not console.is_terminal:
        console.width = 1000

    def say(*parts: tuple[str, str]) -> None:
        console.print(Text.assemble(*((clean(text), style) for text, style in parts)))

    how = ", held open at once" if verdict.held else ""
    answered = f"{verdict.answered} of {verdict.requests} requests answered{how}"
    say((f"{verdict.recipe}: {verdict.service} {verdict.scheduler}, {answered}", ""))
    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("SERVER", "WEIGHT", "EXPECTED", "ANSWERED", ""):
        table.add_column(head, justify="left" if head in ("SERVER", "") else "right")
    most = max((row.answered for row in verdict.rows), default=0)
    for row in verdict.rows:
        expected = "any" if row.expected is None else str(row.expected)
        style = "red" if row.expected not in (None, row.answered) else "green"
        table.add_row(
            Text(clean(row.name)),
            str(row.weight),
            expected,
            str(row.answered),
            Text(bar(row, most, stream), style=style),
        )
    console.print(table)
    for check in verdict.checks:
        word = f"{check.status.upper():<9}"
        say((word, _STYLE[check.status]), (f" {check.title}: {check.fact}", ""))
    say((_end(verdict), _STYLE[verdict.status]))
    for sentence in _cause(verdict):
        say((sentence, ""))


def bar(row: ServerRow, most: int, stream: TextIO) -> str:
    """How often it answered, as a bar; the longest is BAR characters."""
    mark = "█" if "utf" in (getattr(stream, "encoding", "") or "").lower() else "#"
    return mark * (max(1, round(BAR * row.answered / most)) if row.answered and most else 0)


def _end(verdict: Verdict) -> str:
    took = f"{verdict.seconds:.1f} s, {verdict.batch_seconds:.1f} s of them requests"
    number = {
        status: sum(1 for check in verdict.checks if check.status is status) for status in Status
    }
    word = {Status.PASS: "PROVED", Status.FAIL: "FAILED", Status.UNCHECKED: "NOT PROVED"}
    return (
        f"{word[verdict.status]}: {number[Status.PASS]} checks passed, {number[Status.FAIL]} "
        f"failed, {number[Status.UNCHECKED]} could not be made ({took})"
    )


def _cause(verdict: Verdict) -> list[str]:
    if verdict.cause is not None:
        return [f"cause: {_sentence(verdict.cause)}", *_next(verdict.cause)]
    open_ = [check for check in verdict.checks if check.status is Status.UNCHECKED]
    return [line for check in open_ for line in _next(check)]


def _sentence(check: Check) -> str:
    who = f"{', '.join(check.blamed)}: " if check.blamed else ""
    return f"{who}{check.fact}"


def _next(check: Check) -> list[str]:
    return [f"next: {check.advice}"] if check.advice else []


def junit(verdict: Verdict) -> str:
    """JUnit XML: a test case per check; an unchecked one is an error, never a skip."""
    number = {
        status: sum(1 for check in verdict.checks if check.status is status) for status in Status
    }
    suite = ET.Element(
        "testsuite",
        name=f"lvsfab verify {verdict.recipe}",
        tests=str(len(verdict.checks)),
        failures=str(number[Status.FAIL]),
        errors=str(number[Status.UNCHECKED]),
        time=f"{verdict.seconds:.3f}",
    )
    for check in verdict.checks:
        case = ET.SubElement(
            suite, "testcase", classname=f"lvsfab.verify.{verdict.recipe}", name=_xml(check.title)
        )
        case.set("time", "0")
        text = _xml(f"{check.fact}\n{check.advice}".strip())
        if check.status is Status.PASS:
            ET.SubElement(case, "system-out").text = text
        else:
            kind = "failure" if check.status is Status.FAIL else "error"
            ET.SubElement(case, kind, message=_xml(check.fact), type=check.id).text = text
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=False) + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("�", text)


def write_junit(verdict: Verdict, path: str | Path) -> None:
    """Write the JUnit XML to `path`, whole or not at all. OSError when it cannot be written."""
    target = Path(path)
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + junit(verdict)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
