"""One task on one host, over one shell."""

from __future__ import annotations

import time
from collections.abc import Callable

from lvsfab.errors import CommandError
from lvsfab.execute.fleet import STOPPING, Watch
from lvsfab.execute.script import run_script
from lvsfab.execute.task import MAX_TIMEOUT, TIMED_OUT, HostResult, State, Task
from lvsfab.session import Shell

Line = Callable[[str, str], None]  # host, one line of output without its end


def run_on(
    connect: Callable[[str], Shell], task: Task, script: str, watch: Watch, line: Line | None = None
) -> Callable[[str], HostResult]:
    """What `fleet.each` does on each host. `connect` opens a shell with script.PRELUDE; `script`
    is run_script(task), made once for all.
    """

    def one(host: str) -> HostResult:
        began = time.monotonic()
        held: list[str] = []  # blank lines wait: the frame ends with one that is not output

        def on_line(_: str, text: str) -> None:
            held.append(text)
            if text and line is not None:
                for each in held:
                    line(host, each)
                held.clear()

        shell = connect(host)
        try:
            watch.begin(host, shell, task.timeout or None)
            limit = (task.timeout or MAX_TIMEOUT) + STOPPING + 5.0
            told = on_line if line is not None else None
            records = shell.run(script, timeout=limit, on_line=told, what="the command")
        finally:
            late = watch.end(host)
            shell.close()
        seconds = time.monotonic() - began
        runs = [record for record in records if record.id == "run"]
        if not runs:
            raise CommandError(host, "has no room for what was sent (mktemp, base64)")
        (record,) = runs
        if line is not None:
            for text in held[:-1]:
                line(host, text)
        if late:
            error = f"timed out after {task.timeout:g} s; stopped there"
            return HostResult(host, State.FAILED, TIMED_OUT, record.output, error, seconds=seconds)
        state = State.OK if record.status == 0 else State.FAILED
        return HostResult(host, state, record.status, record.output, seconds=seconds)

    return one


__all__ = ["run_on", "run_script"]
