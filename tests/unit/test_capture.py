"""What of a capture can be judged without a host."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from lvsfab.capture import Wanted, capture, parse_views
from lvsfab.errors import InputError
from lvsfab.execute.task import State
from lvsfab.session import Record, Shell


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


class Host:
    """A host whose captures are of `size` bytes, and which says that it has `said`."""

    def __init__(self, said: str, size: int) -> None:
        self.host = "h"
        self._said, self._size, self.asked = said, size, 0

    def run(self, script: str, **_: object) -> list[Record]:
        if "k_begin" in script:
            return [Record("begin", 0, "/tmp/lvsfab.x\n")]
        if "k_stop" in script:
            return [Record("stop", 0, self._said)]
        if "k_alive" in script:
            return [Record("alive", 1, "")]
        self.asked += 1
        return [Record("state", 0, f"600 root 0 root 0 {self._size}\n")]

    def close(self) -> None: ...


@pytest.mark.parametrize(("said", "size", "told", "asked"), [
    ("wire 1\n", 10**15, "at most 20664 are taken", 1),
    ("".join(f"inner-{n} 1\n" for n in range(1000)), 24, "more than 100 captures", 0),
])  # fmt: skip
def test_a_host_gives_no_more_than_was_captured(
    said: str, size: int, told: str, asked: int, tmp_path: Path
) -> None:
    host = Host(said, size)
    done = capture(["h"], lambda _: cast("Shell", host), Wanted(count=10), tmp_path)
    assert done.results["h"].state is State.FAILED
    assert told in done.results["h"].error
    assert host.asked == asked
    assert not list(tmp_path.iterdir())
