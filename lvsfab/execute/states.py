"""States ad hoc: one resource on many hosts, or a recipe of one's own, added to what is there.

The engine does the work, so diff, journal and re-read are those of recipes. What differs: nothing
is undone (a recipe that is up stays up), so what is added lasts until `down`, or until the next
`up`, which leaves nothing that its recipe does not want.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lvsfab.document import Document
from lvsfab.engine import Emit, Engine, Event
from lvsfab.errors import CommandError, ConflictError, HostError, InputError
from lvsfab.execute.fleet import Fleet, Round, Told, Watch, failure, rounds
from lvsfab.execute.limits import Limits
from lvsfab.execute.task import HostResult, State
from lvsfab.files import content
from lvsfab.model import Host, Inventory
from lvsfab.plan import HostPlan, unopposed
from lvsfab.recipe import Compiled, Phase, Recipe, RecipeDoc
from lvsfab.session import Shell
from lvsfab.states import BUILDERS, KINDS
from lvsfab.states.base import Context

T = TypeVar("T")
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


class AddingEngine(Engine):
    """An engine that leaves alone what a journal has and nobody here wants."""

    undoing = False

    def __init__(
        self,
        name: str,
        connect: Callable[[str], Shell],
        emit: Emit,
        watch: Watch,
        *,
        break_lock: bool = False,
    ) -> None:
        super().__init__(name, connect, emit, break_lock=break_lock)
        self._watch = watch

    def each(
        self, hosts: Iterable[str], work: Callable[[str], T]
    ) -> tuple[dict[str, T], dict[str, HostError]]:
        """In this thread: there is one host, and the program's end waits for no pool's threads."""
        results: dict[str, T] = {}
        errors: dict[str, HostError] = {}
        for host in hosts:
            try:
                results[host] = work(host)
            except HostError as error:
                errors[host] = error
        return results, errors

    def shell(self, host: str) -> Shell:
        """Once all was told to stop, no host gets a new one."""
        if host in self.shells:
            return self.shells[host]
        self._watch.check(host)
        shell = super().shell(host)
        self._watch.begin(host, shell)
        return shell

    def plan(self, compiled: Compiled, **options: Any) -> dict[str, HostPlan]:
        hosts = {name: compiled.inventory.hosts[name] for name in compiled.hosts}
        inventory = replace(compiled.inventory, hosts=hosts)
        # one host alone knows no other's MAC: it asks nobody who has the VIP
        narrowed = replace(compiled, inventory=inventory, cluster=None)
        return super().plan(narrowed, **options)


def arguments(kind: str, words: Sequence[str]) -> dict[str, Any]:
    """What `lvsfab state TARGET KIND WORD...` gives a kind. NAME=VALUE; a word without `=` is the
    kind's first field; `sysctl net.ipv4.ip_forward=1` is name and value; `NAME=@FILE` a file's
    content as it is, `NAME=@@TEXT` is @TEXT; a list or an object is given as JSON.
    """
    if kind not in BUILDERS:
        raise InputError(
            f"no resource kind `{kind}`", tip=f"there are: {', '.join(sorted(BUILDERS))}"
        )
    fields = KINDS[kind].__struct_fields__ if kind in KINDS else ()
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals and fields and fields[0] not in found:
            given = {fields[0]: word}
        elif not equals:
            raise InputError(f"`{word}` is not NAME=VALUE", key=kind)
        elif kind == "sysctl" and "." in name:
            given = {"name": name, "value": text}
        else:
            given = _value(kind, name, text)
        for twice in found.keys() & given.keys():
            raise InputError(
                f"`{word}`: {twice} was given before",
                key=kind,
                tip="one state is one resource; `lvsfab apply` carries out a file of many",
            )
        found |= given
    return found


def _value(kind: str, name: str, text: str) -> dict[str, Any]:
    if name == "absent":
        if text.lower() not in _WORDS:
            raise InputError(f"absent=`{text}`: true or false", key=kind)
        return {name: _WORDS[text.lower()]}
    if text.startswith("@") and not text.startswith("@@"):
        return {name: _of_file(kind, Path(text[1:]))}
    if _structured(kind, name, text):
        try:
            return {name: json.loads(text)}
        except ValueError as error:
            tip = f"""{name}='["a", "b"]' or {name}='{{"a": "b"}}'"""
            raise InputError(f"{name}: not JSON: {error}", key=kind, tip=tip) from None
    return {name: text.removeprefix("@") if text.startswith("@@") else text}


def _of_file(kind: str, path: Path) -> str:
    """A file's text, its line ends as they are."""
    try:
        return content(path, given=True).decode()
    except UnicodeDecodeError:
        raise InputError(
            "is no text (UTF-8)", path=path, key=kind, tip="`lvsfab put` sends any file"
        ) from None
    except InputError as error:
        raise InputError(error.message, path=path, key=kind) from None


