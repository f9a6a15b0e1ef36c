"""The history of runs, on the command line: what is written after each, and `lvsfab history`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from lvsfab.cli_common import state_folder

if TYPE_CHECKING:
    from lvsfab.audit import Run
    from lvsfab.report import Reporter

AUDITED = {
    "up", "down", "drain", "restore", "run", "put", "get", "state", "apply", "capture",
    "lab up", "lab down", "lab reboot",
}  # fmt: skip


def record(report: Reporter, began: float, code: int) -> None:
    """One line for the history, for commands that can change hosts or take something from them;
    says so if it cannot be.
    """
    if report.asked not in AUDITED:
        return
    from lvsfab import audit
    from lvsfab.app import owner
    from lvsfab.errors import LvsfabError

    run = audit.Run(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        seconds=round(time.time() - began, 3),
        who=owner(),
        command=report.asked,
        asked=audit.asked(report.asked, report.given),
        inventory=report.about.get("inventory", ""),
        recipe=report.about.get("recipe", ""),
        persist=report.about.get("persist", False),
        adopt=report.about.get("adopt", False),
        skip_unreachable=report.about.get("skip_unreachable", False),
        sets=audit.masked_sets(report.about.get("sets", {})),
        changed=report.changed,
        exit=code,
        **report.hosts_ended,
    )
    try:
        audit.append(state_folder(), run)
    except LvsfabError as error:
        report.say(f"warning: {error}; {error.tip}" if error.tip else f"warning: {error}")


def last_up(inventory: str, mode: str | None, sets: dict[str, str]) -> Run:
    from lvsfab import audit
    from lvsfab.errors import InputError

    found = audit.last_up(state_folder(), inventory)
    if mode is not None or sets:
        raise InputError("--resume goes on with the last up: give no MODE and no --set")
    if found is None or audit.MASK in found.sets.values():
        raise InputError(
            f"the history has no `up` of inventory {inventory} that can be gone on with",
            tip="lvsfab up MODE does what is left to do, on all hosts",
        )
    return found


@click.command()
@click.option("-n", "--last", type=click.IntRange(1), default=20, show_default=True,
              help="How many runs.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as they were recorded.")
def history(last: int, as_json: bool) -> None:
    """Who ran what, what it changed where, and how it ended."""
    from lvsfab import audit
    from lvsfab.report import Reporter, history_lines

    runs = audit.read(state_folder())[-last:]
    report = Reporter(as_json=as_json)
    for line in history_lines(runs, as_json=as_json):
        report.result(line)
