from __future__ import annotations

import pytest

from lvsfab.errors import InputError
from lvsfab.states.base import UnsupportedError, changes
from lvsfab.states.module import Module
from tests.unit.states.state_helpers import captured, journalled, said


def test_not_loaded_tells_what_loading_would_bring() -> None:
    have = Module.parse("ip_vs", captured("module-absent"))
    assert have == Module(
        name="ip_vs",
        loaded=False,
        brings=("nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "ip_vs"),
    )
    assert said(have, Module(name="ip_vs"), Module, "ip_vs") == ["modprobe ip_vs"]


def test_loaded_and_built_in_are_loaded() -> None:
    for output in ("loaded\n", "kernel 6.1\nbuiltin hostfs\n", "kernel 6.1\nseen\nerror x\n"):
        have = Module.parse("hostfs", output)
        assert have is not None
        assert changes(Module(name="hostfs"), have) == ()


def test_what_is_loaded_as_part_of_something_else_is_not_brought() -> None:
    text = captured("module-absent") + "present nf_conntrack\npresent nf_defrag_ipv4\n"
    have = Module.parse("ip_vs", text)
    assert have is not None
    assert have.brings == ("nf_defrag_ipv6", "ip_vs")


def test_undo_removes_exactly_what_came_last_first() -> None:
    before = Module.parse("ip_vs", captured("module-absent"))
    assert before is not None
    now = Module(name="ip_vs", brings=())
    assert said(now, journalled(before), Module, "ip_vs") == [
        "unload_modules ip_vs nf_conntrack nf_defrag_ipv6 nf_defrag_ipv4"
    ]


@pytest.mark.parametrize(
    "text", [captured("module-none"), "kernel 6.1\ninstall /bin/true\n", "kernel 6.1\nerror none\n"]
)
def test_not_available_is_said_with_the_kernels_version(text: str) -> None:
    with pytest.raises(UnsupportedError, match=r"kernel (7\.2\.7|6\.1) has no module"):
        Module.parse("arptable_filter", text)


def test_a_dash_is_an_underscore() -> None:
    assert Module(name="ip-vs").key == "ip_vs"


def test_hostile_names_are_refused() -> None:
    for name in ("a b", "-r", "a;b", "../x", ""):
        with pytest.raises(InputError):
            Module(name=name)
