"""What holds for every kind: found by its file, named well, quoted by construction."""

from __future__ import annotations

import re
import shlex
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory
from lvsfab.states import BUILDERS, KINDS, readers_script
from lvsfab.states.base import Context

CONTEXT = Context(Inventory("lab", {}), Host("h"), {})
HOSTILE = ["'; id #", "$(id)", "`id`", "a\nb", "-rf", "", " ", "..", "é", "\x00", "a,b=c", '"', "|"]

# One good line of each kind; each text in it is then replaced by hostile ones.
LINES: dict[str, dict[str, Any]] = {
    "address": {"address": "10.1.1.100/32", "dev": "eth0", "label": "eth0:1", "scope": "global"},
    "arptables": {"chain": "INPUT", "destination": "10.1.1.1", "device": "e0", "target": "DROP"},
    "boot": {"name": "lab"},
    "block": {"path": "/etc/hosts", "name": "lab", "content": "192.0.2.1 a"},
    "daemon": {"name": "d", "program": "#!/bin/sh\n"},
    "file": {"path": "/etc/a", "content": "x", "mode": "0644", "owner": "root", "group": "root"},
    "let_in": {"allow": "tcp/80", "to": "10.1.1.1", "dev": "e0"},
    "fou": {"port": 6080},
    "keepalived": {"content": "global_defs {\n}\n"},
    "link": {"name": "t0", "type": "ipip", "local": "10.1.1.1", "remote": "any", "up": True},
    "module": {"name": "ip_vs"},
    "nft": {"family": "arp", "name": "t", "content": "chain a { }"},
    "package": {"name": "httpd", "names": {"apt": "apache2-bin"}},
    "real_server": {"service": "tcp:10.1.1.1:80", "address": "10.1.1.2", "method": "dr"},
    "repository": {"name": "lb", "url": "http://172.25.67.250/rhel6.5/LoadBalancer"},
    "route": {"to": "10.0.0.0/8", "via": "10.1.1.1", "dev": "e0", "src": "10.1.1.2", "table": "t"},
    "sebool": {"name": "keepalived_connect_any", "on": True},
    "service": {"name": "keepalived", "running": True},
    "sysctl": {"name": "net.ipv4.ip_forward", "value": "1"},
    "testpage": {"port": 80, "name": "rs1", "bind": "10.1.1.1"},
    "virtual_service": {"address": "10.1.1.1", "port": 80, "scheduler": "rr", "persistence": 5,
                        "netmask": "24", "flags": ["flag-1"], "engine": "sip"},
}  # fmt: skip


def test_every_kind_is_found_and_tried_here() -> None:
    assert set(KINDS) == set(LINES)
    assert set(KINDS) < set(BUILDERS)
    assert {"arp", "ipvs", "tunnel", "vip", "forwarding"} <= set(BUILDERS)
    script = readers_script()
    for kind, state in KINDS.items():
        assert state.kind == kind
        assert f"\nread_{kind}() {{" in script
        assert all(name in get_type_hints(state) for name in state.__struct_fields__)


def built(kind: str, args: dict[str, Any]) -> list[list[str]]:
    """The words of every command that builds this line on a host without it, and removes it."""
    words = []
    for resource in BUILDERS[kind].build(args, CONTEXT):
        assert re.fullmatch(r"[!-~]{1,200}", resource.key)
        assert "|" not in resource.key
        state = resource.state
        assert state is not None
        again = msgspec.json.decode(msgspec.json.encode(state), type=resource.type)
        assert again == state
        for have, want in ((None, state), (state, None), (state, state)):
            for command in resource.type.commands(resource.key, have, want):
                line = command.script()
                tail = line.rpartition(" | ")[2] if command.stdin is not None else line
                assert shlex.split(tail) == list(command.argv)
                words.append(list(command.argv))
    return words


@pytest.mark.parametrize("kind", sorted(LINES))
def test_a_good_line(kind: str) -> None:
    assert built(kind, LINES[kind]) or kind in ("package", "repository")  # these ask the host


@pytest.mark.parametrize("kind", sorted(LINES))
@settings(max_examples=60)
@given(data=st.data())
def test_hostile_text_is_refused_or_quoted(kind: str, data: st.DataObject) -> None:
    line = dict(LINES[kind])
    field = data.draw(st.sampled_from(sorted(k for k, v in line.items() if isinstance(v, str))
                                      or ["name"]))  # fmt: skip
    good = str(line.get(field, ""))
    bad = data.draw(st.sampled_from(HOSTILE) | st.text(max_size=12))
    line[field] = data.draw(st.sampled_from([bad, good + bad, bad + good]))
    try:
        found = built(kind, line)
    except InputError:
        return
    for argv in found:
        assert all(isinstance(word, str) and "\x00" not in word for word in argv)


def test_an_unknown_field_is_an_input_error() -> None:
    with pytest.raises(InputError, match="colour"):
        BUILDERS["module"].build({"name": "ip_vs", "colour": "red"}, CONTEXT)
