"""`lvsfab verify --for`: a service is asked steadily while something else happens to it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from lvsfab import report_watch
from lvsfab.cli_common import VERIFY_FAILED

if TYPE_CHECKING:
    from lvsfab.app import App
    from lvsfab.engine import Engine
    from lvsfab.recipe import Compiled
    from lvsfab.report import Reporter

RATE = 20  # requests a second


def watch(
    report: Reporter,
    app: App,
    compiled: Compiled,
    engine: Engine,
    seconds: int,
    rate: int | None,
    sender: str,
    gap: float,
) -> None:
    """Exit status 3 if nobody answered for longer than `gap` seconds, or not exactly one director
    is active at the end.
    """
    cluster, found = app.watch(compiled, engine, seconds, rate or RATE, sender)
    if report.as_json:
        report.result(json.dumps(report_watch.to_dict(cluster, found, gap)))
    else:
        for line in report_watch.lines(cluster, found, gap):
            report.result(line)
    if report_watch.failures(cluster, found, gap):
        sys.exit(VERIFY_FAILED)
