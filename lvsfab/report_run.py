"""What `run` and its like show: live lines, groups of equal output, JSON; the failed ones last."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lvsfab.execute.task import HostResult, State
from lvsfab.report import Painted, Reporter, table

if TYPE_CHECKING:
    from lvsfab.facts import Facts

RUN = "lvsfab.run/1"
LAST_LINES = 5

_GREEN, _RED, _YELLOW, _DIM, _BOLD = "32", "31", "33", "2", "1"


class RunReport:
    """Listens to one run. `grouped`: equal outputs are shown once, at the end."""

    def __init__(self, report: Reporter, names: Iterable[str], *, grouped: bool = False) -> None:
        self._report = report
        self._grouped = grouped
        self._lock = threading.Lock()
        self.names(names)

    def names(self, names: Iterable[str]) -> None:
        """Whom it is about: the widest name first, or columns would shift as hosts answer."""
        for name in names:
            self._report.host(name)

    def begin(self, what: str) -> None:
        """What will be run, for those who want to know more."""
        if self._report.verbose:
            self._report.say(Painted(f"-- {what}", _DIM))

    def timed(self, result: HostResult) -> None:
        """As each host ends, for those who want to know more."""
        if self._report.verbose:
            status = "" if result.status is None else f", exit status {result.status}"
            told = f"{result.state}{status}, {result.seconds:.2f} s"
            self._report.say(self._report.host(result.host), Painted(told, _DIM))

    @property
    def wants_lines(self) -> bool:
        return not (self._grouped or self._report.as_json)

    def line(self, host: str, text: str) -> None:
        with self._lock:
            self._report.output(host, text)

    def result(self, result: HostResult) -> None:
        """As each host ends."""
        if self._report.as_json:
            self._report.document(RUN, result_data(result))
        self.timed(result)

    def unless_ok(self, result: HostResult) -> None:
        """Where something else is shown of hosts on which all is well."""
        if result.state is State.OK:
            self.timed(result)
        else:
            self.result(result)

    def moved(self, result: HostResult) -> None:
        """As each host of a copy ends."""
        self.result(result)
        if not self._report.as_json and result.state is State.OK:
            sign = Painted("+", _GREEN) if result.changes else "="
            self._report.say(self._report.host(result.host), sign, result.output)

    def ended(
        self,
        results: Mapping[str, HostResult],
        *,
        interrupted: bool = False,
        unsure: Sequence[str] = (),
    ) -> None:
        """The end: groups, then who did not succeed and why, then what Ctrl-C did."""
        self._report.hosts_ended = sorted_out(results)
        if self._report.as_json:
            for result in results.values():
                if result.state is State.NOT_RUN:
                    self._report.document(RUN, result_data(result))
        elif self._grouped:
            for hosts, result in grouped(results.values()):
                head = f"{', '.join(hosts)} ({len(hosts)})"
                if result.status:
                    head += f": exit status {result.status}"
                self._report.result(Painted(head, _BOLD))
                for line in result.output.rstrip("\n").split("\n"):
                    self._report.result(f"  {line}")
        self._failures(results)
        if interrupted:
            stopped = [
                h for h, r in results.items() if r.state is State.STOPPED and h not in unsure
            ]
            if stopped or not unsure:
                told = f"stopped on {', '.join(stopped)}" if stopped else "nothing was running"
                self._report.say(f"interrupted: {told}")
            if unsure:
                self._report.say(
                    f"interrupted: no word from {', '.join(unsure)}; their commands end as soon "
                    "as they see that the connection is gone"
                )

    def _failures(self, results: Mapping[str, HostResult]) -> None:
        bad = [r for r in results.values() if r.state not in (State.OK, State.NOT_RUN)]
        waiting = [r.host for r in results.values() if r.state is State.NOT_RUN]
        report = self._report
        for state in (State.STOPPED, State.FAILED, State.UNREACHABLE):
            for result in (r for r in bad if r.state is state):
                self._failure(result)
        if bad or waiting:
            parts = [f"{sum(r.state is State.OK for r in results.values())} ok"]
            states = [r.state for r in bad]
            parts += [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
            if waiting:
                parts.append(f"{len(waiting)} not run")
            report.say(Painted(f"{len(results)} hosts: {', '.join(parts)}", _RED))

    def _failure(self, result: HostResult) -> None:
        report = self._report
        word = Painted(str(result.state).upper(), _RED)
        report.say(report.host(result.host), word, _why(result))
        for line in _last(result):
            report.say(report.host(""), f"  {line}")
        if result.tip and not report.as_json:
            report.say(report.host(""), Painted("tip:", _YELLOW), result.tip)


def grouped(results: Iterable[HostResult]) -> list[tuple[list[str], HostResult]]:
    """Hosts whose command printed and ended the same, largest group first."""
    groups: dict[tuple[str, int | None], list[HostResult]] = {}
    for result in results:
        if result.state in (State.OK, State.FAILED):
            groups.setdefault((result.output, result.status), []).append(result)
    found = sorted(groups.values(), key=len, reverse=True)
    return [([r.host for r in group], group[0]) for group in found]


def sorted_out(results: Mapping[str, HostResult]) -> dict[str, Any]:
    """Hosts as the history has them."""
    bad = {h: r for h, r in results.items() if r.state not in (State.OK, State.NOT_RUN)}
    return {
        "done": [h for h, r in results.items() if r.state is State.OK],
        "failed": {h: _why(r) or str(r.state) for h, r in bad.items()},
        "not_reached": [h for h, r in results.items() if r.state is State.NOT_RUN],
    }


def result_data(result: HostResult) -> dict[str, Any]:
    body: dict[str, Any] = {"host": result.host, "state": str(result.state)}
    if result.status is not None:
        body |= {"status": result.status, "output": result.output}
    elif result.output:
        body["output"] = result.output
    if result.error:
        body["error"] = result.error
    if result.tip:
        body["tip"] = result.tip
    if result.state is State.OK and result.changes:
        body["changes"] = result.changes
    if result.state is not State.NOT_RUN:
        body["seconds"] = round(result.seconds, 3)
    return body


def print_facts(report: Reporter, found: Mapping[str, Facts]) -> None:
    for host, facts in found.items():
        if report.as_json:
            from lvsfab import facts as fact

            report.document(fact.SCHEMA, fact.document(host, facts))
        else:
            for line in facts_lines(host, facts):
                report.result(line)


def facts_lines(host: str, facts: Facts) -> list[str]:
    """One host for a person."""
    rows = [
        ("system", f"{facts.os_name or facts.os} ({facts.machine}), init {facts.init}"),
        ("kernel", f"{facts.kernel}, up {facts.uptime:.0f} s"),
        ("machine", f"{facts.processors} processors, {facts.memory // 1024} MiB"),
    ]
    rows += [
        (f"LVS {mode}", f"lacks {', '.join(lacks)}" if lacks else "can")
        for mode, lacks in facts.able.items()
    ]
    for state in ("present", "loadable", "absent"):
        names = [name for name, is_ in facts.modules.items() if is_ == state]
        rows.append((f"{state}", " ".join(names) or "-"))
    rows += [
        (device.name, " ".join([device.state, f"mtu {device.mtu}", *device.addresses]))
        for device in facts.interfaces
    ]
    rows += [("route", route) for route in facts.routes]
    for name, value in facts.sysctls.items():
        if value.effective != value.value:
            rows.append((name, f"{value.value} (in effect {value.effective})"))
    rows += [("tool", f"{name} {t.version or t.path}") for name, t in facts.tools.items()]
    return [host, *(f"  {line}" for line in table(rows))]


def _why(result: HostResult) -> str:
    return result.error or (f"exit status {result.status}" if result.status is not None else "")


def _last(result: HostResult) -> list[str]:
    return [line for line in result.output.splitlines() if line.strip()][-LAST_LINES:]
