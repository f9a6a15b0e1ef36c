"""What the command line offers, without the command line: open an inventory, its lab, a run.

Nothing here prints or reads the environment beyond what names the user of a lock.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from lvsfab import sources
from lvsfab.errors import InputError, LabError, UnreachableError
from lvsfab.inventory import NAME
from lvsfab.model import Cluster, Inventory, IPNetwork, Secret
from lvsfab.session import Shell

if TYPE_CHECKING:  # what runs alone need is loaded by them: `run` and `hosts` start without it
    from lvsfab.engine import Emit, Engine
    from lvsfab.labs.base import Lab
    from lvsfab.outcome import Outcome
    from lvsfab.plan import HostPlan
    from lvsfab.recipe import Compiled
    from lvsfab.transports.endpoint import Endpoint
    from lvsfab.verify.verdict import Verdict
    from lvsfab.verify.watch import Watched


MAX_MARK = 64 * 1024  # characters; what --set says is on a command line
_ANEW = "lvsfab up MODE says it anew, lvsfab down takes it back"


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is up, as the director remembers it: a recipe, what was --set, and whether it survives
    a reboot.
    """

    recipe: str
    sets: dict[str, str]
    persist: bool = False

    @property
    def told(self) -> str:
        words = [f"{name}={value}" for name, value in self.sets.items()]
        words += ["persist"] if self.persist else []
        return self.recipe + (f" ({', '.join(words)})" if words else "")


@dataclass(frozen=True, slots=True)
class UpResult:
    compiled: Compiled
    outcome: Outcome


