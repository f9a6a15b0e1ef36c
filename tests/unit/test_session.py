import subprocess
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab.errors import CommandError, UnreachableError
from lvsfab.session import PRELUDE, Framer, Record, Shell, TooMuchError, command
from tests.unit.local import LocalChannel


def feed(framer: Framer, chunks: Iterable[bytes]) -> list[Record]:
    return [record for chunk in chunks for record in framer.feed(chunk)]


def test_records_are_framed_whatever_the_chunks() -> None:
    data = b"banner\n\nN>a\none\ntwo\n\nN<a 0\n\nN>b\n\nN<b 7\n\nN=\n"
    whole = feed(Framer("N"), [data])
    assert whole == [Record("a", 0, "one\ntwo\n"), Record("b", 7, "")]
    assert feed(Framer("N"), [bytes([b]) for b in data]) == whole


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_output_can_break_the_frame(output: bytes, size: int) -> None:
    """Unless it knows the nonce, what a command prints comes back as it is."""
    data = b"\nNONCE>x\n" + output + b"\nNONCE<x 3\n\nNONCE=\n"
    framer = Framer("NONCE")
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    if b"NONCE" in output:
        return
    assert feed(framer, chunks) == [Record("x", 3, output.decode(errors="backslashreplace"))]
    assert framer.done


def test_a_forged_end_of_another_record_is_only_output() -> None:
    framer = Framer("N")
    records = feed(framer, [b"N>a\nN<b 0\nx\n\nN<a 0\n"])
    assert [r.id for r in records] == ["a"]


def test_endless_output_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.session.MAX_RECORD", 1000)
    framer = Framer("N")
    framer.feed(b"N>a\n")
    with pytest.raises(TooMuchError, match="more than 1000 bytes"):
        feed(framer, [b"x" * 100 for _ in range(20)])


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))))
def test_arguments_reach_a_shell_as_they_are(words: list[str]) -> None:
    script = command("printf", "%s\\0", *words).script()
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout == b"".join(w.encode() + b"\0" for w in words) or not words


@pytest.mark.parametrize("sh", ["dash", "bash"])
def test_a_shell_answers_script_after_script(sh: str) -> None:
    with closing(LocalChannel([sh, "-s"])) as channel:
        shell = Shell("here", channel, 'greet() { echo hello "$1"; }')
        first = shell.run("rec one greet world\nrec two false", timeout=10)
        second = shell.run("rec three greet again", timeout=10)
    assert first == [Record("one", 0, "hello world\n"), Record("two", 1, "")]
    assert second == [Record("three", 0, "hello again\n")]


def test_commands_have_no_standard_input() -> None:
    with closing(LocalChannel()) as channel:
        records = Shell("here", channel).run("rec cat cat\nrec on echo on", timeout=10)
    assert [r.output for r in records] == ["", "on\n"]


def test_half_a_script_runs_nothing(tmp_path: Path) -> None:
    """A link that drops while a script is sent leaves the host as it was."""
    mark = tmp_path / "mark"
    script = f"{PRELUDE}\nx() {{\n: > {mark}\ntrue\n"  # the closing brace never arrives
    subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, check=False)
    assert not mark.exists()


def test_a_script_that_is_cut_within_its_name_runs_nothing(tmp_path: Path) -> None:
    """Not one before it, and no program: script 12 comes up to some byte of its last line."""
    mark = tmp_path / "mark"
    with closing(LocalChannel()) as channel:
        sent: list[bytes] = []
        channel.send = lambda data, timeout: sent.append(data)  # type: ignore[method-assign]
        shell = Shell("here", channel)
        for i in range(12):
            with pytest.raises(UnreachableError):
                shell.run(f"echo {i + 1} >>{mark}", timeout=0.0)
    *before, last = sent
    whole = last.index(b"\n}\n") + len(b"\n}\n")
    for end in range(whole, len(last)):
        mark.unlink(missing_ok=True)
        data = (
            b"".join(before) + b"\nscript() { echo script >>" + bytes(mark) + b"; }\n" + last[:end]
        )
        subprocess.run(["sh", "-s"], input=data, capture_output=True, check=False, timeout=30)
        ran = mark.read_text().split()
        assert ran[:11] == [str(i + 1) for i in range(11)]
        assert ran[11:] in ([], ["12"])


def test_a_shell_that_ends_says_what_it_said() -> None:
    with (
        closing(LocalChannel()) as channel,
        pytest.raises(UnreachableError, match="no room on disk"),
    ):
        Shell("here", channel).run("echo no room on disk; exit 3", timeout=10)


def test_waiting_is_bounded() -> None:
    with (
        closing(LocalChannel()) as channel,
        pytest.raises(UnreachableError, match=r"after 0 s.*last seen"),
    ):
        Shell("here", channel).run("rec a true\nrec b sleep 5", timeout=0.3)


def test_a_host_that_prints_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.session.MAX_RECORD", 100_000)
    with (
        closing(LocalChannel()) as channel,
        pytest.raises(CommandError, match="more than 100000 bytes"),
    ):
        Shell("here", channel).run("rec a yes", timeout=10)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "x"), OSError(28, "x"), ValueError("x")])
@pytest.mark.parametrize("word", ["on_line", "on_record"])
def test_what_those_who_are_told_run_into_is_not_the_hosts(word: str, error: Exception) -> None:
    def told(*_: object) -> None:
        raise error

    with closing(LocalChannel()) as channel, pytest.raises(type(error)) as raised:
        Shell("here", channel).run("rec a echo x", timeout=10, **{word: told})  # type: ignore[arg-type]
    assert raised.value is error


def framed(number: int, body: bytes) -> bytes:
    return b"\nN>a\n%s\nN<a 0\n" % body * number


@pytest.mark.parametrize(
    ("chunk", "told"),
    [
        (framed(100, b""), "1000 answers"),
        (framed(1, b"x" * 10_000), "200000 bytes of answers"),
        (b"\nN>a\n" * 100, "bytes of answers"),  # begun and begun again
        (b"\nN>a\n" + b"\n" * 10_000, "bytes of answers"),
        (b"\nN<a 0\n" * 100, "bytes of answers"),
        (b"N" * 10_000, "100000 bytes in one answer"),
    ],
)
def test_a_host_that_frames_without_end_uses_bounded_memory(
    chunk: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvsfab.session.MAX_RECORD", 100_000)
    monkeypatch.setattr("lvsfab.session.MAX_ANSWERS", 200_000)
    monkeypatch.setattr("lvsfab.session.MAX_RECORDS", 1000)
    framer, records = Framer("N"), []
    tracemalloc.start()
    try:
        with pytest.raises(TooMuchError, match=told):
            for _ in range(10_000):
                records += framer.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 600_000
    assert len(records) <= 1000
