"""The history of runs, on the command line: `lvsfab history`, and what a resume goes on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lvsfab.cli_common import state_folder

if TYPE_CHECKING:
    from lvsfab.audit import Run


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
