"""lvsfab from Python: what the command line does, typed. `import lvsfab; lvsfab.Fleet(...)`.

    fleet = lvsfab.Fleet("lab")
    done = fleet.run("role:real_server", "uname", "-r")
    for host, result in done.results.items():
        print(host, result.state, result.output)
    fleet.state("rs*", "sysctl", name="net.ipv4.ip_forward", value="1")

Methods raise InputError before any host is touched; what goes wrong on a host is in the results.
Progress (the engine's events) goes to `emit`; nothing is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvsfab.errors import InputError, UnreachableError
from lvsfab.execute import fleet as loop
from lvsfab.execute.done import Done, Meant, Target, Told
from lvsfab.execute.limits import MOST, Limits
from lvsfab.execute.task import HostResult, State, Task
from lvsfab.model import Host, Inventory, Secret

if TYPE_CHECKING:
    from lvsfab.app import App
    from lvsfab.engine import Event
    from lvsfab.execute.states import Adding
    from lvsfab.facts import Facts
    from lvsfab.recipe import Compiled
    from lvsfab.session import Shell

FACTS_TIMEOUT = 60.0  # s for one host

Line = Callable[[str, str], None]


def _ignore(_: object) -> None: ...


class Fleet:
    """The hosts of one inventory: a file, the name of one, `hosts:a,b`, `ssh_config`, an Ansible
    inventory (see docs/executor.md), or an Inventory value. A lab is brought up if it is not.
    `sudo_password`: what sudo on the hosts is told where it asks; `connect_timeout`: seconds.
    """

    def __init__(
        self,
        inventory: str | Path | Inventory = "lab",
        *,
        emit: Callable[[Event], None] = _ignore,
        sudo_password: str = "",
        connect_timeout: float | None = None,
        app: App | None = None,
    ) -> None:
        if app is None:
            from lvsfab.app import App, open_app

            if isinstance(inventory, Inventory):
                app = App(inventory, emit)
            else:
                app = open_app(str(inventory), emit)
        if sudo_password:
            app.sudo_password = Secret(sudo_password)
        if connect_timeout is not None:
            app.connect_timeout = connect_timeout
        self.app = app
        self._facts: dict[str, Facts] = {}
        self._ready = False

    @property
    def inventory(self) -> Inventory:
        return self.app.inventory

    def hosts(self, target: Target = "*") -> tuple[Host, ...]:
        """The hosts that a target means. Facts are asked of hosts where it speaks of them."""
        return self.select(target).hosts

    def select(self, target: Target) -> Meant:
        """The same, and the hosts that could not be asked. What takes a target takes the answer,
        so that hosts are asked once.
        """
        from lvsfab.targets import check, select, wants_facts

        if isinstance(target, Meant):
            return target
        if not isinstance(target, str):
            unknown = [name for name in target if name not in self.inventory.hosts]
            if unknown or not target:
                raise InputError(f"no such hosts: {', '.join(unknown) or '(none named)'}")
            return Meant(tuple(self.inventory.hosts[name] for name in target))
        if not wants_facts(target):
            return Meant(select(target, self.inventory).hosts)
        from lvsfab.facts import lacking

        check(target, lacking)
        missing = [name for name in self.inventory.hosts if name not in self._facts]
        asked = self._gather(missing)
        if asked.interrupted:  # hosts not asked yet would be taken for such without facts
            raise KeyboardInterrupt
        flat = {name: facts.flat() for name, facts in self._facts.items()}
        found = select(target, self.inventory, flat.get)
        why = f"no facts, so whether `{target}` means it is unknown: "
        failed = [asked.results[name] for name in found.unknown]
        return Meant(found.hosts, tuple(replace(r, error=why + r.error) for r in failed))

    def run(
        self,
        target: Target,
        *argv: str,
        task: Task | None = None,
        sudo: bool = False,
        limits: Limits | None = None,
        via: str = "",
        on_line: Line | None = None,
        on_result: Told = _ignore,
        **how: Any,
    ) -> Done:
        """Run a command: `argv`, or `task`, or Task's own fields (shell=..., script=..., cwd=...).

        `via`: dask://HOST:PORT, whose workers do it (docs/scale.md). `on_line` is told each line
        as it comes (from several threads), `on_result` each host's end.
        """
        from lvsfab.execute.remote import run_on, run_script
        from lvsfab.execute.script import PRELUDE

        task = task or Task(argv=argv, **how)
        meant = self.select(target)
        names = meant.names
        if via:
            from lvsfab.execute.via_dask import run_via  # an extra

            found = [self.app.endpoint(name) for name in names]
            endpoints = [replace(e, sudo=e.sudo or sudo) for e in found]
            bounds = limits or Limits()
            found_via = run_via(via, endpoints, task, bounds, on_line, on_result)
            return _done(names, found_via).also(meant, on_result)
        watch = loop.Watch()
        work = run_on(self._opener(PRELUDE, sudo), task, run_script(task), watch, on_line)
        return self._each(names, work, limits, on_result, watch).also(meant, on_result)

    def facts(
        self,
        target: Target = "*",
        *,
        sudo: bool = False,
        limits: Limits | None = None,
        on_result: Told = _ignore,
    ) -> tuple[dict[str, Facts], Done]:
        """Each host's facts, read anew, and how asking went."""
        meant = self.select(target)
        done = self._gather(meant.names, limits, on_result, sudo).also(meant, on_result)
        return {name: self._facts[name] for name in meant.names if name in self._facts}, done

    def put(
        self,
        target: Target,
        source: str | Path,
        path: str,
        *,
        mode: str = "",
        owner: str = "",
        group: str = "",
        dry_run: bool = False,
        sudo: bool = False,
        limits: Limits | None = None,
        on_hosts: Callable[[Sequence[str]], None] = _ignore,
        on_result: Told = _ignore,
    ) -> Done:
        """Copy the file `source` to `path` on each host; skipped where it is equal. `on_hosts` is
        told which hosts, before the first is begun.
        """
        from lvsfab import copy

        local, want = copy.Local(Path(source)), copy.Wanted(path, mode, owner, group)
        return self._with_shells(
            target, sudo, limits, on_hosts, on_result,
            lambda s: copy.put(s, local, want, dry=dry_run),
        )  # fmt: skip

    def get(
        self,
        target: Target,
        path: str,
        directory: str | Path,
        *,
        most: int = MOST,
        dry_run: bool = False,
        sudo: bool = False,
        limits: Limits | None = None,
        on_hosts: Callable[[Sequence[str]], None] = _ignore,
        on_result: Told = _ignore,
    ) -> Done:
        """Copy `path` of each host to `directory`/HOST/NAME here; skipped where it is equal. A file
        of more than `most` bytes is refused.
        """
        from lvsfab import copy

        name = Path(copy.absolute(path)).name
        if name in ("", ".."):
            raise InputError(f"`{path}` names no file")
        return self._with_shells(
            target, sudo, limits, on_hosts, on_result,
            lambda s: copy.get(s, path, Path(directory) / s.host / name, dry=dry_run, most=most),
        )  # fmt: skip

    def state(
        self,
        target: Target,
        kind: str,
        *,
        dry_run: bool = False,
        sudo: bool = False,
        adopt: bool = False,
        break_lock: bool = False,
        limits: Limits | None = None,
        on_result: Told = _ignore,
        **fields: Any,
    ) -> Done:
        """Bring one resource about on each host (fields as in a recipe; absent=True: gone).

        What was there is in the host's journal: `lvsfab down` undoes it. `adopt`: what somebody
        else put in the way is changed too; `break_lock`: the run that holds a host's lock ends.
        """
        from lvsfab.execute.states import compile_state

        meant = self.select(target)
        compiled = compile_state(self.inventory, meant.hosts, kind, fields)
        adding = self._adding(sudo, break_lock)
        done = self._states(compiled, adding, dry_run, adopt, limits, on_result)
        return done.also(meant, on_result)

    def apply(
        self,
        recipe: str | Path,
        sets: Mapping[str, str] | None = None,
        *,
        dry_run: bool = False,
        sudo: bool = False,
        adopt: bool = False,
        break_lock: bool = False,
        limits: Limits | None = None,
        on_result: Told = _ignore,
    ) -> Done:
        """A recipe of one's own, added to what is up: nothing is undone. Its steps follow each
        other, each within the limits; of several none is begun unless every host can have them all.
        """
        compiled = replace(self.app.compile(str(recipe), dict(sets or {})), cluster=None)
        adding = self._adding(sudo, break_lock)
        return self._states(compiled, adding, dry_run, adopt, limits, on_result)

    # within ------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        if not self._ready:
            self.app.ensure_lab()
            self._ready = True

    def _opener(self, prelude: str, sudo: bool = False) -> Callable[[str], Shell]:
        self._bring_up()
        return opener(self.app, prelude, sudo)

    def _each(
        self,
        names: Sequence[str],
        work: loop.Work,
        limits: Limits | None,
        on_result: Told,
        watch: loop.Watch,
    ) -> Done:
        return _done(names, loop.each(names, work, limits or Limits(), on_result, watch))

    def _with_shells(
        self,
        target: Target,
        sudo: bool,
        limits: Limits | None,
        on_hosts: Callable[[Sequence[str]], None],
        on_result: Told,
        what: Callable[[Shell], HostResult],
    ) -> Done:
        from lvsfab import copy

        meant = self.select(target)
        on_hosts(meant.names)
        connect = self._opener(copy.PRELUDE, sudo)
        return self._on_shells(meant.names, connect, limits, on_result, what).also(meant, on_result)

    def _on_shells(
        self,
        names: Sequence[str],
        connect: Callable[[str], Shell],
        limits: Limits | None,
        on_result: Told,
        what: Callable[[Shell], HostResult],
    ) -> Done:
        watch = loop.Watch()

        def one(host: str) -> HostResult:
            shell = connect(host)
            try:
                watch.begin(host, shell)
                return what(shell)
            finally:
                watch.end(host)
                shell.close()

        return self._each(names, one, limits, on_result, watch)

    def _gather(
        self,
        names: Sequence[str],
        limits: Limits | None = None,
        on_result: Told = _ignore,
        sudo: bool = False,
    ) -> Done:
        from lvsfab import facts

        def one(shell: Shell) -> HostResult:
            began = time.monotonic()
            records = shell.run(facts.SCRIPT, timeout=FACTS_TIMEOUT, what="its facts")
            self._facts[shell.host] = facts.read(shell.host, records)
            return HostResult(shell.host, State.OK, 0, seconds=time.monotonic() - began)

        return self._on_shells(names, self._opener("", sudo), limits, on_result, one)

    def _adding(self, sudo: bool, break_lock: bool) -> Adding:
        """What makes an engine that adds to what is there."""
        from lvsfab.execute.states import AddingEngine
        from lvsfab.scripts import prelude

        connect = self._opener(prelude(), sudo)
        name = self.inventory.name
        return lambda emit, watch: AddingEngine(name, connect, emit, watch, break_lock=break_lock)

    def _states(
        self,
        compiled: Compiled,
        adding: Adding,
        dry_run: bool,
        adopt: bool,
        limits: Limits | None,
        on_result: Told,
    ) -> Done:
        from lvsfab.app import owner
        from lvsfab.execute.states import added

        found, plans = added(
            compiled, adding, self.app.emit, owner(), limits or Limits(), on_result,
            dry_run=dry_run, adopt=adopt,
        )  # fmt: skip
        done = _done(compiled.hosts, found)
        done.plans = plans
        return done


def _done(names: Sequence[str], found: loop.Fleet) -> Done:
    results = {name: found.results[name] for name in names}
    return Done(results, found.interrupted, found.unsure)


def opener(app: App, prelude: str, sudo: bool = False) -> Callable[[str], Shell]:
    """How shells with `prelude` are opened on the hosts of an inventory."""
    from lvsfab.session import Shell
    from lvsfab.transports.ssh import connect

    def open_shell(host: str) -> Shell:
        endpoint = app.endpoint(host)
        return Shell(host, connect(replace(endpoint, sudo=endpoint.sudo or sudo)), prelude)

    return open_shell


__all__ = [
    "Done", "Fleet", "HostResult", "Limits", "Meant", "State", "Task", "UnreachableError",
]  # fmt: skip
