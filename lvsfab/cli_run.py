"""The executor's part of the command line: run, hosts, facts, put, get, state, apply."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lvsfab.cli_common import (
    ASK_SUDO,
    CHANGES_PENDING,
    adopt_option,
    break_lock_option,
    common,
    open_app,
    settings,
    state_folder,
    sudo_option,
)

if TYPE_CHECKING:
    from lvsfab.api import Done, Fleet
    from lvsfab.execute.limits import Limits
    from lvsfab.report import Reporter
    from lvsfab.report_run import RunReport


def limited(function: Callable[..., None]) -> Callable[..., None]:
    """How many hosts at once, and when to stop."""
    for option in reversed([
        click.option("--parallel", type=click.IntRange(1, 4096), default=64, show_default=True,
                     metavar="N", help="Hosts at once."),
        click.option("--batch", metavar="N|P%", default="",
                     help="The next N hosts only when these are done."),
        click.option("--max-fail", metavar="N|P%", default="",
                     help="Begin no further host once so many failed."),
        click.option("--fail-fast", is_flag=True, help="The same as --max-fail 1."),
    ]):  # fmt: skip
        function = option(function)
    return function


def changing(function: Callable[..., None]) -> Callable[..., None]:
    """How states are brought about."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show the plan; exit status 2 if it changes."),
        sudo_option, adopt_option, break_lock_option,
    )[::-1]:  # fmt: skip
        function = option(function)
    return function


def _limits(parallel: int, batch: str, max_fail: str, fail_fast: bool) -> Limits:
    from lvsfab.errors import InputError
    from lvsfab.execute.limits import Limits, share

    if fail_fast and max_fail:
        raise InputError("--fail-fast and --max-fail exclude each other")
    return Limits(
        parallel,
        share(batch, "--batch") if batch else None,
        share("1" if fail_fast else max_fail, "--max-fail") if fail_fast or max_fail else None,
    )


def _fleet(report: Reporter, inventory: str) -> Fleet:
    from lvsfab.api import Fleet

    return Fleet(app=open_app(report, inventory))


def _end(done: Done) -> None:
    if done.exit_code:
        sys.exit(done.exit_code)


AFTER_DASHES = "A command goes after `--`:"


