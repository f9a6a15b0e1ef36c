"""What a host's own firewall lets in: opened where it is shut, closed again by the undo."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lvsfab.errors import InputError
from lvsfab.session import PRELUDE
from lvsfab.states import readers_script
from lvsfab.states.let_in import LetIn
from tests.unit.states.state_helpers import journalled, said

OPEN = LetIn(allow="vrrp")
OURS = LetIn(allow="vrrp", ours=("nft/ip/filter/INPUT",))
SHUT = LetIn(allow="vrrp", shut=("nft/ip/filter/INPUT",))
TUNNEL = LetIn(allow="ipip", sources=("203.0.113.10", "192.168.1.10"))

# A host's programs: each says what it was told.
NFT = r"""
case $* in
'list chains') cat <<'END'
table inet mine {
	chain in {
		type filter hook input priority filter; policy drop;
	}
	chain out {
		type filter hook output priority filter; policy accept;
	}
}
table ip free {
	chain INPUT {
		type filter hook input priority filter; policy accept;
	}
}
table ip6 six {
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
}
END
  ;;
*'list chain inet mine in') echo "policy drop; $RULES" ;;
*'list chain ip free INPUT') echo 'policy accept; tcp dport 22 accept' ;;
*'list chain ip6 six INPUT') echo 'policy drop;' ;;
*) echo "nft $*" ;;
esac
"""
LEGACY = r"""
case "$*" in
*' -S '* | '-S '*) echo '-P INPUT DROP' ;;
*'-C '*) exit 1 ;;
*) echo "${0##*/} $*" ;;
esac
"""
FIREWALLD = r"""
case $* in
'-q --state') exit "$NO_FIREWALLD" ;;
*--query*) exit 1 ;;
*) echo "$*" ;;
esac
"""
KERNEL = r"""
dormant() { return 1; }
grep() { case $* in *_tables_names*) [ "$LEGACY" = yes ] ;; *) command grep "$@" ;; esac; }
"""
PROGRAMS = {
    "nft": NFT,
    "iptables-legacy": LEGACY,
    "ip6tables-legacy": LEGACY,
    "firewall-cmd": FIREWALLD,
}


@pytest.fixture
def on_host(tmp_path: Path) -> Callable[..., list[str]]:
    """What a script says on a host with those programs; RULES: of its chain `in`."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)

    def run(script: str, **variables: str) -> list[str]:
        text = "\n".join((PRELUDE, readers_script(), KERNEL, f"PATH={tmp_path}:$PATH", script))
        given = {"RULES": "", "LEGACY": "no", "NO_FIREWALLD": "1", **variables}
        done = subprocess.run(
            ["/bin/sh", "-c", text],
            capture_output=True, text=True, check=True, timeout=20, env={**os.environ, **given},
        )  # fmt: skip
        return done.stdout.splitlines()

    return run


def test_open_already_shut_and_not_readable() -> None:
    assert LetIn.parse("vrrp", "read\n") == OPEN
    assert LetIn.parse("vrrp", "read\nshut nft/ip/filter/INPUT\n") == SHUT
    assert LetIn.parse("vrrp", "read\nours nft/ip/filter/INPUT\n") == OURS
    assert LetIn.parse("vrrp", "") is None
    assert journalled(SHUT) == SHUT


@pytest.mark.parametrize(
    "state",
    [
        OPEN,
        TUNNEL,
        LetIn(allow="tcp/80", to="203.0.113.100"),
        LetIn(allow="udp", sources=("2001:db8::1",), to="2001:db8::2", dev="eth0.5"),
        LetIn(allow="ping", dev="tunl0"),
    ],
)
def test_the_key_says_all_of_it(state: LetIn) -> None:
    assert LetIn.parse(state.key, "read") == state


def test_only_what_is_shut_is_opened_and_the_undo_shuts_it() -> None:
    assert said(OPEN, OPEN, LetIn, "vrrp") == []
    assert said(SHUT, OPEN, LetIn, "vrrp") == ["fw_open vrrp"]
    assert said(OURS, OPEN, LetIn, "vrrp") == []
    assert said(OURS, SHUT, LetIn, "vrrp") == ["fw_close vrrp"]
    # somebody has stopped the firewall since: there is nothing of ours in it
    assert said(OPEN, SHUT, LetIn, "vrrp") == []
    (change,) = OPEN.changes(SHUT)
    assert (change.have, change.want) == ("not by nft/ip/filter/INPUT", "yes")


