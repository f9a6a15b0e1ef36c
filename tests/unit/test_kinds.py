"""The plan minds what a kind says of itself, for a kind that nobody knew before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar, Self

from msgspec.structs import replace

from lvsfab import deadman, journal, scripts
from lvsfab.journal import Entry
from lvsfab.plan import Step, plan_host, quiesced, shared_addresses, stray_addresses, unfinished
from lvsfab.session import Command, command
from lvsfab.states.base import Others, Resource, State, Way


class Pool(State, frozen=True, kw_only=True):
    """A made-up kind: a balancer's pool, on `address` of `dev`, with members of its own kind."""

    kind: ClassVar[str] = "pool"
    reader: ClassVar[str] = ":"

    name: str
    weight: int = 1
    parts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.name

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        del have
        return (command("pool", key, "-" if want is None else str(want.weight)),)

    @classmethod
    def places(cls, key: str) -> tuple[str, str] | None:
        return key, "eth0"

    @property
    def shared(self) -> str:
        return self.name

    def members(self, key: str) -> tuple[Resource, ...]:
        return tuple(Resource(type(self), f"{key}/{part}", None) for part in self.parts)

    def drained(self, addresses: Collection[str]) -> Self | None:
        return replace(self, weight=0) if self.name in addresses else None


class Boots(Pool, frozen=True, kw_only=True):
    kind: ClassVar[str] = "boots"
    at_boot: ClassVar[bool] = True


class Moves(Pool, frozen=True, kw_only=True):
    kind: ClassVar[str] = "moves"
    moves_addresses: ClassVar[bool] = True


class Base(Pool, frozen=True, kw_only=True):
    kind: ClassVar[str] = "base"
    foundation: ClassVar[bool] = True


class Cuts(Pool, frozen=True, kw_only=True):
    kind: ClassVar[str] = "cuts"

    @classmethod
    def danger(cls, key: str, have: Self | None, want: Self | None, way: Way) -> str:
        del have, want
        return f"{key} cuts {way.peer} off"


class Later(Cuts, frozen=True, kw_only=True):
    kind: ClassVar[str] = "later"
    shows_after: ClassVar[int] = 7


class Stands(Pool, frozen=True, kw_only=True):
    kind: ClassVar[str] = "stands"
    fleeting: ClassVar[bool] = True


@dataclass
class Of:
    """A resource, what is there of it, and its entry in the journal."""

    state: Pool

    @property
    def wanted(self) -> Resource:
        return Resource(type(self.state), self.state.key, self.state)

    @property
    def entry(self) -> Entry:
        return Entry(type(self.state), self.state.key, None)


def test_what_somebody_put_into_it_goes() -> None:
    pool = Of(Pool(name="a"))
    have = {pool.wanted.id: replace(pool.state, parts=("x",))}
    plan = plan_host("h", [pool.wanted], have, [pool.entry])
    assert [str(c) for step in plan.undo for c in step.commands] == ["pool a/x -"]
    assert len(plan.conflicts) == 1


def test_it_is_drained_of_what_is_not_ready() -> None:
    pool = Of(Pool(name="192.0.2.1", weight=5))
    have = {pool.wanted.id: pool.state}
    (step,) = quiesced([pool.wanted], have, {"192.0.2.1"})
    assert [str(c) for c in step.commands] == ["pool 192.0.2.1 0"]
    assert quiesced([pool.wanted], have, {"192.0.2.2"}) == ()


def test_what_acts_at_boot_is_off_while_the_journal_changes() -> None:
    boots, old = Of(Boots(name="b")), Of(Pool(name="old"))
    have = {boots.wanted.id: boots.state, old.wanted.id: old.state}
    gone = plan_host("h", [], have, [old.entry, boots.entry], kept=[boots.wanted])
    assert [step.id for step in gone.undo] == ["boots:b", "pool:old"]
    assert [step.id for step in gone.last] == ["boots:b"]
    assert journal.durable([boots.entry])
    assert not journal.durable([old.entry])