class WithCommand(click.Command):
    """A command line that ends in `-- COMMAND...`. Without `--` options of ours would be taken
    out of COMMAND (`grep -v` is not `grep`), so words of one are refused there.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        head = words[: words.index("--")] if "--" in words else words
        ctx.allow_extra_args = True
        try:
            super().parse_args(ctx, list(head))
        except click.NoSuchOption as error:
            if head is not words:
                raise
            told = f"{error.format_message()} {AFTER_DASHES} {ctx.command_path} TARGET -- COMMAND"
            raise click.UsageError(told, ctx) from None
        if ctx.args and not ctx.resilient_parsing:
            at = head.index(ctx.args[0], 1)
            right = shlex.join([*head[:at], "--", *words[at:]])
            raise click.UsageError(f"{AFTER_DASHES} {ctx.command_path} {right}", ctx)
        ctx.params["command"] = tuple(words[len(head) + 1 :])
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command(cls=WithCommand)
@click.argument("target", required=False)
@click.option("--shell", metavar="TEXT", help="Run TEXT by `sh -c` there: 'ps | wc -l'.")
@click.option("--script", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Send FILE and run it; words after -- are its arguments.")  # fmt: skip
@click.option("--stdin", type=click.Path(exists=True, dir_okay=False, allow_dash=True,
                                         path_type=Path),
              help="What the command reads; -: our own standard input.")  # fmt: skip
@sudo_option
@click.option("--cwd", metavar="DIR", default="", help="In this directory.")
@click.option("--env", multiple=True, callback=settings, metavar="NAME=VALUE",
              help="With this environment variable; may be given often.")  # fmt: skip
@click.option("--timeout", type=float, default=0.0, metavar="S", show_default="none",
              help="Seconds for each host; then it is stopped there.")  # fmt: skip
@click.option("--group", is_flag=True, help="Show equal outputs once, at the end.")
@click.option(
    "--retry-failed", is_flag=True, help="Only hosts that failed in the last run, or since."
)
@click.option("--via", metavar="URL", default="", help="dask://HOST:PORT: let its workers do it.")
@limited
@common()
def run(
    report: Reporter,
    inventory: str,
    target: str | None,
    command: tuple[str, ...],
    shell: str | None,
    script: Path | None,
    stdin: Path | None,
    sudo: bool,
    cwd: str,
    env: dict[str, str],
    timeout: float,
    group: bool,
    retry_failed: bool,
    via: str,
    **limits: Any,
) -> None:
    """Run a command on the hosts that TARGET means: lvsfab run 'rs*' -- ip addr."""
    from lvsfab.errors import InputError
    from lvsfab.execute import last
    from lvsfab.execute.task import Task, content
    from lvsfab.report_run import RunReport

    if target is None:
        if not retry_failed:
            raise InputError("no TARGET", tip="lvsfab run TARGET -- COMMAND...")
        target = "*"
    task = Task(
        argv=command,
        shell=shell,
        script=content(script) if script is not None else None,
        stdin=_stdin(stdin) if stdin is not None else None,
        cwd=cwd,
        env=env,
        timeout=timeout,
    )
    bounds = _limits(**limits)
    fleet = _fleet(report, inventory)
    memory = state_folder()
    again = last.failed_hosts(memory, fleet.inventory.name) if retry_failed else None
    meant = fleet.select(target)
    if again is not None:
        meant = meant.among(again)
        if not meant.hosts and not meant.unasked:
            report.say("in the last run no host of this target failed: nothing to do")
            return
    shown = RunReport(report, meant.names, grouped=group)
    script_words = [str(script)] if script is not None else []
    shown.begin(shell if shell is not None else shlex.join([*script_words, *command]))
    live = shown.line if shown.wants_lines else None
    done = fleet.run(
        meant, task=task, sudo=sudo, limits=bounds, via=via, on_line=live, on_result=shown.result
    )
    last.write(memory, fleet.inventory.name, done.results, again or ())
    shown.ended(done.results, interrupted=done.interrupted, unsure=done.unsure)
    _end(done)


def _stdin(path: Path) -> bytes:
    from lvsfab.errors import InputError
    from lvsfab.execute.task import MAX_SENT, content

    if str(path) != "-":
        return content(path)
    if click.get_current_context().meta.get(ASK_SUDO) and not sys.stdin.isatty():
        raise InputError("-K and --stdin - would both read standard input", tip="--stdin FILE")
    return sys.stdin.buffer.read(MAX_SENT + 1)


@click.command()
@click.argument("target", default="*")
@common()
def hosts(report: Reporter, inventory: str, target: str) -> None:
    """List the hosts that TARGET means."""
    from lvsfab.execute.done import Done
    from lvsfab.report_run import RunReport

    meant = _fleet(report, inventory).select(target)
    report.hosts(meant.hosts)
    shown = RunReport(report, ())
    done = Done({}).also(meant, shown.result)
    shown.ended(done.results)
    _end(done)


@click.command()
@click.argument("target", default="*")
@sudo_option
@limited
@common()
def facts(report: Reporter, inventory: str, target: str, sudo: bool, **limits: Any) -> None:
    """What hosts are and can: system, kernel, modules for LVS, network, sysctls, tools."""
    from lvsfab.report_run import RunReport, print_facts

    bounds = _limits(**limits)
    fleet = _fleet(report, inventory)
    shown = RunReport(report, ())
    found, done = fleet.facts(target, sudo=sudo, limits=bounds, on_result=shown.timed)
    print_facts(report, found)
    for result in done.failed.values():
        shown.result(result)
    shown.ended(done.results, interrupted=done.interrupted, unsure=done.unsure)
    _end(done)


@click.command()
@click.argument("target")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("path")
@click.option("--mode", default="", help="Octal; else that of the file there, or of SOURCE.")
@click.option("--owner", default="", metavar="USER[:GROUP]", help="Else that of the file there.")
@sudo_option
@click.option("--dry-run", is_flag=True, help="Say what would be changed; exit status 2 if so.")
@limited
@common()
def put(
    report: Reporter,
    inventory: str,
    target: str,
    source: Path,
    path: str,
    mode: str,
    owner: str,
    sudo: bool,
    dry_run: bool,
    **limits: Any,
) -> None:
    """Copy the file SOURCE to PATH on many hosts: checked, at once, skipped where equal."""
    bounds = _limits(**limits)
    fleet = _fleet(report, inventory)
    user, _, group = owner.partition(":")
    _copied(report, dry_run, lambda shown: fleet.put(
        target, source, path, mode=mode, owner=user, group=group, dry_run=dry_run, sudo=sudo,
        limits=bounds, on_hosts=shown.names, on_result=shown.moved,
    ))  # fmt: skip


@click.command()
@click.argument("target")
@click.argument("path")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--max", "most", metavar="SIZE", default="1G", show_default=True,
              help="Take no larger file: bytes, or 500M, 2G.")  # fmt: skip
@sudo_option
@click.option("--dry-run", is_flag=True, help="Say what would be changed; exit status 2 if so.")
@limited
@common()
def get(
    report: Reporter,
    inventory: str,
    target: str,
    path: str,
    directory: Path,
    most: str,
    sudo: bool,
    dry_run: bool,
    **limits: Any,
) -> None:
    """Copy the file PATH of many hosts to DIRECTORY/HOST/ here."""
    from lvsfab.execute.limits import size_of

    bounds, size = _limits(**limits), size_of(most, "--max")
    fleet = _fleet(report, inventory)
    _copied(report, dry_run, lambda shown: fleet.get(
        target, path, directory, most=size, dry_run=dry_run, sudo=sudo, limits=bounds,
        on_hosts=shown.names, on_result=shown.moved,
    ))  # fmt: skip


def _copied(report: Reporter, dry_run: bool, work: Callable[[RunReport], Done]) -> None:
    from lvsfab.report_run import RunReport

    shown = RunReport(report, ())
    done = work(shown)
    shown.ended(done.results, interrupted=done.interrupted, unsure=done.unsure)
    _end(done)
    if dry_run and any(result.changes for result in done.results.values()):
        sys.exit(CHANGES_PENDING)


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("target")
@click.argument("kind")
@click.argument("words", nargs=-1, metavar="[NAME=VALUE]...")
@changing
@limited
@common()
def state(
    report: Reporter,
    inventory: str,
    target: str,
    kind: str,
    words: Sequence[str],
    dry_run: bool,
    sudo: bool,
    adopt: bool,
    break_lock: bool,
    **limits: Any,
) -> None:
    """Bring one resource about on many hosts: lvsfab state 'rs*' sysctl net.ipv4.ip_forward=1.

    KIND is one that recipes have (sysctl, file, package, address, ...); absent=true wants it
    gone; content=@FILE reads a file. `lvsfab down` undoes it.
    """
    from lvsfab.execute.states import arguments

    fields, bounds = arguments(kind, words), _limits(**limits)
    fleet = _fleet(report, inventory)
    _changed(report, dry_run, f"state {kind}", lambda told: fleet.state(
        target, kind, dry_run=dry_run, sudo=sudo, adopt=adopt, break_lock=break_lock,
        limits=bounds, on_result=told, **fields,
    ))  # fmt: skip


@click.command()
@click.argument("recipe")
@changing
@limited
@common(sets=True)
def apply(
    report: Reporter,
    inventory: str,
    recipe: str,
    sets: dict[str, str],
    dry_run: bool,
    sudo: bool,
    adopt: bool,
    break_lock: bool,
    **limits: Any,
) -> None:
    """Add what a RECIPE of your own (a file) says to what is up; `lvsfab down` undoes it."""
    bounds = _limits(**limits)
    fleet = _fleet(report, inventory)
    _changed(report, dry_run, f"apply {recipe}", lambda told: fleet.apply(
        recipe, sets, dry_run=dry_run, sudo=sudo, adopt=adopt, break_lock=break_lock,
        limits=bounds, on_result=told,
    ))  # fmt: skip


def _changed(report: Reporter, dry_run: bool, what: str, work: Callable[[Any], Done]) -> None:
    from lvsfab.report_run import RunReport

    shown = RunReport(report, ())
    done = work(shown.unless_ok if dry_run else shown.result)
    if dry_run:
        report.plans(done.plans)
    elif not report.as_json:
        hosts = [r for r in done.results.values() if r.changes]
        changes = sum(r.changes for r in hosts)
        report.say(f"{what}: {changes} changes on {len(hosts)} of {len(done.results)} hosts")
    shown.ended(done.results, interrupted=done.interrupted, unsure=done.unsure)
    _end(done)
    if dry_run and any(plan.steps or plan.conflicts for plan in done.plans.values()):
        sys.exit(CHANGES_PENDING)


COMMANDS = (run, hosts, facts, put, get, state, apply)
