"""The command line. Thin: each command opens an `App`, asks it, and reports.

Exit codes: 0 good, 1 an error of ours, 2 changes pending (plan), 3 verify failed, 4 a host
unreachable, 5 a host's command failed, 64 bad input, 130 interrupted, 141 nobody reads what it
prints any more.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lvsfab import __version__
from lvsfab.cli_capture import capture
from lvsfab.cli_common import (
    BAD_INPUT,
    BROKEN_PIPE,
    CHANGES_PENDING,
    INTERRUPTED,
    VERIFY_FAILED,
    adopt_option,
    backend_option,
    begin,
    break_lock_option,
    common,
    open_app,
    record,
)
from lvsfab.cli_history import history
from lvsfab.cli_lab import lab
from lvsfab.cli_run import COMMANDS

if TYPE_CHECKING:
    from lvsfab.report import Reporter


class Commands(click.Group):
    """Lists commands in the order of a person's day, and loads `lab` only when it is asked."""

    order = ("up", "plan", "verify", "status", "down", "drain", "restore", "run", "hosts",
             "facts", "put", "get", "state", "apply", "capture", "history", "lab",
             "schema")  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: self.order.index(n) if n in self.order else 99)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lvsfab")
def cli() -> None:
    """From bare machines to a proven Linux Virtual Server cluster, over plain SSH.

    With no inventory of your own, a lab of real kernels is brought up on this machine:

    \b
      lvsfab up tun       build LVS-TUN and prove it
      lvsfab verify       prove it again
      lvsfab down         every host back to what it was
    """  # noqa: D301 - click's mark of lines that stay as they are


requests_option = click.option(
    "-n", "--requests", type=click.IntRange(1, 100_000), default=60, show_default=True,
    help="How many client requests to send.",
)  # fmt: skip


persist_option = click.option(
    "--persist", is_flag=True, help="What is built comes back when a host is booted again."
)


@cli.command()
@click.argument("mode", required=False)
@requests_option
@click.option("--no-verify", is_flag=True, help="Leave the proof out.")
@click.option(
    "--skip-unreachable",
    is_flag=True,
    help="Go on without hosts that do not answer: directors send them nothing. Exit status 4.",
)
@adopt_option
@click.option("--rollback", is_flag=True, help="If a host fails, all go back to what they were.")
@click.option(
    "--resume", is_flag=True, help="The last `up` again, on the hosts that it left undone."
)
@persist_option
@break_lock_option
@backend_option
@common(sets=True)
def up(
    report: Reporter,
    inventory: str,
    backend: str | None,
    mode: str | None,
    sets: dict[str, str],
    requests: int,
    no_verify: bool,
    resume: bool,
    break_lock: bool,
    skip_unreachable: bool,
    adopt: bool,
    rollback: bool,
    persist: bool,
) -> None:
    """Build MODE (nat, dr, tun or a recipe of your own) and prove it."""
    app = open_app(report, inventory, backend)
    left: tuple[str, ...] | None = None
    if resume:
        from lvsfab.cli_history import last_up

        found = last_up(app.inventory.name, mode, sets)
        mode, sets, left = found.recipe, found.sets, found.left
        persist = persist or found.persist
        adopt = adopt or found.adopt
        skip_unreachable = skip_unreachable or found.skip_unreachable
        rollback = rollback or found.rollback
        if left == ():
            report.say(f"nothing to go on with: every host of `up {mode}` is done")
            return
        told = ", ".join(left) if left else "all hosts, for the last run ended before it could say"
        report.say(f"goes on with `up {mode}`: {told}")
    if mode is None:
        raise click.UsageError("Missing argument 'MODE'.")
    compiled = app.compile(mode, sets)
    report.about |= {"recipe": mode, "sets": sets, "persist": persist}
    report.about |= {"adopt": adopt, "skip_unreachable": skip_unreachable, "rollback": rollback}
    app.ensure_lab()
    begin(report)
    began = time.monotonic()
    with app.engine(break_lock=break_lock) as engine:
        part = compiled if left is None else app.narrowed(compiled, left)
        outcome = app.up(
            part,
            sets,
            engine,
            skip_unreachable=skip_unreachable,
            adopt=adopt,
            rollback=rollback,
            persist=persist,
        )
        report.outcome(f"up {mode}", outcome, time.monotonic() - began, engine)
        for error in outcome.errors:
            raise error
        if not no_verify and compiled.cluster is not None:
            engine.each(app.inventory.hosts, engine.shell)  # after a resume, those not yet met
            prove(report, app.verify(compiled, engine, requests), None)


@cli.command()
@click.argument("mode")
@persist_option
@common(sets=True)
def plan(report: Reporter, inventory: str, mode: str, sets: dict[str, str], persist: bool) -> None:
    """Show what `up MODE` would change, field by field. Exit status 2 if anything."""
    app = open_app(report, inventory)
    compiled = app.compile(mode, sets)
    app.ensure_lab()
    with app.engine() as engine:
        plans = engine.plan(compiled, keep=persist)
    report.plans(plans)
    if any(found.steps or found.conflicts for found in plans.values()):
        sys.exit(CHANGES_PENDING)


@cli.command()
@requests_option
@click.option("--from", "sender", default="", metavar="HOST", help="The client that asks.")
@click.option("--rate", type=click.IntRange(1, 1000), help="Requests a second, at most.")
@click.option("--sources", default="", metavar="NETWORK",
              help="Free addresses that lead to the client, to send from.")  # fmt: skip