class App:
    """One inventory and what can be done with it. `emit` receives the engine's events."""

    def __init__(self, inventory: Inventory, emit: Emit) -> None:
        self.inventory = inventory
        self.emit = emit
        self.sudo_password: Secret | None = None
        self.connect_timeout: float | None = None  # s; None: as usual
        self._lab: Lab | None = None

    # the lab ---------------------------------------------------------------------------------

    @property
    def lab(self) -> Lab | None:
        if self._lab is None and self.inventory.lab is not None:
            from lvsfab.labs import open_lab  # only labs need it

            self._lab = open_lab(self.inventory)
        return self._lab

    def progress(self, text: str) -> None:
        self._note("", text)

    def _note(self, host: str, text: str) -> None:
        from lvsfab.engine import Event

        self.emit(Event("note", host, text))

    def ensure_lab(self) -> None:
        """Bring the lab up when the inventory is a lab's and it, or a host of it, is not up."""
        if self.lab is not None and not self.lab.whole():
            self.lab.up(self.progress)

    # connections -----------------------------------------------------------------------------

    def endpoint(self, name: str) -> Endpoint:
        from lvsfab.transports.endpoint import Endpoint  # where hosts are reached

        ssh = self.inventory.hosts[name].ssh
        lab = self.lab
        if lab is not None:
            login = lab.login(name)
            return Endpoint(
                name=name,
                address=login.address,
                port=login.port,
                user=ssh.user or login.user,
                key=login.key,
                host_key=login.host_key,
                sudo=ssh.sudo,
                sudo_password=self.sudo_password,
                connect_timeout=self.connect_timeout,
                dial=lambda timeout: _dial(lab, name, timeout),
            )
        return Endpoint(
            name,
            ssh.host or name,
            ssh.port,
            ssh.user,
            ssh.key,
            sudo=ssh.sudo,
            sudo_password=self.sudo_password,
            connect_timeout=self.connect_timeout,
        )

    def connect(self, name: str) -> Shell:
        from lvsfab.scripts import prelude
        from lvsfab.transports.ssh import connect

        return Shell(name, connect(self.endpoint(name)), prelude())

    def engine(self, *, break_lock: bool = False) -> Engine:
        from lvsfab.engine import Engine

        return Engine(self.inventory.name, self.connect, self.emit, break_lock=break_lock)

    # runs ------------------------------------------------------------------------------------

    def compile(self, recipe: str, sets: Mapping[str, str]) -> Compiled:
        from lvsfab import recipe as recipes

        found = recipes.load(recipes.find(recipe))
        return recipes.compile_recipe(found, self.inventory, sets)

    def plan(self, compiled: Compiled, engine: Engine) -> Mapping[str, HostPlan]:
        return engine.plan(compiled, skip_unreachable=False)

    def up(
        self,
        compiled: Compiled,
        sets: Mapping[str, str],
        engine: Engine,
        *,
        skip_unreachable: bool = False,
        only: Collection[str] = (),
        adopt: bool = False,
        rollback: bool = False,
        persist: bool = False,
    ) -> Outcome:
        mark = msgspec.json.encode(Mark(compiled.recipe.name, dict(sets), persist)).decode()
        return engine.up(
            compiled,
            owner(),
            mark=mark,
            skip_unreachable=skip_unreachable,
            only=only,
            adopt=adopt,
            rollback=rollback,
            keep=persist,
        )

    def narrowed(self, compiled: Compiled, hosts: Collection[str]) -> Compiled:
        """The same recipe for some of its hosts alone; the directors are always among them, for
        they send to the others.
        """
        directors = compiled.cluster.directors if compiled.cluster else ()
        kept = {n: h for n, h in self.inventory.hosts.items() if n in hosts or n in directors}
        return replace(compiled, inventory=replace(self.inventory, hosts=kept))

    def down(self, engine: Engine) -> Outcome:
        directors = [host.name for host in self.inventory.with_role("director")]
        return engine.down(tuple(self.inventory.hosts), owner(), directors)

    def what_is_up(self, engine: Engine, *, lock: bool = False) -> tuple[Compiled, Mark]:
        """The recipe that is up, and the directors' word on it. InputError if none is, or where
        they differ: one of them decides nothing for another. `lock`: for a change, so that it stays
        true while the engine's shells live, and none of them may say nothing.
        """
        hosts = dict.fromkeys(self.inventory.hosts, ())
        reads, errors = engine.read(hosts, owner=owner() if lock else "")
        directors = [host.name for host in self.inventory.with_role("director")]
        said = {n: _mark(n, reads[n].mark) for n in directors if n in reads and reads[n].mark}
        if not said:
            for error in errors.values():
                raise error
            from lvsfab import recipe as recipes

            raise InputError("nothing is up", tip=f"lvsfab up {'|'.join(recipes.known())}")
        (first, mark), *others = said.items()
        for other, found in others:
            if found != mark:
                raise InputError(
                    f"the directors differ: {first} says that {mark.told} is up, {other} that "
                    f"{found.told} is",
                    tip=_ANEW,
                )
        compiled = self.compile(mark.recipe, mark.sets)
        taking_part = compiled.cluster.directors if compiled.cluster is not None else ()
        silent = [name for name in taking_part if name in reads and name not in said]
        if lock and silent:
            raise InputError(
                f"the directors differ: {first} says that {mark.told} is up, "
                f"{', '.join(silent)} that nothing is",
                tip=_ANEW,
            )
        for other, trouble in errors.items():
            self._note(other, f"left out: {trouble.message}")
        return compiled, mark

    def weighed(
        self, compiled: Compiled, sets: Mapping[str, str], server: str, weight: int | None
    ) -> dict[str, str]:
        """`sets` with `server` at `weight` (None: at what the inventory says)."""
        names = [s.name for s in compiled.cluster.real_servers] if compiled.cluster else []
        if server not in names:
            raise InputError(
                f"`{server}` is no real server of {compiled.recipe.name}",
                tip=f"real servers: {', '.join(names)}",
            )
        weights: dict[str, int] = dict(compiled.parameters["weights"] or {})
        weights.pop(server, None)
        if weight is not None:
            weights[server] = weight
        changed = {key: text for key, text in sets.items() if key != "weights"}
        if weights:
            changed["weights"] = ",".join(f"{name}:{value}" for name, value in weights.items())
        return changed

    def verify(
        self,
        compiled: Compiled,
        engine: Engine,
        requests: int,
        *,
        sender: str = "",
        rate: int | None = None,
        pool: IPNetwork | None = None,
    ) -> Verdict:
        """`sender`: the host that sends the requests, else the recipe's client; `rate`: requests
        a second, at most; `pool`: addresses that it takes to send from.
        """
        from lvsfab.verify import verify  # only verify needs it

        if compiled.cluster is None:
            raise InputError(f"recipe {compiled.recipe.name} describes no cluster to verify")
        return verify(
            replace(compiled.cluster, client=sender or compiled.cluster.client),
            self.inventory,
            engine.shells,
            requests=requests,
            rate=rate,
            pool=pool,
            progress=self.progress,
        )

    def watch(
        self, compiled: Compiled, engine: Engine, seconds: int, rate: int, sender: str = ""
    ) -> tuple[Cluster, Watched]:
        """Ask the service for so long, at that rate; what the directors are before and after. The
        cluster of the answer is the one that was watched.
        """
        from lvsfab.verify import run  # only verify needs it

        cluster = compiled.cluster
        if cluster is None:
            raise InputError(f"recipe {compiled.recipe.name} describes no cluster to watch")
        cluster = replace(cluster, client=sender or cluster.client)
        found = run.watch(
            cluster, self.inventory, engine.shells, seconds, rate, progress=self.progress
        )
        engine.renew(cluster.directors)  # one of them may have gone, and come back
        return cluster, replace(found, after=run.look_at_directors(cluster, engine.shells))

    def pool(self, text: str) -> IPNetwork:
        """The network that --sources means. InputError where it is none, or a host's."""
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise InputError(f"`{text}` is no network: {error}", key="--sources") from None
        for host in self.inventory.hosts.values():
            for face in host.interfaces:
                if any(own.ip in network for own in face.addresses):
                    raise InputError(f"{network} has an address of {host.name}", key="--sources")
        return network

    def check_client(self, name: str) -> None:
        """InputError unless `name` is a host with role client."""
        clients = [host.name for host in self.inventory.with_role("client")]
        if name not in clients:
            raise InputError(
                f"`{name}` is no client",
                key="--from",
                tip=f"hosts with role client: {', '.join(clients) or 'none'}",
            )


def _mark(host: str, text: str) -> Mark:
    """What a host says is up. It names a recipe, and never a file: that would be one of ours."""
    try:
        if len(text) > MAX_MARK:
            raise InputError(f"{host}: its word on what is up is too long", tip=_ANEW)
        mark = msgspec.json.decode(text, type=Mark)
    except msgspec.MsgspecError as unread:
        told = f"{host}: its word on what is up cannot be read: {unread}"
        raise InputError(told, tip=_ANEW) from None
    if not NAME.fullmatch(mark.recipe):
        raise InputError(f"{host}: what it says is up is no recipe's name", tip=_ANEW)
    return mark


def _dial(lab: Lab, name: str, timeout: float) -> socket.socket:
    """A host of a lab that is up, and that does not answer, is unreachable like any other."""
    try:
        return lab.dial(name, timeout)
    except LabError as error:
        if not lab.running():
            raise
        raise UnreachableError(name, error.message.removeprefix(f"{name}: ")) from None


def open_app(what: str, emit: Emit) -> App:
    return App(sources.load(what), emit)


def owner() -> str:
    """Who holds a lock: user@machine, process. One line of printable text."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    text = f"{user}@{socket.gethostname()} process {os.getpid()}"
    return "".join(c if c.isprintable() else "?" for c in text)
