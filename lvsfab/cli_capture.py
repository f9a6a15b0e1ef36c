"""`lvsfab capture`: what is on the wire, on several hosts at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lvsfab.cli_common import INTERRUPTED, common, open_app

if TYPE_CHECKING:
    from lvsfab.report import Reporter

CAPTURE = "lvsfab.capture/1"


@click.command()
@click.argument("target", default="*")
@click.option("--for", "seconds", type=int, default=None, metavar="SECONDS",
              help="How long; 10 s, or 60 s with --count.")  # fmt: skip
@click.option("--count", type=int, default=None, metavar="N", help="So many packets of each view.")
@click.option("--filter", "expression", default="", metavar="F", help="As pcap-filter(7) has it.")
@click.option("-o", "--output", "directory", required=True, metavar="DIR",
              type=click.Path(file_okay=False, path_type=Path),
              help="Where the files go: DIR/HOST/VIEW.pcap.")  # fmt: skip
@common()
def capture(
    report: Reporter,
    inventory: str,
    target: str,
    seconds: int | None,
    count: int | None,
    expression: str,
    directory: Path,
) -> None:
    """Capture packets on the hosts that TARGET means, all at once, and fetch them as pcap.

    Each host has a file for what the filter says (wire), one for what is in a tunnel on its way
    (tunnel), and one for what came out of each tunnel (inner-DEVICE). Ctrl-C ends it early.
    """
    from lvsfab.api import Fleet, opener
    from lvsfab.capture import MAX_COUNT, PRELUDE, Wanted
    from lvsfab.capture import capture as captured
    from lvsfab.execute.task import exit_code
    from lvsfab.report_run import RunReport

    lasts = seconds if seconds is not None else 60 if count is not None else 10
    want = Wanted(lasts, count if count is not None else MAX_COUNT, expression)
    app = open_app(report, inventory)
    meant = Fleet(app=app).select(target)
    names = meant.names
    app.ensure_lab()
    until = f"{want.count} packets or {want.seconds} s" if count is not None else f"{lasts} s"
    done = captured(
        names,
        opener(app, PRELUDE),
        want,
        directory,
        started=lambda: report.say(f"capturing on {len(names)} hosts: {until}"),
    )
    for host, views in done.views.items():
        for view in views:
            fields = {"host": host, "view": view.name, "packets": view.packets}
            if report.as_json:
                report.document(CAPTURE, {**fields, "path": str(view.path)})
            else:
                told = f"{view.name:<12} {view.packets:>6} packets  {view.path}"
                report.say(report.host(host), told)
    done.results |= {result.host: result for result in meant.unasked}
    RunReport(report, ()).ended(done.results)
    if done.interrupted:
        sys.exit(INTERRUPTED)
    if exit_code(done.results):
        sys.exit(exit_code(done.results))
