"""What of a capture can be judged without a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvsfab.capture import Wanted, parse_views
from lvsfab.errors import InputError


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"seconds": 0}, "--for"),
        ({"seconds": 3601}, "--for"),
        ({"count": 0}, "--count"),
        ({"count": 10_001}, "--count"),
        ({"filter": "a\nb"}, "--filter"),
        ({"filter": "x" * 2001}, "--filter"),
    ],
)
def test_what_is_not_bounded_is_refused(fields: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as caught:
        Wanted(**fields)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_a_host_names_no_file_but_views() -> None:
    said = "wire 12\ninner-tunl0 3\n../../etc/passwd 1\ninner-../x 1\nwire\ntunnel \n"
    views = parse_views(said, Path("out"))
    assert [(view.name, view.packets, str(view.path)) for view in views] == [
        ("wire", 12, "out/wire.pcap"),
        ("inner-tunl0", 3, "out/inner-tunl0.pcap"),
    ]
