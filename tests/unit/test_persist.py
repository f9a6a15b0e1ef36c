"""What keeps a configuration over a reboot: the boot script, its drop-ins, when they change."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from lvsfab import journal, persist, scripts
from lvsfab.journal import Entry
from lvsfab.plan import Have, HostPlan, plan_host
from lvsfab.states.base import Resource, State
from lvsfab.states.boot import Boot
from lvsfab.states.file import File
from lvsfab.states.keepalived import KeepalivedConfig
from lvsfab.states.module import Module
from lvsfab.states.route import Route
from lvsfab.states.sysctl import Sysctl

FORWARD = "net.ipv4.ip_forward"
ON, OFF = Sysctl(name=FORWARD, value="1"), Sysctl(name=FORWARD, value="0")
IP_VS = Module(name="ip_vs")
NO_IP_VS = Module(name="ip_vs", loaded=False, brings=("ip_vs",))


def want(state: State) -> Resource:
    return Resource(type(state), state.key, state)


def files(kept: Sequence[Resource]) -> dict[str, str]:
    return {r.key: str(r.state.content) for r in kept if isinstance(r.state, File)}


def step(command: str, what: str) -> str:
    return f"said=$({{ {command}; }} 2>&1 </dev/null) || failure {what}"


def steps(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("said=")]


def test_the_boot_script_is_the_commands_of_the_run_in_their_order() -> None:
    page = File(path="/srv/page", content="x")  # stays by itself
    wanted = [want(ON), want(IP_VS), want(page)]
    haves: dict[str, Have] = {want(ON).id: OFF, want(IP_VS).id: NO_IP_VS, want(page).id: None}
    kept = persist.kept("lab", wanted, haves, [])
    assert [r.id for r in kept] == [
        "file:/etc/lvsfab/boot-lab",
        "file:/etc/modules-load.d/lvsfab-lab.conf",
        "file:/etc/sysctl.d/99-lvsfab-lab.conf",
        "boot:lab",
    ]
    text = files(kept)
    assert steps(text["/etc/lvsfab/boot-lab"]) == [
        step("set_sysctl net.ipv4.ip_forward 1", "sysctl:net.ipv4.ip_forward"),
        step("modprobe ip_vs", "module:ip_vs"),
    ]
    assert text["/etc/modules-load.d/lvsfab-lab.conf"].splitlines()[1:] == ["ip_vs"]
    assert text["/etc/sysctl.d/99-lvsfab-lab.conf"].splitlines()[1:] == [f"-{FORWARD} = 1"]
    assert {r.id for r in persist.places("lab")} >= {r.id for r in kept}


def test_it_is_good_for_a_plain_shell() -> None:
    wanted = [want(ON), want(IP_VS)]
    kept = persist.kept("lab", wanted, {want(ON).id: OFF, want(IP_VS).id: NO_IP_VS}, [])
    script = files(kept)["/etc/lvsfab/boot-lab"]
    subprocess.run(["dash", "-n"], input=script, text=True, check=True)


def test_it_starts_from_what_was_there_before_lvsfab() -> None:
    route = Route(to="default", via="10.0.0.2", dev="eth0")
    had = Route(to="default", via="10.0.0.1", dev="eth0", line="default via 10.0.0.1 dev eth0")
    kept = persist.kept(
        "lab", [want(route)], {want(route).id: route}, [Entry(Route, route.key, had)]
    )
    assert steps(files(kept)["/etc/lvsfab/boot-lab"]) == [
        step("ip -4 route replace default via 10.0.0.2 dev eth0", "route:0.0.0.0/0")
    ]


def test_nothing_is_kept_of_what_the_host_has_by_itself() -> None:
    assert persist.kept("lab", [want(ON)], {want(ON).id: ON}, []) == ()
    assert persist.kept("lab", [], {}, []) == ()


def plan(
    wanted: Sequence[Resource], haves: Mapping[str, Have], entries: Sequence[Entry]
) -> HostPlan:
    kept = persist.kept("lab", wanted, haves, entries)
    return plan_host("h", wanted, haves, entries, None, kept)


def first() -> tuple[HostPlan, dict[str, Have], tuple[Entry, ...]]:
    """The first run, what the host has after it, and the journal."""
    haves: dict[str, Have] = {r.id: None for r in persist.places("lab")}
    found = plan([want(ON)], haves | {want(ON).id: OFF}, [])
    return found, {s.id: s.resource.state for s in found.steps}, found.keep_last


def test_what_keeps_comes_last_and_the_journal_outlives_a_reboot() -> None:
    found, _, _ = first()
    assert [s.resource.type for s in found.steps] == [Sysctl, File, File, Boot]
    assert found.durable
    assert not found.moves
    script = scripts.change_script("lab", found.apply, record=found.record, durable=found.durable)
    assert "journal_add /var/lib/lvsfab/lab" in script
    assert "journal_add /run" not in script
    assert script.rindex(" || return 0") < script.index("sync -f")  # a power cut is a reboot too
    passing = scripts.change_script("lab", found.apply, record=found.record)
    assert "sync -f" not in passing


def test_the_journal_outlives_a_boot_that_starts_keepalived() -> None:
    """It loads ip_vs by itself, which `down` must not take for the host's own then."""
    config = KeepalivedConfig(content="x")
    wanted = [want(ON), Resource(KeepalivedConfig, config.key, config)]
    found = plan_host("d", wanted, {wanted[0].id: OFF, wanted[1].id: None}, [])
    assert found.durable
    script = scripts.change_script("lab", found.apply, record=found.record, durable=found.durable)
    assert "journal_add /var/lib/lvsfab/lab" in script
    assert "journal_add /run" not in script


