"""What every command of the command line shares: options, opening an inventory, exit codes, the
user's own records.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from lvsfab.app import App
    from lvsfab.audit import Given
    from lvsfab.model import Secret
    from lvsfab.report import Reporter

CHANGES_PENDING = 2
VERIFY_FAILED = 3
BAD_INPUT = 64
INTERRUPTED = 130
BROKEN_PIPE = 141
ASK_SUDO = "lvsfab.ask-sudo"
CONNECT_TIMEOUT = "lvsfab.connect-timeout"
AUDITED = {
    "up", "down", "drain", "restore", "run", "put", "get", "state", "apply", "capture",
    "lab up", "lab down", "lab reboot",
}  # fmt: skip


def settings(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words, as --set takes them."""
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"`{value}` is not KEY=VALUE", ctx, param)
        found[key] = text
    return found


class Seconds(click.FloatRange):
    """A time within bounds: what is no number (`nan`) is within none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return float(seconds)


def common(*, sets: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that every command has; the command is given its Reporter."""

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def with_report(
            *,
            as_json: bool,
            verbose: int,
            listed: str,
            ask_sudo: bool,
            connect_timeout: float | None,
            **kwargs: Any,
        ) -> None:
            from lvsfab.report import Reporter

            report = Reporter(as_json=as_json, verbose=verbose)
            context = click.get_current_context()
            report.asked = "" if kwargs.get("dry_run") else _name(context)
            report.given = given(context)
            context.find_root().obj = report
            context.meta[ASK_SUDO] = ask_sudo
            context.meta[CONNECT_TIMEOUT] = connect_timeout
            if listed:
                kwargs["inventory"] = f"hosts:{listed}"
            function(report=report, **kwargs)

        options = [
            click.option("-i", "--inventory", default="lab", show_default=True, metavar="FILE",
                         help="Inventory file, or the name of one in inventory/."),
            click.option("-H", "--host", "listed", default="", metavar="A,B,...",
                         help="These hosts ([user@]host[:port]) instead of an inventory."),
            click.option("-K", "--ask-sudo-password", "ask_sudo", is_flag=True,
                         help="Ask once for what sudo on the hosts is told."),
            click.option("--connect-timeout", type=Seconds(0.1, 3600), metavar="SECONDS",
                         help="For a host to accept the connection and the login; else 15."),
            click.option("--json", "as_json", is_flag=True, help="JSON on standard output."),
            click.option("-v", "--verbose", count=True, help="Say more; show commands."),
        ]  # fmt: skip
        if sets:
            options.append(
                click.option("--set", "sets", multiple=True, callback=settings, metavar="KEY=VALUE",
                             help="A recipe parameter; may be given often.")
            )  # fmt: skip
        decorated: Callable[..., None] = with_report
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return wrap


backend_option = click.option(
    "--backend", type=click.Choice(["rootless", "docker"]), default=None,
    help="Where the lab's hosts run; else as the inventory says, or what fits.",
)  # fmt: skip

adopt_option = click.option(
    "--adopt", is_flag=True, help="Change what somebody else put in the way, too."
)
break_lock_option = click.option(
    "--break-lock", is_flag=True, help="End the run that holds a host's lock, and take it."
)
sudo_option = click.option("--sudo", is_flag=True, help="As root, by sudo -n.")


def _name(context: click.Context) -> str:
    """The command as the history has it: `up`, `lab up`."""
    above = context.parent.info_name if context.parent and context.parent.parent else None
    return " ".join(filter(None, (above, context.info_name)))


def given(context: click.Context) -> list[Given]:
    """What stands on the command line, parameter by parameter, however it was spelt there."""
    from lvsfab.audit import Given

    found = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        option = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else ""
        if isinstance(value, Mapping):
            words = [f"{key}={text}" for key, text in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words = [str(each) for each in value]
        else:
            flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
            words = [] if flag else [str(value)]
        found.append(Given(name, option, words))
    if command := context.params.get("command"):  # what stands after `--`, no parameter of click's
        found.append(Given("command", "", command))
    return found


def open_app(report: Reporter, inventory: str, backend: str | None = None) -> App:
    from dataclasses import replace

    from lvsfab.app import open_app as opened

    app = opened(inventory, report.event)
    report.about["inventory"] = app.inventory.name
    if backend is not None and app.inventory.lab is not None:
        lab = replace(app.inventory.lab, backend=backend)
        app.inventory = replace(app.inventory, lab=lab)
    app.connect_timeout = click.get_current_context().meta.get(CONNECT_TIMEOUT)
    if click.get_current_context().meta.get(ASK_SUDO):
        app.sudo_password = sudo_password()
    if report.asked != "up":  # it knows later what it is to be resumed with
        begin(report)
    return app


def sudo_password() -> Secret:
    """Asked for on the terminal; where there is none, a line of standard input."""
    from lvsfab.errors import InputError
    from lvsfab.model import Secret

    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass("sudo password: ")
    else:
        text = sys.stdin.readline().removesuffix("\n")
    if not text or not text.isprintable():
        raise InputError("no password was given", key="--ask-sudo-password")
    return Secret(text)


def state_folder() -> Path:
    """Where a user's own records are (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local/state") / "lvsfab"


def begin(report: Reporter) -> None:
    """A line for the history before a run comes to its hosts: one that is killed leaves that."""
    _record(report, seconds=0.0, ended=False, exit=-1)


def record(report: Reporter, code: int) -> None:
    """The line of a run's end."""
    seconds = round(time.time() - report.began, 3)
    _record(report, seconds=seconds, changed=report.changed, exit=code, **report.hosts_ended)


def _record(report: Reporter, **ended: Any) -> None:
    """One line, for commands that can change hosts or take something from them; says so if it
    cannot be.
    """
    if report.asked not in AUDITED:
        return
    from lvsfab import audit
    from lvsfab.app import owner
    from lvsfab.errors import LvsfabError

    run = audit.Run(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(report.began)),
        who=owner(),
        command=report.asked,
        asked=audit.asked(report.asked, report.given),
        inventory=report.about.get("inventory", ""),
        recipe=report.about.get("recipe", ""),
        persist=report.about.get("persist", False),
        adopt=report.about.get("adopt", False),
        skip_unreachable=report.about.get("skip_unreachable", False),
        rollback=report.about.get("rollback", False),
        sets=audit.masked_sets(report.about.get("sets", {})),
        **ended,
    )
    try:
        audit.append(state_folder(), run)
    except LvsfabError as error:
        told = f"warning: {error}; {error.tip}" if error.tip else f"warning: {error}"
        if told != report.unrecorded:  # once
            report.unrecorded = told
            report.say(told)
