import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab import document
from lvsfab.errors import InputError


def parse(text: str) -> document.Document:
    return document.parse(text.encode(), Path("t.yml"))


def test_on_is_a_word_and_not_a_boolean() -> None:
    assert parse("on: real_server").data == {"on": "real_server"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("yes", "yes"),
        ("012", "012"),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("10.1.1.1", "10.1.1.1"),
        ("true", True),
        ("~", None),
        ("'12'", "12"),
        ("fd00:1::1", "fd00:1::1"),
    ],
)
def test_plain_words_follow_the_core_rules(text: str, value: object) -> None:
    assert parse(f"a: {text}").data == {"a": value}


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "stands twice"),
        ("a: [1,\n", 2, "not YAML"),
        ("a: !!python/object:os.system x", 1, "tag"),
        ("a:\n  ? [x]\n  : 1", 2, "plain word"),
        ("", None, "empty"),
    ],
)
def test_bad_yaml_is_named_with_its_line(text: str, line: int | None, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse(text)
    assert caught.value.line == line


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(InputError, match="more than"):
        parse("\n".join(lines))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InputError, match="nested deeper"):
        parse("a: " + "[" * 100 + "]" * 100)


WEAPONS = """
import resource
from pathlib import Path
from lvsfab import document
from lvsfab.errors import InputError

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for part in ("[", "[? ", "{a: ", "{? ", "- ", "? ", "[a: ", "- a\\n", "[],", "&a {? *a : [? "):
    raw = (part * document.MAX_BYTES)[: document.MAX_BYTES].encode()
    try:
        document.parse(raw, Path("hostile.yml"))
    except InputError as error:
        print(part.encode(), error.line, error)
"""


def test_as_much_of_it_as_fits_takes_no_memory_to_refuse() -> None:
    """It nests in C, where nothing stops it."""
    done = subprocess.run(
        [sys.executable, "-c", WEAPONS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 10
    assert set(re.findall("nested deeper|more than|not YAML", done.stdout)) == {
        *("nested deeper", "more than", "not YAML")
    }


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        document.load(tmp_path / "none.yml")


def test_a_file_that_is_not_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        document.load(tmp_path / "x.yml")


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    names: list[str] = []


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: dict[str, Inner] = {}
    other: Inner | None = None


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("inner:\n  a: {size: 1}\n  b:\n    size: big\n", 4, "inner.b.size"),
        ("inner:\n  a:\n    size: 1\n    names: [x, 3]\n", 4, "inner.a.names[1]"),
        ("inner:\n  a:\n    size: 1\n    colour: x\n", 4, "inner.a.colour"),
        ("other:\n  size: x\n", 2, "other.size"),
        ("inner:\n  a: {}\n", 2, "inner.a"),
    ],
)
def test_what_does_not_fit_is_named_by_file_line_and_key(text: str, line: int, key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text).convert(Outer)
    assert (caught.value.path, caught.value.line, caught.value.key) == (Path("t.yml"), line, key)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    try:
        document.parse(raw, Path("t.yml"))
    except InputError as error:
        assert str(error).startswith("t.yml")
