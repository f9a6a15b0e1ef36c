"""What ssh_config and known_hosts say is read in bounded time, and refused in words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import fabric
import pytest

from lvsfab.errors import InputError
from lvsfab.transports import trust
from tests.unit.bounded import answer

Configure = Callable[[str], Path]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Have the user's ssh_config say this, and the system's nothing."""
    path = tmp_path / "config"
    monkeypatch.setattr(trust, "CONFIGS", (str(path),))
    read = (trust._config_text, trust.configures, trust.ssh_config, trust.for_fabric)

    def configured(text: str) -> Path:
        path.write_text(text)
        for cached in read:
            cached.cache_clear()
        return path

    yield configured
    for cached in read:
        cached.cache_clear()


LOOK = "from lvsfab.transports import trust; trust.CONFIGS = (str(there),); trust.looked_up('a')"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Include /dev/zero\n", "config:1: /dev/zero: is no regular file"),
        ("Host a\nInclude config config\n", "config:2: .* by Include"),
        ("Host a\nInclude ~nosuchuser/x\n", "config:2: `~nosuchuser/x`"),
        ("Include a\0b\n", "config:1: .*NUL"),
        ("Include /\nInclude **x\n", "taken"),
        ("\n" * 100_000 + "Host b\n", "taken"),
        (f"Host {'a' * 16000}\n" + "Include none\n" * 100_000, "config:1026: more than 1024 times"),
        ("Host *\nPort abc\n", "Port `abc` of a"),
        ("Host *\nPort \u00b2\n", "Port `.*` of a"),
        ("Host a\nProxyJump b\nHost b\nPort abc\n", "Port `abc` of b"),
        ("Host a\nProxyJump me@b:abc\n", "Port `abc` of b"),
        ("Host a\nProxyJump b:2222,c\nPort 22\n", "taken"),
    ],
    ids=itertools.count(),
)
def test_an_ssh_config_that_is_a_weapon(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    assert re.search(told, answer(LOOK, tmp_path / "config"))


def test_what_is_included_stands_in_its_place(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("Port 23\n")
    (tmp_path / "two.conf").write_text("Host b\n  Port 24\n")
    (tmp_path / "three.conf").mkdir()
    configure("Host a\n  Include *.conf\n  User me\n")
    assert dict(trust.looked_up("a")) == {"hostname": "a", "port": "23", "user": "me"}
    assert trust.looked_up("b").get("port") == "24"
    assert trust.looked_up("c").get("port") is None


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("*", "a", True),
        ("w?b", "web", True),
        ("w?b", "webb", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "aXexample.org", False),
        ("[*.example.org]:2222", "[a.example.org]:2222", True),
        ("[*.example.org]:2222", "a.example.org", False),
        ("[ab]", "a", False),
        ("[!a]", "b", False),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "a1c2b", False),
    ],
)
def test_a_pattern_of_known_hosts_is_read_as_ssh_reads_it(
    pattern: str, host: str, *, fits: bool
) -> None:
    assert trust._fits(pattern, host) is fits


@pytest.mark.parametrize("pattern", ["*a" * 14 + "*b", "*" * 200 + "b"])
def test_nor_does_it_go_back_behind_a_star(pattern: str, tmp_path: Path) -> None:
    code = f"from lvsfab.transports.trust import _fits; assert not _fits({pattern!r}, 'a' * 250)"
    assert answer(code, tmp_path) == "taken"


@pytest.mark.parametrize("word", ["UserKnownHostsFile", "GlobalKnownHostsFile"])
def test_known_hosts_files_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(InputError, match=f'{word} "abc: No closing quotation'):
        trust._known_files({word.lower(): '"abc'})
    assert {"a b", "c"} < set(trust._known_files({word.lower(): '"a b" c'}))


def test_jumps_may_have_what_fabric_does_not_take(configure: Configure) -> None:
    configure("Host *\nConnectTimeout 1m\nForwardAgent /run/agent\nHost a\nProxyJump b\n")
    connection = fabric.Connection("a", config=fabric.Config(ssh_config=trust.for_fabric()))
    assert connection.gateway.host == "b"
    assert not connection.forward_agent
    assert trust.connect_timeout(trust.looked_up("b"), 10) == 60
