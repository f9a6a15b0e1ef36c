"""Planning with real kinds and made-up hosts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab import journal
from lvsfab.errors import InputError
from lvsfab.journal import Entry
from lvsfab.plan import Unsupported, plan_host, unfinished
from lvsfab.states.base import Resource
from lvsfab.states.ipvs_service import VirtualServiceState
from lvsfab.states.link import Link
from lvsfab.states.module import Module
from lvsfab.states.sysctl import Sysctl

FORWARD = "net.ipv4.ip_forward"
IGNORE = "net.ipv4.conf.all.arp_ignore"


def sysctl(name: str, value: str) -> Sysctl:
    return Sysctl(name=name, value=value)


def want(state: Sysctl | Link) -> Resource:
    return Resource(type(state), state.key, state)


def test_what_is_as_wanted_is_left_alone() -> None:
    plan = plan_host(
        "h", [want(sysctl(FORWARD, "1"))], {f"sysctl:{FORWARD}": sysctl(FORWARD, "1")}, []
    )
    assert plan.steps == ()
    assert plan.record == ()


def test_a_change_records_what_was_there() -> None:
    plan = plan_host(
        "h", [want(sysctl(FORWARD, "1"))], {f"sysctl:{FORWARD}": sysctl(FORWARD, "0")}, []
    )
    (step,) = plan.apply
    assert [(c.have, c.want) for c in step.changes] == [("0", "1")]
    assert plan.record == (Entry(Sysctl, FORWARD, sysctl(FORWARD, "0")),)


def test_the_first_value_recorded_wins() -> None:
    before = Entry(Sysctl, FORWARD, sysctl(FORWARD, "0"))
    plan = plan_host(
        "h", [want(sysctl(FORWARD, "1"))], {f"sysctl:{FORWARD}": sysctl(FORWARD, "5")}, [before]
    )
    assert len(plan.apply) == 1
    assert plan.record == ()


def test_what_nobody_wants_any_more_is_undone_last_first() -> None:
    entries = [Entry(Sysctl, n, sysctl(n, "0")) for n in (FORWARD, IGNORE)]
    haves = {e.id: sysctl(e.key, "1") for e in entries}
    plan = plan_host("h", [], haves, entries)
    assert [s.resource.key for s in plan.undo] == [IGNORE, FORWARD]
    assert all(s.undo for s in plan.undo)
    assert plan.keep == ()
    assert plan.forget


def test_a_module_that_came_before_its_user_was_changed_goes_after_it() -> None:
    # up with rr, up with wlc: the service is older in the journal than ip_vs_wlc
    service = Entry(VirtualServiceState, "tcp:10.1.1.100:80", None)
    module = Entry(Module, "ip_vs_wlc", Module(name="ip_vs_wlc", loaded=False, brings=()))
    have = VirtualServiceState(address="10.1.1.100", port=80, scheduler="wlc")
    haves = {service.id: have, module.id: Module(name="ip_vs_wlc")}
    plan = plan_host("h", [], haves, [service, module])
    assert [s.id for s in plan.undo] == [service.id, module.id]


def test_a_switch_keeps_what_both_modes_want() -> None:
    entries = [Entry(Sysctl, n, sysctl(n, "0")) for n in (FORWARD, IGNORE)]
    haves = {e.id: sysctl(e.key, "1") for e in entries}
    plan = plan_host("h", [want(sysctl(IGNORE, "1"))], haves, entries)
    assert [s.resource.key for s in plan.undo] == [FORWARD]
    assert [e.key for e in plan.keep] == [IGNORE]


def test_what_goes_with_its_owner_needs_no_undo() -> None:
    """conf.tunl0.* was absent before ipip was loaded; it goes when ipip goes."""
    name = "net.ipv4.conf.tunl0.rp_filter"
    plan = plan_host("h", [], {f"sysctl:{name}": sysctl(name, "2")}, [Entry(Sysctl, name, None)])
    assert plan.undo == ()
    assert plan.forget


def test_what_a_host_cannot_have_is_a_problem_before_any_change() -> None:
    plan = plan_host(
        "h", [want(sysctl(FORWARD, "1"))], {f"sysctl:{FORWARD}": Unsupported("no such")}, []
    )
    assert plan.problems == (f"sysctl:{FORWARD}: no such",)


def test_only_a_fresh_read_says_done() -> None:
    plan = plan_host(
        "h", [want(sysctl(FORWARD, "1"))], {f"sysctl:{FORWARD}": sysctl(FORWARD, "0")}, []
    )
    assert unfinished(plan.apply, {f"sysctl:{FORWARD}": sysctl(FORWARD, "1")}) == []
    ((step, told),) = unfinished(plan.apply, {f"sysctl:{FORWARD}": sysctl(FORWARD, "0")})
    assert step is plan.apply[0]
    assert "0, not 1" in told
    assert unfinished(plan.apply, {})


def test_a_value_that_conf_all_overrides_is_not_done() -> None:
    name = "net.ipv4.conf.eth0.rp_filter"
    blocked = Sysctl.parse(name, "value 0\nall 1\n")
    plan = plan_host("h", [want(sysctl(name, "0"))], {f"sysctl:{name}": blocked}, [])
    assert plan.apply or plan.problems


VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(st.sampled_from([FORWARD, IGNORE, "kernel.x"]), st.none() | VALUES)))
def test_a_journal_comes_back_as_it_was_written(entries: list[tuple[str, str | None]]) -> None:
    written = [
        Entry(Sysctl, n, None if v is None else sysctl(n, " ".join(v.split()))) for n, v in entries
    ]
    first = {e.id: e for e in reversed(written)}
    assert {e.id: e for e in journal.parse(journal.text(written))} == first


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_half_written_line_is_passed_over(cut: int) -> None:
    whole = Entry(Sysctl, FORWARD, sysctl(FORWARD, "0"))
    text = whole.line() + "\n\n" + Entry(Sysctl, IGNORE, sysctl(IGNORE, "0")).line()[:-cut]
    assert journal.parse(text) == (whole,)


@pytest.mark.parametrize(
    "line",
    [
        'newer some/key {"a":1}',
        "newer some/key null",
        f'sysctl {IGNORE} {{"name":"{IGNORE}","value":"0","newer":1}}',
        f'sysctl {IGNORE} {{"name":"{IGNORE}"}}',
        f"sysctl {IGNORE} 7",
    ],
)
def test_a_whole_line_of_another_version_is_not_passed_over(line: str) -> None:
    with pytest.raises(InputError, match=line.split(maxsplit=1)[0]):
        journal.parse(Entry(Sysctl, FORWARD, sysctl(FORWARD, "0")).line() + f"\n\n{line}\n")


def test_what_others_stand_on_comes_back_before_them_and_goes_after_them() -> None:
    rp_filter = "net.ipv4.conf.tunl0.rp_filter"
    for loaded in (True, False):
        entries = [
            Entry(Module, "ipip", Module(name="ipip", loaded=loaded, brings=("ipip",))),
            Entry(Sysctl, rp_filter, sysctl(rp_filter, "2")),
        ]
        haves = {
            "module:ipip": Module(name="ipip", loaded=not loaded, brings=("ipip",)),
            f"sysctl:{rp_filter}": None if loaded else sysctl(rp_filter, "0"),
        }
        for order in (entries, entries[::-1]):
            first, last = (step.resource.type for step in plan_host("s", (), haves, order).undo)
            assert (first, last) == ((Module, Sysctl) if loaded else (Sysctl, Module))


def test_a_module_that_is_still_in_use_is_unloaded_after_the_new_is_there() -> None:
    entries = [
        Entry(Module, "ip_vs_rr", Module(name="ip_vs_rr", loaded=False, brings=())),
        Entry(Sysctl, FORWARD, sysctl(FORWARD, "0")),
    ]
    haves = {
        "module:ip_vs_rr": Module(name="ip_vs_rr", loaded=True),
        f"sysctl:{FORWARD}": sysctl(FORWARD, "1"),
        f"sysctl:{IGNORE}": sysctl(IGNORE, "0"),
    }
    plan = plan_host("h", [want(sysctl(IGNORE, "1"))], haves, entries)
    assert [s.resource.key for s in plan.undo] == [FORWARD]
    assert [s.resource.key for s in plan.late] == ["ip_vs_rr"]
    assert [e.key for e in plan.keep] == ["ip_vs_rr"]
    assert plan.keep_last == plan.record  # what the run itself wrote stays
    assert [e.key for e in plan.record] == [IGNORE]

    down = plan_host("h", [], haves, entries)
    assert [s.resource.key for s in down.undo] == [FORWARD, "ip_vs_rr"]
    assert down.late == ()


def test_what_one_module_brought_and_the_next_one_uses_goes_with_the_next() -> None:
    """ipip brought ip_tunnel; with gre in its place ip_tunnel is ip_gre's to take away."""
    brought = Module(name="ipip", loaded=False, brings=("tunnel4", "ip_tunnel", "ipip"))
    journal_ = [Entry(Module, "ipip", brought)]
    gre = Resource(Module, "ip_gre", Module(name="ip_gre"))
    haves = {
        "module:ipip": Module(name="ipip", brings=()),
        "module:ip_gre": Module(name="ip_gre", loaded=False, brings=("gre", "ip_gre")),
    }
    plan = plan_host("h", [gre], haves, journal_)
    (entry,) = plan.record
    assert entry.before == Module(
        name="ip_gre", loaded=False, brings=("tunnel4", "ip_tunnel", "gre", "ip_gre")
    )


def test_a_parameter_that_went_with_its_module_was_undone() -> None:
    """Recorded when another mode had loaded ip_vs already; ip_vs goes with this down."""
    name = "net.ipv4.vs.conn_reuse_mode"
    entries = [
        Entry(Module, "ip_vs", Module(name="ip_vs", loaded=False, brings=("ip_vs",))),
        Entry(Sysctl, name, sysctl(name, "1")),
    ]
    haves = {"module:ip_vs": Module(name="ip_vs", brings=()), f"sysctl:{name}": sysctl(name, "2")}
    plan = plan_host("h", [], haves, entries)
    assert [s.id for s in plan.undo] == [f"sysctl:{name}", "module:ip_vs"]
    after = {"module:ip_vs": Module(name="ip_vs", loaded=False, brings=("ip_vs",))}
    assert unfinished(plan.undo, after) == []
    assert [s.id for s, _ in unfinished(plan.undo[:1], {})] == [f"sysctl:{name}"]
