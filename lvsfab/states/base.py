"""The one idea: a resource is a frozen value of desired state, and reading a host returns the
same type.

A kind of resource is one file in this package with one subclass of `State`. The subclass says how
a host is read (`reader`, a POSIX function; `parse`, pure), and which commands lead from what is
there to what is wanted (`commands`, pure). Check, apply, re-read and undo all follow from that:
undo is `commands(key, now, before)`.

`None` in place of a state means the resource is absent. `None` in a field of a wanted state means
that the author did not say: any value will do. A state that was read has every field said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import msgspec

from lvsfab.errors import InputError
from lvsfab.model import Cluster, Host, Inventory, IPAddress
from lvsfab.session import Command
from lvsfab.states.words import plain

NOTE = "lvsfab-note: "  # how a line of a step that is done begins if a person should know it


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: what the host has, what is wanted (as people write them)."""

    field: str
    have: str
    want: str


class UnsupportedError(Exception):
    """The host cannot have this resource (no such module in its kernel, say). Raised by `parse`;
    the planner reports it with the host's name before anything is changed.
    """


@dataclass(frozen=True, slots=True)
class Others:
    """What else is on a host: `addresses`, each with its device (nothing of ours among them),
    `listening`: protocol and port, for UDP only where it is on every address; `macs` of its links.
    """

    addresses: tuple[tuple[str, str], ...] = ()
    listening: frozenset[tuple[str, int]] = frozenset()
    macs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Way:
    """How this controller reaches a host, as the host sees it: the controller's address and its
    own, the device and next hop back to the controller, that route's prefix length; the devices
    `below` that one (a bridge's ports, a bond's members, what a VLAN is on); its own port (0: not
    said).
    """

    peer: IPAddress
    local: IPAddress
    dev: str = ""
    via: IPAddress | None = None
    prefix: int = 0
    below: tuple[str, ...] = ()
    port: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """What must be there, and up."""
        return (self.dev, *self.below) if self.dev else ()

    @property
    def ends(self) -> set[str]:
        return {str(ip) for ip in (self.peer, self.local, self.via) if ip is not None}


@dataclass(frozen=True, slots=True)
class Context:
    """What a recipe line is compiled for: one host, the recipe's parameters, and the cluster that
    the recipe describes (None for a recipe without one).
    """

    inventory: Inventory
    host: Host
    parameters: Mapping[str, Any]
    cluster: Cluster | None = None


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A resource's state. Subclasses set `kind`, `reader` and the three pure methods.

    `kind`     the word used in recipes, the journal and messages.
    `reader`   the body of a POSIX shell function; "$1" is the key; prints what is there.
               It changes nothing, needs no standard input, ends within a second or so, and works
               in dash and busybox ash. A missing tool reads as absent, not as an error.
    `ahead`    the body of a function that is given the keys of all resources of the kind before
               they are read, and none after that: what one process can find out of all of them;
               its variables are the reader's.
    `read_only` fields that a host's answer alone fills: a recipe cannot.
    `volatile` True when a reboot undoes it (its journal entry lives in /run, else /var/lib).
    `foundation` True when others may stand on it: when modes are switched it is undone last.
    `fleeting` True when it may go along with a foundation: then absent is as good as put back.
    `at_boot`  True when it makes a boot of the host do again what is journalled: it is off while
               the journal changes, and the journal is kept where a boot leaves it.
    `comes_back` True when a boot starts it, if the host has it so, and with it comes some of what a
               reboot else undoes (keepalived loads ip_vs): the journal is kept there, too.
    `moves_addresses` True when a daemon of its puts addresses on the host, and takes them away.
    `shows_after` s after which what `danger` tells of is sure to show, at the latest once the steps
               beside it are done (a daemon's configuration, and its start): they are guarded too.
    """

    kind: ClassVar[str]
    reader: ClassVar[str]
    ahead: ClassVar[str] = ""
    volatile: ClassVar[bool] = True
    read_only: ClassVar[frozenset[str]] = frozenset()
    foundation: ClassVar[bool] = False
    fleeting: ClassVar[bool] = False
    at_boot: ClassVar[bool] = False
    comes_back: ClassVar[bool] = False
    moves_addresses: ClassVar[bool] = False
    shows_after: ClassVar[int] = 0

    @property
    def key(self) -> str:
        """What names this resource on its host. Printable ASCII without blanks, 200 at most."""
        raise NotImplementedError

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        """What the reader's output says is there; None: absent. UnsupportedError: cannot be."""
        raise NotImplementedError

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        """The commands from `have` to `want`. Asked only when they differ."""
        raise NotImplementedError

    @property
    def is_there(self) -> bool:
        """False for the states of kinds that have one for what is not there."""
        return True

    @classmethod
    def reverse(cls, key: str, now: Self | None, before: Self | None) -> tuple[Command, ...]:
        """The commands by which a host takes a step back right after it, alone: what the step stood
        on (a package) stays.
        """
        return cls.commands(key, now, before)

    def inherits(self, before: State) -> Self:
        """Itself, as what was there before, where another of its kind goes once it is made.
        `before`: what was there before that other one.
        """
        del before
        return self

    @classmethod
    def places(cls, key: str) -> tuple[str, str] | None:
        """The IP address that the resource is, and on which device; None: it is something else."""
        del key
        return None

    @property
    def shared(self) -> str:
        """The IP address that it puts on a host, if several hosts may have it (a VIP), else ""."""
        return ""

    def members(self, key: str) -> tuple[Resource, ...]:
        """What was read to be in it, as resources of their own; absent is wanted of those which
        neither a recipe nor an earlier run put there.
        """
        del key
        return ()

    def drained(self, addresses: Collection[str]) -> Self | None:
        """Itself, as it sends nothing new to these addresses; None: it sends them nothing now."""
        del addresses
        return None

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        """What somebody else put where `want` is to be and would be lost by it, in words; "":
        nothing. Asked only of what lvsfab has not changed itself.
        """
        del key, have, want, others
        return ""

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        """How the change from `have` to `want` could cut off the controller that comes by `way`,
        in words; "": it cannot.
        """
        del key, have, want, way
        return ""

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        """The resources that one recipe line means on one host. By default: the one whose
        fields the line gives; `absent: true` wants it gone.
        """
        del context
        fields = dict(args)
        plain(fields, cls.kind)
        for name in cls.read_only & set(fields):
            raise InputError(f"`{name}` is read from hosts, never wanted", key=cls.kind)
        absent = fields.pop("absent", False)
        try:
            state = msgspec.convert(fields, cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(str(error).replace(" - at `$", " at `"), key=cls.kind) from None
        return (Resource(cls, state.key, None if absent else state),)

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        """How `have` differs from this wanted state, field by field; empty: not at all."""
        found = []
        for name in self.__struct_fields__:
            want = getattr(self, name)
            was = getattr(have, name) if have is not None else None
            if want is not None and (have is None or was != want):
                found.append(Change(name, show(was), show(want)))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Resource:
    """One wanted resource on one host: its kind, its key, and the state wanted (None: absent)."""

    type: type[State]
    key: str
    state: State | None

    @property
    def id(self) -> str:
        return f"{self.type.kind}:{self.key}"


def changes(want: State | None, have: State | None) -> tuple[Change, ...]:
    """How `have` differs from `want`, where either may be absent."""
    if want is None:
        return () if have is None else (Change("", "present", "absent"),)
    return want.changes(have)


def show(value: object) -> str:
    if value is None:
        return "absent"
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
