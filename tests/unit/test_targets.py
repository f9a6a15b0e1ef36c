import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.errors import InputError
from lvsfab.facts import MODULES, TOOLS, lacking, parse
from lvsfab.model import Host, Inventory
from lvsfab.targets import Selection, check, select, wants_facts

HOSTS = {
    "client": Host("client", frozenset({"client"})),
    "director": Host("director", frozenset({"director"}), frozenset({"rack1"})),
    "rs1": Host("rs1", frozenset({"real_server"}), frozenset({"rack1"})),
    "rs2": Host("rs2", frozenset({"real_server"}), frozenset({"rack2"})),
}
INVENTORY = Inventory("t", HOSTS)


FACTS = {  # the client could not be asked
    "director": {"os": "alpine", "tool.ipvsadm": "1.31", "address": "10.1.1.1\n192.0.2.1"},
    "rs1": {"os": "debian", "lvs": ""},
    "rs2": {"os": "debian", "address": "10.1.2.2", "os_name": "Debian (a fork)"},
}


def chosen(target: str) -> Selection:
    check(target, lacking)
    return select(target, INVENTORY, FACTS.get)


def names(target: str) -> str:
    return " ".join(host.name for host in chosen(target).hosts)


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
        ("fact:os=alp*", "director"),
        ("fact:address=10.1.* and rs*", "rs2"),
        ("rs* and 'fact:os_name=Debian (a fork)'", "rs2"),
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
        ("rs1 and not fact:oss=debian", "no fact `oss`; there are os, ", 17),
        ("fact:tool.ipvsadmm=*", "no fact `tool.ipvsadmm`; there are ip, ", 5),
        ("fact:colour.of=red", "no fact `colour.of`", 5),
        ("fact:sysctl.kernel.x=1", "no fact `sysctl.kernel.x`; there are net.ipv4.ip_f", 5),
    ],
)
def test_errors_point_at_the_character(target: str, told: str, at: int) -> None:
    with pytest.raises(InputError) as caught:
        names(target)
    lines = caught.value.message.splitlines()
    assert told in lines[0]
    assert lines[2].index("^") - 2 == at


@pytest.mark.parametrize(
    ("target", "found", "unknown"),
    [
        ("fact:tool.ipvsadm=*", "director", "client"),
        ("not fact:tool.ipvsadm=*", "rs1 rs2", "client"),
        ("fact:lvs=*", "", "client"),
        ("not fact:os=debian", "director", "client"),
        ("not (not fact:os=debian)", "rs1 rs2", "client"),
        ("rs* and not fact:os=alpine", "rs1 rs2", ""),  # no fact changes that the client is not rs*
        ("client or fact:os=debian", "client rs1 rs2", ""),
        ("client and fact:os=debian", "", "client"),
        ("client and (fact:os=debian or director)", "", "client"),
        ("not (client or fact:os=debian)", "director", ""),
    ],
)
def test_a_fact_that_is_not_there_matches_nothing(target: str, found: str, unknown: str) -> None:
    assert names(target) == found
    assert " ".join(chosen(target).unknown) == unknown


def test_each_fact_that_a_host_tells_is_one_that_a_target_may_name() -> None:
    told = parse(
        "== sysctl\n/proc/sys/net/ipv4/ip_forward:1\n/proc/sys/net/ipv4/conf/eth0.7/rp_filter:2\n"
        "/proc/sys/net/ipv4/conf/all/forwarding:1\n/proc/sys/net/ipv4/vs/conn_reuse_mode:1\n"
        "/proc/sys/net/ipv6/conf/all/forwarding:0\n== tool\nip /sbin/ip\n"
    ).flat()
    assert {name for name in told if lacking(name)} == set()
    assert [n for n in (*MODULES,) if lacking(f"module.{n}")] == []
    assert [n for n in (*TOOLS,) if lacking(f"tool.{n}")] == []


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("not " * 5000 + "a", "nested deeper than 40"),
        ("(" * 5000 + "a" + ")" * 5000, "nested deeper than 40"),
        ("re:a{99999999999}", "not a regular expression: too large"),
        (f"'re:{'(' * 5000}a{')' * 5000}'", "not a regular expression: too large"),
    ],
)
def test_a_target_has_an_end(target: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        chosen(target)


def test_nor_does_a_long_one_count_as_deep() -> None:
    assert names(" or ".join(["not not (rs1)"] * 100)) == names("rs1")


def test_no_match_is_an_error() -> None:
    with pytest.raises(InputError, match="matches no host"):
        names("web*")


def test_facts_are_asked_only_where_a_target_speaks_of_them() -> None:
    assert wants_facts("rs1 and fact:os=x")
    assert wants_facts("rs1 and 'fact:os_name=Debian GNU/Linux*'")
    assert not wants_facts("role:client")


@given(st.text(max_size=60))
def test_any_text_means_hosts_or_is_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert names(text)
