"""What people and programs see: progress on standard error, results on standard output.

Whatever is said, by hosts, files or ourselves, is cleaned of control characters where it is written
(`Reporter._print`): nobody who says something has to. Colours are no part of a text, but what it is
wrapped in (`Painted`). `--json` gives one document, or one event a line where it streams; each
carries a versioned `schema`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from lvsfab.errors import CommandError, HostError, InputError, LvsfabError

if TYPE_CHECKING:  # a tenth of a second that `run` and `hosts` can do without
    from lvsfab.audit import Given, Run
    from lvsfab.engine import Engine, Event
    from lvsfab.model import Host
    from lvsfab.outcome import Outcome
    from lvsfab.plan import HostPlan, Step
    from lvsfab.states.base import Change

EVENT = "lvsfab.event/1"
PLAN = "lvsfab.plan/1"
HOSTS = "lvsfab.hosts/1"
ERROR = "lvsfab.error/1"

_GREEN, _RED, _YELLOW, _DIM, _BOLD = "32", "31", "33", "2", "1"
_HOST_COLOURS = ("36", "35", "34", "33", "32", "31")


def clean(text: str) -> str:
    """`text` without anything that could move a cursor or change a terminal: control characters
    (C0, C1, DEL), bidirectional overrides and the like are written as escapes.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


@dataclass(frozen=True, slots=True)
class Painted:
    """A text in a colour, where it is written to a terminal; within another text it has none."""

    text: str
    colour: str

    def __str__(self) -> str:
        return self.text


Part = str | Painted


