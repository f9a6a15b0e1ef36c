"""Files are read whole, and never without an end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lvsfab import document, files, sources
from lvsfab.errors import InputError
from lvsfab.execute import states
from tests.unit.bounded import answer

READERS = {
    "document": "from lvsfab import document; document.load(there)",
    "ansible": "from lvsfab.sources.ansible import from_ini; from_ini(there)",
    "ssh_config": "from lvsfab.sources.ssh_config import from_ssh_config; from_ssh_config(there)",
    "known_hosts": "from lvsfab.transports import trust; trust._known_hosts((there,))",
    "key": "from lvsfab.transports import trust; trust.key_options(there, {})",
    "public key": "from lvsfab.transports import trust; print(trust._of_agent(there))",
    "state": "from lvsfab.execute.states import _of_file; _of_file('file', there)",
}


@pytest.mark.parametrize("by", sorted(READERS))
def test_a_file_without_end_is_not_read_to_its_end(by: str, tmp_path: Path) -> None:
    large = tmp_path / "large.pub"
    with large.open("wb") as file:
        file.truncate(3 << 30)
    said = answer(READERS[by], large)
    assert "larger than" in said or "no private key" in said or said == "[]\ntaken"


@pytest.mark.parametrize("by", sorted(READERS))
def test_nor_is_what_has_none(by: str) -> None:
    said = answer(READERS[by], Path("/dev/zero"))
    assert "no regular file" in said or "no private key" in said or said.endswith("taken")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yml")
    for by in ("document", "ansible", "ssh_config", "state"):
        assert "is no regular file" in answer(READERS[by], tmp_path / "fifo.yml")


def test_a_process_substitution_is_as_good_as_a_file(tmp_path: Path) -> None:
    """`lvsfab plan <(...)`, `-i <(...)`, `-i /dev/stdin`, `content=@<(...)`."""
    for text, load in (
        (b"name: x\nhosts: {a: {}}\n", document.load),
        (b"[web]\na\n", lambda path: sources.load(str(path))),
        (b"Host a\n", lambda path: sources.load(f"ssh_config:{path}")),
        (b"text", lambda path: states._of_file("file", path)),
    ):
        for folder in ("/dev/fd", "/proc/self/fd"):
            out, into = os.pipe()
            os.write(into, text)
            os.close(into)
            try:
                assert load(Path(f"{folder}/{out}"))
            finally:
                os.close(out)
    code = "from lvsfab import sources; print(*sources.load('/dev/stdin').hosts)"
    done = subprocess.run(
        [sys.executable, "-c", code], input="a\nb\n", capture_output=True, text=True, check=True
    )
    assert done.stdout == "a b\n"


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        files.content(tmp_path)


@pytest.mark.parametrize("text", ["~nosuchuser/x", "a\0b", "~\ud800/x"])
def test_a_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        files.home(text)