def test_a_second_run_changes_nothing() -> None:
    _, haves, entries = first()
    assert plan([want(ON)], haves, entries).steps == ()


def test_kept_from_a_later_run_on() -> None:
    haves: dict[str, Have] = {r.id: None for r in persist.places("lab")}
    found = plan([want(ON)], haves | {want(ON).id: ON}, [Entry(Sysctl, FORWARD, OFF)])
    assert [s.resource.type for s in found.steps] == [File, File, Boot]
    assert found.moves
    moved = scripts.forget_script("lab", found.keep_last)
    assert moved.index("/var/lib/lvsfab/lab") < moved.index("/run/lvsfab/lab")
    assert "/run/lvsfab/lab '' ||" in moved


def test_kept_no_longer() -> None:
    _, haves, entries = first()
    found = plan_host("h", [want(ON)], haves, entries)
    assert [s.resource.type for s in found.undo] == [Boot, File, File]
    assert not found.durable
    assert not journal.durable(found.keep)


def test_nothing_runs_at_boot_while_the_journal_changes() -> None:
    _, haves, entries = first()
    found = plan([want(ON), want(IP_VS)], haves | {want(IP_VS).id: NO_IP_VS}, entries)
    assert [(s.resource.type, s.undo) for s in found.steps] == [
        (Boot, True), (Module, False), (File, False), (File, False), (Boot, False),
    ]  # fmt: skip


def test_a_new_value_alone_needs_no_such_care() -> None:
    _, haves, entries = first()
    two = Sysctl(name=FORWARD, value="2")
    found = plan([want(two)], haves, entries)
    assert [s.resource.type for s in found.steps] == [Sysctl, File, File]


def test_one_kind_alone_takes_what_keeps_it_along() -> None:
    _, haves, entries = first()
    found = plan([want(Sysctl(name=FORWARD, value="2"))], haves, entries).only(("sysctl",))
    assert [s.resource.type for s in found.steps] == [Sysctl, File, File]
    assert found.durable


def test_the_word_on_what_is_up_is_in_one_place() -> None:
    assert "mark_put /run/lvsfab/lab '{}' /var/lib/lvsfab/lab" in scripts.mark_script("lab", "{}")
    kept = scripts.mark_script("lab", "{}", durable=True)
    assert "mark_put /var/lib/lvsfab/lab '{}' /run/lvsfab/lab" in kept


def test_the_unit_absent_as_put_and_drifted() -> None:
    boot = Boot(name="lab")
    assert Boot.parse("lab", "") is None
    good = Boot.parse("lab", "intact yes\nenabled yes\n")
    assert good is not None
    assert boot.changes(good) == ()
    for text in ("intact yes\nenabled no\n", "intact no\nenabled yes\n"):
        drifted = Boot.parse("lab", text)
        assert drifted is not None
        assert len(boot.changes(drifted)) == 1
        assert [c.argv for c in Boot.commands("lab", drifted, boot)] == [("boot_put", "lab")]
    assert [c.argv for c in Boot.commands("lab", good, None)] == [("boot_drop", "lab")]
