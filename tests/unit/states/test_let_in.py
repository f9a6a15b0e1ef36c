"""What a host's own firewall lets in: opened where it is shut, closed again by the undo."""

from __future__ import annotations

import pytest

from lvsfab.errors import InputError
from lvsfab.states.let_in import LetIn
from tests.unit.states.state_helpers import journalled, said

OPEN = LetIn(allow="vrrp")
SHUT = LetIn(allow="vrrp", shut=("nft/ip/filter/INPUT",))


def test_open_already_shut_and_not_readable() -> None:
    assert LetIn.parse("vrrp", "read\n") == OPEN
    assert LetIn.parse("vrrp", "read\nnft/ip/filter/INPUT\n") == SHUT
    assert journalled(SHUT) == SHUT


def test_only_what_is_shut_is_opened_and_the_undo_shuts_it() -> None:
    assert said(OPEN, OPEN, LetIn, "vrrp") == []
    assert said(SHUT, OPEN, LetIn, "vrrp") == ["fw_open vrrp"]
    assert said(OPEN, SHUT, LetIn, "vrrp") == ["fw_close vrrp"]
    (change,) = OPEN.changes(SHUT)
    assert (change.have, change.want) == ("not by nft/ip/filter/INPUT", "yes")


@pytest.mark.parametrize("word", ["", "all", "tcp", "tcp/0", "tcp/65536", "udp/8848 ", "112"])
def test_what_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="none of"):
        LetIn(allow=word)