def test_only_a_chain_that_drops_is_opened_at_its_head_and_by_a_mark(
    on_host: Callable[..., list[str]],
) -> None:
    key = TUNNEL.key
    assert on_host(f"read_let_in '{key}'") == ["read", "shut nft/inet/mine/in"]
    mark = f'comment "lvsfab {key}"'
    rule = f"ip saddr {{ 203.0.113.10,192.168.1.10 }} ip protocol 4 accept {mark}"
    assert on_host(f"fw_open '{key}'") == [f"nft insert rule inet mine in {rule}"]
    # with that rule there nothing is left to do; it alone goes again
    ours = f"tcp dport 22 accept # handle 4\n{rule} # handle 7\ntcp dport 9 drop # handle 8"
    assert on_host(f"read_let_in '{key}'", RULES=ours) == ["read", "ours nft/inet/mine/in"]
    assert on_host(f"fw_close '{key}'", RULES=ours) == ["nft delete rule inet mine in handle 7"]
    assert on_host("fw_close ipip", RULES=ours) == []


@pytest.mark.parametrize(
    ("state", "nft", "legacy"),
    [
        (
            LetIn(allow="tcp/80", to="203.0.113.100"),
            "ip daddr 203.0.113.100 tcp dport 80",
            "-d 203.0.113.100 -p tcp --dport 80",
        ),
        (TUNNEL, "ip saddr { 203.0.113.10,192.168.1.10 } ip protocol 4",
         "-s 203.0.113.10,192.168.1.10 -p 4"),
        (LetIn(allow="ping", dev="tunl0"), 'iifname "tunl0" icmp type echo-request',
         "-i tunl0 -p icmp --icmp-type echo-request"),
        (LetIn(allow="udp", to="192.0.2.1"), "ip daddr 192.0.2.1 meta l4proto 17",
         "-d 192.0.2.1 -p 17"),
    ],
)  # fmt: skip
def test_nft_and_iptables_are_told_the_same(
    on_host: Callable[..., list[str]], state: LetIn, nft: str, legacy: str
) -> None:
    done = on_host(f"fw_open '{state.key}'", LEGACY="yes")
    assert done == [
        f'nft insert rule inet mine in {nft} accept comment "lvsfab {state.key}"',
        f"iptables-legacy -I INPUT 1 {legacy} -j ACCEPT",
    ]
    assert on_host(f"fw_close '{state.key}'", LEGACY="yes") == [
        f"iptables-legacy -D INPUT {legacy} -j ACCEPT"
    ]


def test_ipv6_is_let_in_where_an_address_is_ipv6_or_none_is_named(
    on_host: Callable[..., list[str]],
) -> None:
    six = LetIn(allow="vrrp", to="ff02::12")
    places = on_host(f"read_let_in '{six.key}'", LEGACY="yes")[1:]
    assert places == [
        "shut nft/inet/mine/in",
        "shut nft/ip6/six/INPUT",
        "shut iptables-legacy/6",
    ]
    assert "ip6 daddr ff02::12 meta l4proto 112 accept" in on_host(f"fw_open '{six.key}'")[1]
    places = on_host("read_let_in vrrp", LEGACY="yes")[1:]
    assert places[-2:] == ["shut iptables-legacy/4", "shut iptables-legacy/6"]


def test_firewalld_is_told_at_run_time(
    on_host: Callable[..., list[str]],
) -> None:
    key = TUNNEL.key
    assert on_host(f"read_let_in '{key}'", NO_FIREWALLD="0") == ["read", "shut firewalld"]
    rule = 'rule family="ipv4" source address="{}" protocol value="4" accept'
    for verb, function in (("add", "fw_open"), ("remove", "fw_close")):
        assert on_host(f"{function} '{key}'", NO_FIREWALLD="0") == [
            f"-q --{verb}-rich-rule={rule.format(source)}" for source in TUNNEL.sources
        ]
    (told,) = on_host("fw_open 'tcp/80;to=203.0.113.100'", NO_FIREWALLD="0")
    assert told.partition("-rich-rule=")[2] == (
        'rule family="ipv4" destination address="203.0.113.100" '
        'port port="80" protocol="tcp" accept'
    )
    (told,) = on_host("fw_open vrrp", NO_FIREWALLD="0")
    assert told == '-q --add-rich-rule=rule protocol value="112" accept'


@pytest.mark.parametrize("word", ["", "all", "tcp/", "tcp/0", "tcp/65536", "udp/8848 ", "112"])
def test_what_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="none of"):
        LetIn(allow=word)


def test_whom_no_rule_can_name() -> None:
    for sources, to, dev in (
        (("x",), "", ""),
        (("192.0.2.1",), "2001:db8::1", ""),
        (("192.0.2.0/24",), "", ""),
        (tuple(f"192.0.2.{n}" for n in range(5)), "", ""),
        ((), "", "a;b"),
    ):
        with pytest.raises(InputError):
            LetIn(allow="tcp/80", sources=sources, to=to, dev=dev)
    with pytest.raises(InputError, match="version"):
        LetIn(allow="ping", to="2001:db8::1")