class Reporter:
    """Prints events and results, as text or as JSON, from any thread."""

    def __init__(self, *, as_json: bool = False, verbose: int = 0) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self._lock = threading.Lock()
        self._width = 0
        self._colours: dict[str, str] = {}
        self.asked = ""  # the command, and what a record of the run says of it
        self.about: dict[str, Any] = {}
        self.changed: dict[str, list[str]] = {}
        self.given: list[Given] = []
        self.hosts_ended: dict[str, Any] = {}
        self.began = time.time()
        self.unrecorded = ""  # why the history has not got it, once that was said

    # the two streams ---------------------------------------------------------------------------

    def say(self, *parts: Part) -> None:
        """A line of progress: its parts, a blank between them."""
        self._print(parts, sys.stderr)

    def result(self, *parts: Part) -> None:
        self._print(parts, sys.stdout)

    def _print(self, parts: Sequence[Part], stream: TextIO, *, anew: bool = False) -> None:
        """`anew`: on a terminal that is empty. NO_COLOR: as no-color.org has it, what is empty
        says nothing.
        """
        terminal = stream.isatty() and not self.as_json
        colours = terminal and not os.environ.get("NO_COLOR")
        text = " ".join(
            f"\x1b[{part.colour}m{clean(part.text)}\x1b[0m"
            if colours and isinstance(part, Painted)
            else clean(str(part))
            for part in parts
        )
        text = "\x1b[H\x1b[2J" + text if anew and terminal else text
        try:
            with self._lock:
                print(text, file=stream, flush=True)
        except BrokenPipeError:  # nobody reads any more: the command line ends the program
            raise
        except OSError as error:
            name = "standard error" if stream is sys.stderr else "standard output"
            raise LvsfabError(f"{name} cannot be written: {error.strerror}") from None

    def document(self, schema: str, body: Mapping[str, Any]) -> None:
        self.result(json.dumps({"schema": schema, **body}, ensure_ascii=True))

    # events of a run ---------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        if event.what in ("step", "undone") and event.step is not None:
            sign = "-" if event.step.undo else ""
            with self._lock:
                self.changed.setdefault(event.host, []).append(sign + event.step.id)
        if self.as_json:
            self.document(EVENT, event_data(event))
            return
        if event.what in ("step", "undone") and event.step is not None:
            mark = Painted("-", _YELLOW) if event.step.undo else Painted("+", _GREEN)
            self.say(self.host(event.host), mark, step_line(event.step))
            if self.verbose:
                for command in event.step.commands:
                    self.say(Painted(f"{'':{self._width}}     {command}", _DIM))
        elif event.what == "failed":
            self.say(self.host(event.host), Painted("FAILED", _RED), event.text)
        elif event.what == "phase":
            self.say(Painted(f"-- {event.text}", _DIM))
        elif event.what == "note":
            self.say(*([self.host(event.host)] if event.host else []), event.text)
        elif self.verbose:
            self.say(self.host(event.host), f"{event.what} in {event.seconds:.2f} s")

    def host(self, name: str) -> Painted:
        """A host's name as lines begin with it."""
        self._width = max(self._width, len(name), 8)
        colour = self._colours.setdefault(
            name, _HOST_COLOURS[len(self._colours) % len(_HOST_COLOURS)]
        )
        return Painted(f"{name:{self._width}}", colour)

    # results -----------------------------------------------------------------------------------

    def plans(self, plans: Mapping[str, HostPlan]) -> None:
        """What `up` would change, host by host, field by field."""
        if self.as_json:
            hosts = {h: [step_data(s) for s in p.steps] for h, p in plans.items()}
            total = sum(map(len, hosts.values()))
            conflicts = {h: list(p.conflicts) for h, p in plans.items() if p.conflicts}
            self.document(PLAN, {"changes": total, "hosts": hosts, "conflicts": conflicts})
            return
        for host, plan in plans.items():
            if plan.steps or plan.conflicts:
                self.result(Painted(host, _BOLD))
            for conflict in plan.conflicts:
                self.result(" ", Painted("!", _RED), f"in the way: {conflict}")
            for step in plan.steps:
                sign = "-" if step.undo else "+"
                self.result(f"  {sign} {step_line(step)}")
                if self.verbose:
                    for command in step.commands:
                        self.result(f"      {command}")
        self.result(counted(plans))

    def outcome(self, word: str, outcome: Outcome, seconds: float, engine: Engine) -> None:
        self.hosts_ended = {
            "done": outcome.done,
            "failed": {host: error.message for host, error in outcome.failed.items()},
            "not_reached": outcome.not_reached,
            "returned": outcome.returned,
        }
        changes = sum(len(outcome.plans[host].steps) for host in outcome.done)
        hosts = sum(bool(outcome.plans[host].steps) for host in outcome.done)
        if self.as_json:
            body = {
                "event": "result",
                "did": word,
                "changes": changes,
                "began": round(time.time() - seconds, 3),  # s since 1970
                "seconds": round(seconds, 3),
                "done": outcome.done,
                "failed": {host: str(error) for host, error in outcome.failed.items()},
                "not_reached": outcome.not_reached,
                "returned": outcome.returned,
                "handshakes": engine.handshakes,
                "execs": engine.execs,
            }
            self.document(EVENT, body)
            return
        text = f"{word}: {changes} changes on {hosts} hosts in {seconds:.1f} s"
        if outcome.failed:
            text += f"; failed: {', '.join(outcome.failed)}"
        if outcome.not_reached:
            text += f"; not reached: {', '.join(outcome.not_reached)}"
        if outcome.errors and outcome.done:
            text += f"; done: {', '.join(outcome.done)}"
        if outcome.returned:
            text += f"; brought back to what they were: {', '.join(outcome.returned)}"
        self.say(Painted(text, _RED if outcome.errors else _GREEN))

    def screen(self, lines: Sequence[str], *, again: bool) -> None:
        """Lines that replace the last ones on a terminal, when they come `again` and again."""
        self._print(["\n".join(lines)], sys.stdout, anew=again)

    def output(self, host: str, line: str) -> None:
        """A line that a command printed on a host."""
        if not self.as_json:
            self.result(self.host(host), line)

    def hosts(self, hosts: Iterable[Host]) -> None:
        found = [host_data(host) for host in hosts]
        if self.as_json:
            self.document(HOSTS, {"hosts": found})
            return
        rows = []
        for host in found:
            where = f"[{host['address']}]" if ":" in host["address"] else host["address"]
            where = where if host["port"] is None else f"{where}:{host['port']}"
            login = f"{host['user']}@{where}" if host["user"] else where
            rows.append((host["name"], host["roles"], host["groups"], login))
        for line in table(rows):
            self.result(line)

    def error(self, error: LvsfabError) -> None:
        if self.as_json:
            body: dict[str, Any] = {
                "error": type(error).__name__,
                "message": str(error),
                "tip": error.tip,
                "exit_code": error.exit_code,
            }
            if isinstance(error, HostError):
                body["host"] = error.host
            if isinstance(error, CommandError):
                body |= {"command": error.command, "status": error.status, "output": error.output}
            if isinstance(error, InputError):
                path = str(error.path) if error.path is not None else None
                body |= {"path": path, "line": error.line, "key": error.key}
            self.document(ERROR, body)
            return
        self.say(Painted("error:", _RED), str(error))
        if error.tip:
            self.say(Painted("tip:", _YELLOW), error.tip)