@click.option(
    "--for",
    "seconds",
    type=click.IntRange(1, 3600),
    metavar="SECONDS",
    help="Only ask, 20 times a second, while you break something; tell the longest gap.",
)
@click.option(
    "--gap",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="With --for: the longest gap allowed, in seconds.",
)
@click.option("--junit", type=click.Path(dir_okay=False), help="Write JUnit XML to this file too.")
@common()
def verify(
    report: Reporter,
    inventory: str,
    requests: int,
    sender: str,
    rate: int | None,
    sources: str,
    seconds: int | None,
    gap: float,
    junit: str | None,
) -> None:
    """Prove that what is up does what its recipe says. Exit status 3 if not."""
    app = open_app(report, inventory)
    if sender:
        app.check_client(sender)
    pool = app.pool(sources) if sources else None
    with app.engine() as engine:
        compiled, _ = app.what_is_up(engine)
        if seconds is not None:
            from lvsfab import cli_watch

            cli_watch.watch(report, app, compiled, engine, seconds, rate, sender, gap)
            return
        verdict = app.verify(compiled, engine, requests, sender=sender, rate=rate, pool=pool)
        prove(report, verdict, junit)


def prove(report: Reporter, verdict: Any, junit: str | None) -> None:
    from lvsfab import report_verify

    if junit is not None:
        report_verify.write_junit(verdict, junit)
    if report.as_json:
        report.result(json.dumps(report_verify.to_dict(verdict)))
    else:
        report_verify.print_verdict(verdict, sys.stdout)
    if not verdict.passed:
        sys.exit(VERIFY_FAILED)


@cli.command()
@break_lock_option
@common()
def down(report: Reporter, inventory: str, break_lock: bool) -> None:
    """Every host back to exactly what it was before."""
    app = open_app(report, inventory)
    if app.lab is not None and not app.lab.running():
        report.say("the lab is not up: nothing to take down")
        return
    began = time.monotonic()
    with app.engine(break_lock=break_lock) as engine:
        outcome = app.down(engine)
        report.outcome("down", outcome, time.monotonic() - began, engine)
        for error in outcome.failed.values():
            raise error


@cli.command()
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@common()
def status(report: Reporter, inventory: str, watch: bool) -> None:
    """Virtual services, real servers, weights, connections, health."""
    from lvsfab.status import show_status

    app = open_app(report, inventory)
    with app.engine() as engine:
        show_status(app, engine, report, watch=watch)


def _weigh(report: Reporter, inventory: str, server: str, weight: int | None) -> None:
    app = open_app(report, inventory)
    began = time.monotonic()
    with app.engine() as engine:
        compiled, mark = app.what_is_up(engine, lock=True)
        sets = app.weighed(compiled, mark.sets, server, weight)
        again = app.compile(mark.recipe, sets)
        outcome = app.up(
            again, sets, engine, only=("real_server", "keepalived"), persist=mark.persist
        )
        word = "drain" if weight == 0 else "restore"
        report.outcome(f"{word} {server}", outcome, time.monotonic() - began, engine)
        for error in outcome.failed.values():
            raise error


@cli.command()
@click.argument("server", metavar="RS")
@common()
def drain(report: Reporter, inventory: str, server: str) -> None:
    """Give RS weight 0: no new connections, those it has live on."""
    _weigh(report, inventory, server, 0)


@cli.command()
@click.argument("server", metavar="RS")
@common()
def restore(report: Reporter, inventory: str, server: str) -> None:
    """Give RS its weight back."""
    _weigh(report, inventory, server, None)


@cli.command()
@click.argument("what", type=click.Choice(["inventory", "recipe"]))
def schema(what: str) -> None:
    """Print the JSON schema of inventory or recipe files, for editors."""
    from lvsfab import inventory as inventories
    from lvsfab import recipe as recipes

    found = inventories.schema() if what == "inventory" else recipes.schema()
    click.echo(json.dumps(found, indent=2))


for command in (capture, history, lab, *COMMANDS):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: the one place where errors become codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a host may say what this locale cannot
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _invoke(argv)
    except BrokenPipeError:
        code = BROKEN_PIPE
    if code == BROKEN_PIPE:  # what is still to be flushed goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
    sys.exit(code)


def _invoke(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    reports: list[Reporter] = []
    code = 1
    try:
        code = _carry_out(words, reports)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    finally:
        for report in reports:
            record(report, code)
    return code


def _carry_out(words: list[str], reports: list[Reporter]) -> int:
    from lvsfab.errors import LvsfabError

    report: Reporter | None = None
    try:
        with cli.make_context("lvsfab", words) as context:
            try:
                cli.invoke(context)
            finally:
                report = _reporter(context)
                reports += [report] if report is not None else []
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        _or_plain(report).say(said.getvalue().rstrip("\n"))  # it repeats what it was given
        return BAD_INPUT
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted; `lvsfab up` or `lvsfab down` goes on from here", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # `| head`: the end, as SIGPIPE is for other tools
        return BROKEN_PIPE
    except LvsfabError as error:
        _or_plain(report).error(error)
        return error.exit_code
    except Exception as error:
        import traceback  # a start-up can do without

        plain = _or_plain(report)
        if plain.verbose:
            plain.say(traceback.format_exc().rstrip("\n"))
        else:
            plain.say(f"error: a fault in lvsfab itself: {type(error).__name__}: {error}")
            plain.say("tip: run it again with -v and report what it prints")
        return 1
    return 0


def _reporter(context: click.Context) -> Reporter | None:
    from lvsfab.report import Reporter

    return context.obj if isinstance(context.obj, Reporter) else None


def _or_plain(report: Reporter | None) -> Reporter:
    from lvsfab.report import Reporter

    return report or Reporter()