def _structured(kind: str, name: str, text: str) -> bool:
    """Whether a field is a list or an object, so that its value is JSON. The words that mean
    several resources have no field of free text: what looks like JSON there is.
    """
    if kind not in KINDS:
        return text[:1] in ("[", "{")
    hint = get_type_hints(KINDS[kind]).get(name)
    return any(get_origin(part) in (list, tuple, dict) for part in (hint, *get_args(hint)))


def compile_state(
    inventory: Inventory, hosts: Sequence[Host], kind: str, args: Mapping[str, Any]
) -> Compiled:
    """One recipe line on hosts, as a recipe with one phase."""
    if kind not in BUILDERS:
        raise InputError(
            f"no resource kind `{kind}`", tip=f"there are: {', '.join(sorted(BUILDERS))}"
        )
    resources = {
        host.name: BUILDERS[kind].build(args, Context(inventory, host, {})) for host in hosts
    }
    doc = Document(Path("state"), {}, {})
    recipe = Recipe(doc, RecipeDoc(name="state", title=f"state {kind}", steps=[]), {})
    return Compiled(recipe, inventory, {}, (Phase("state", resources),), None)


Planned = Callable[[HostPlan], None]
Adding = Callable[[Emit, Watch], AddingEngine]


class Engines:
    """An engine for each host. `keep`: from one round of work to the next, until `close`."""

    def __init__(self, adding: Adding, emit: Emit, watch: Watch, *, keep: bool) -> None:
        def told(event: Event) -> None:
            if event.what != "phase":  # it is each engine's, of one host
                emit(event)

        self._make = partial(adding, told, watch)
        self._watch = watch
        self._keep = keep
        self._kept: dict[str, AddingEngine] = {}

    @contextmanager
    def of(self, host: str) -> Iterator[AddingEngine]:
        engine = self._kept.setdefault(host, self._make()) if self._keep else self._make()
        try:
            yield engine
        finally:
            if not self._keep:
                self._watch.end(host)
                engine.close()

    def close(self) -> None:
        for engine in self._kept.values():
            engine.close()


def state_on(
    compiled: Compiled,
    engines: Engines,
    owner: str,
    planned: Planned | None = None,
    *,
    adopt: bool = False,
) -> Callable[[str], HostResult]:
    """What `fleet.each` does on each host of a compiled recipe. With `planned` nothing is changed:
    it is told the plan. `adopt`: as the engine has it.
    """

    def one(host: str) -> HostResult:
        began = time.monotonic()
        mine = tuple(
            Phase(phase.on, {host: phase.resources[host]})
            for phase in compiled.phases
            if host in phase.resources
        )
        alone = replace(compiled, phases=mine)
        try:
            with engines.of(host) as engine:
                if planned is not None:
                    plan = engine.plan(alone)[host]
                    planned(plan)
                    changes = len(plan.steps)
                else:
                    outcome = engine.up(alone, owner, adopt=adopt)
                    if host in outcome.failed:
                        return failure(host, outcome.failed[host], time.monotonic() - began)
                    changes = outcome.changes
        except (InputError, ConflictError) as error:  # the plan cannot be carried out on this host
            raise CommandError(host, error.message, tip=error.tip) from None
        seconds = time.monotonic() - began
        return HostResult(host, State.OK, 0, changes=changes, seconds=seconds)

    return one


def added(
    compiled: Compiled,
    adding: Adding,
    emit: Emit,
    owner: str,
    limits: Limits,
    told: Told,
    *,
    dry_run: bool,
    adopt: bool,
) -> tuple[Fleet, dict[str, HostPlan]]:
    """Phase by phase, each within the limits. Of several phases none is begun unless every host can
    have them all. A dry run gives the plans.
    """
    plans: dict[str, HostPlan] = {}
    several = len(compiled.phases) > 1

    def planned(plan: HostPlan) -> None:
        plans[plan.host] = plan
        if not (dry_run or adopt):
            unopposed([plan])

    def looked(host: str) -> HostResult:  # what is planned is made in the rounds to come
        result = look(host)
        return result if dry_run else replace(result, changes=0)

    def begun(now: Round) -> None:
        if now.name:
            emit(Event("phase", text=now.name))

    watch = Watch()
    engines = Engines(adding, emit, watch, keep=several)
    look = state_on(compiled, engines, owner, planned)
    todo = [Round("", compiled.hosts, looked)] if dry_run or several else []
    for phase in () if dry_run else compiled.phases:
        work = state_on(replace(compiled, phases=(phase,)), engines, owner, adopt=adopt)
        todo.append(Round(phase.on if several else "", tuple(phase.resources), work))
    try:
        found = rounds(todo, limits, told, watch, begun)
    finally:
        engines.close()
    return found, {h: plans[h] for h in compiled.hosts if h in plans and dry_run}