def step_line(step: Step) -> str:
    """One step as a person reads it: the resource, and the fields that change."""
    head = f"{step.resource.type.kind} {step.resource.key}"
    if step.resource.state is None:
        return f"{head}  removed"
    if step.have is None:  # all of it is new: what its key does not say already
        known = set(re.split(r"[][ :>@-]+", head))
        said = [f"{c.field} {_short(c.want)}" for c in step.changes if c.want not in known]
        return f"{head}  {', '.join(said)}".rstrip()
    return f"{head}  {', '.join(_change(c) for c in step.changes)}"


def _change(change: Change) -> str:
    return f"{change.field} {_short(change.have)} -> {_short(change.want)}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def step_data(step: Step) -> dict[str, Any]:
    return {
        "kind": step.resource.type.kind,
        "key": step.resource.key,
        "undo": step.undo,
        "changes": [{"field": c.field, "have": c.have, "want": c.want} for c in step.changes],
        "commands": [str(command) for command in step.commands],
    }


def event_data(event: Event) -> dict[str, Any]:
    body: dict[str, Any] = {"event": event.what}
    if event.host:
        body["host"] = event.host
    if event.text:
        body["text"] = event.text
    if event.step is not None:
        body["step"] = step_data(event.step)
    if event.seconds:
        body["seconds"] = round(event.seconds, 3)
    return body


def host_data(host: Host) -> dict[str, Any]:
    """A host as the inventory has it. `groups`: those that are no roles; `address`: its own, else
    the one to log in to; `port`, `user`: as the inventory says (None, "": it does not).
    """
    return {
        "name": host.name,
        "roles": ",".join(sorted(host.roles)),
        "groups": ",".join(sorted(host.groups - host.roles)),
        "address": str(host.address() or host.address(6) or host.ssh.host),
        "port": host.ssh.port,
        "user": host.ssh.user,
    }


def history_lines(runs: Sequence[Run], *, as_json: bool) -> list[str]:
    """Runs as lines: as recorded, or a table (when, who, what, changes, how it ended)."""
    if as_json:
        return [json.dumps(msgspec.to_builtins(run)) for run in runs]  # ASCII, as `document` has it
    rows = []
    for run in runs:
        changes = sum(map(len, run.changed.values()))
        ended = "good" if run.exit == 0 else f"exit {run.exit}" if run.ended else "not ended"
        told = [f"failed: {', '.join(run.failed)}"] if run.failed else []
        told += [f"not reached: {', '.join(run.not_reached)}"] if run.not_reached else []
        what = f"{changes} on {len(run.changed)} hosts"
        asked = " ".join(" ".join(run.asked).split())
        asked = asked if len(asked) <= 60 else asked[:57] + "..."
        rows.append((run.at, run.who, asked, what, "; ".join([ended, *told])))
    return table(rows, ("when", "who", "asked", "changed", "ended"))


def counted(plans: Mapping[str, HostPlan]) -> str:
    changes = sum(len(plan.steps) for plan in plans.values())
    hosts = sum(bool(plan.steps) for plan in plans.values())
    return f"{changes} changes on {hosts} hosts" if changes else "nothing to change"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> list[str]:
    """Rows as aligned plain lines, cleaned."""
    lines = [[clean(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    if not lines:
        return []
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