def test_an_address_is_where_its_kind_says_it_is() -> None:
    others = Others(addresses=(("192.0.2.1", "eth0"),))
    pool, moves = Of(Pool(name="192.0.2.1")), Of(Moves(name="x"))
    shared = shared_addresses([pool.wanted])
    assert shared == {"192.0.2.1"}
    assert stray_addresses(shared, [pool.wanted], [], others) == ()
    assert stray_addresses(shared, [], [moves.entry], others) == ()
    assert stray_addresses(shared, [], [], others) == (
        "192.0.2.1 is on eth0, where the recipe does not put it",
    )


def test_a_change_that_could_cut_off_is_guarded() -> None:
    def steps(*states: Pool) -> tuple[Step, ...]:
        wanted = [Of(state).wanted for state in states]
        return plan_host("h", wanted, dict.fromkeys(r.id for r in wanted), []).apply

    way = Way(ip_address("192.0.2.9"), ip_address("192.0.2.1"))
    plain, risky = steps(Pool(name="a"), Cuts(name="c"))
    assert list(deadman.parts([plain, risky], way)) == [
        ("", (plain,)),
        ("c cuts 192.0.2.9 off", (risky,)),
    ]
    assert list(deadman.parts([plain, risky], None)) == [("", (plain, risky))]


def test_what_could_cut_off_by_another_step_is_guarded_with_those_beside_it() -> None:
    """But with none that others stand on: packages take longer than a switch waits."""
    way = Way(ip_address("192.0.2.9"), ip_address("192.0.2.1"))
    wanted = [Of(state).wanted for state in
              (Pool(name="x"), Base(name="p"), Pool(name="a"), Later(name="l"), Pool(name="b"),
               Stands(name="s"), Base(name="q"), Pool(name="y"), Cuts(name="c"))]  # fmt: skip
    steps = plan_host("h", wanted, dict.fromkeys(r.id for r in wanted), []).apply
    assert [(why, [s.resource.key for s in part]) for why, part in deadman.parts(steps, way)] == [
        ("", ["x", "p"]),
        ("l cuts 192.0.2.9 off", ["a", "l", "b", "s"]),
        ("", ["q", "y"]),
        ("c cuts 192.0.2.9 off", ["c"]),
    ]
    assert deadman.guard(steps, way).shows_after == 7
    assert deadman.guard(steps, way).seconds == deadman.LIMIT + 7
    assert deadman.guard(steps[:3], way).shows_after == 0


def test_what_stood_on_what_was_undone_may_be_gone() -> None:
    base, stands = Of(Base(name="m")), Of(Stands(name="s"))
    before = [Entry(Stands, "s", replace(stands.state, weight=7)), base.entry]
    have = {base.wanted.id: base.state, stands.wanted.id: stands.state}
    plan = plan_host("h", [], have, before)
    assert unfinished(plan.undo, {base.wanted.id: None, stands.wanted.id: None}) == []
    alone = [step for step in plan.undo if step.id == stands.wanted.id]
    assert len(unfinished(alone, {stands.wanted.id: None})) == 1


def test_what_is_added_leaves_alone_what_the_journal_has() -> None:
    old, new = Of(Base(name="old")), Of(Base(name="new"))
    journalled = [Entry(Base, "old", replace(old.state, weight=7))]
    have = {old.wanted.id: old.state, new.wanted.id: None}
    plan = plan_host("h", [new.wanted], have, journalled, undoing=False)
    assert [step.id for step in plan.steps] == ["base:new"]
    assert not plan.forget
    assert plan.keep_last == (*journalled, new.entry)
    assert plan_host("h", [new.wanted], have, journalled).forget


def test_what_is_added_asks_only_for_itself() -> None:
    wanted = [Of(Pool(name="a")).wanted]
    assert "/journal" in scripts.read_script("unit", wanted)
    alone = scripts.read_script("unit", wanted, undoing=False)
    assert "/journal" not in alone
    assert "rec have:pool:a read_pool a" in alone
