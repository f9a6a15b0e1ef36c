import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory
from lvsfab.targets import select, wants_facts

HOSTS = {
    "client": Host("client", frozenset({"client"})),
    "director": Host("director", frozenset({"director"}), frozenset({"rack1"})),
    "rs1": Host("rs1", frozenset({"real_server"}), frozenset({"rack1"})),
    "rs2": Host("rs2", frozenset({"real_server"}), frozenset({"rack2"})),
}
INVENTORY = Inventory("t", HOSTS)


def names(target: str) -> str:
    facts = {"rs1": {"os": "debian"}}
    return " ".join(h.name for h in select(target, INVENTORY, lambda h: facts.get(h, {})))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("*", "client director rs1 rs2"),
        ("rs*", "rs1 rs2"),
        ("rs1,client", "client rs1"),
        ("rs2 or rs1", "rs1 rs2"),
        ("role:real_server", "rs1 rs2"),
        ("group:rack1", "director rs1"),
        ("role:real_server and group:rack1", "rs1"),
        ("not role:real_server", "client director"),
        ("group:rack1 and not (rs1 or client)", "director"),
        ("client or rs* and group:rack2", "client rs2"),
        ("re:^rs[12]$", "rs1 rs2"),
        ("'re:^(rs1|client)$'", "client rs1"),
        ("fact:os=deb*", "rs1"),
        ("not not rs1", "rs1"),
    ],
)
def test_a_target_means_hosts(target: str, found: str) -> None:
    assert names(target) == found


@pytest.mark.parametrize(
    ("target", "told", "at"),
    [
        ("rs1 rs2", "`rs2` is not expected", 4),
        ("(rs1", "not closed", 0),
        ("rs1 and", "something is missing", 7),
        ("or rs1", "`or` is not expected", 0),
        ("colour:red", "none of role:", 0),
        ("rs1 or re:[", "not a regular expression", 10),
        ("'rs1", "quote that does not end", 0),
        ("fact:os", "fact:NAME=VALUE", 0),
    ],
)
def test_errors_point_at_the_character(target: str, told: str, at: int) -> None:
    with pytest.raises(InputError) as caught:
        names(target)
    lines = caught.value.message.splitlines()
    assert told in lines[0]
    assert lines[2].index("^") - 2 == at


def test_no_match_is_an_error() -> None:
    with pytest.raises(InputError, match="matches no host"):
        names("web*")


def test_facts_are_asked_only_where_a_target_speaks_of_them() -> None:
    assert wants_facts("rs1 and fact:os=x")
    assert not wants_facts("role:client")


@given(st.text(max_size=60))
def test_any_text_means_hosts_or_is_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert names(text)
