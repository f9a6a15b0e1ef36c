"""Commands under guard, in real shells: what they see, and that none outlives its controller."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsfab.errors import CommandError, InputError, UnreachableError
from lvsfab.execute.fleet import Watch, failure
from lvsfab.execute.remote import run_on
from lvsfab.execute.script import MAX_WORD, PRELUDE, interpreter, run_script
from lvsfab.execute.task import MAX_TIMEOUT, HostResult, State, Task, content
from lvsfab.session import Shell
from tests.unit.local import SHELLS, LocalChannel, shell_argv


@pytest.fixture(params=sorted(SHELLS))
def sh(request: pytest.FixtureRequest) -> list[str]:
    return shell_argv(request.param)


def run(sh: list[str], task: Task, watch: Watch | None = None) -> HostResult:
    def connect(host: str) -> Shell:
        return Shell(host, LocalChannel(sh), PRELUDE)

    return run_on(connect, task, run_script(task), watch or Watch())("here")


def sleepers(mark: str) -> list[str]:
    """Processes of this machine whose environment or arguments name `mark`."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it ends meanwhile; a glob would fail at that
            if process.name.isdigit() and int(process.name) != os.getpid():
                text = (process / "cmdline").read_bytes()
                found += [process.name] * (mark.encode() in text)
    return found


def gone(mark: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not sleepers(mark):
            return True
        time.sleep(0.05)
    return False


def test_a_command_is_its_words(sh: list[str]) -> None:
    done = run(sh, Task(argv=("printf", "%s|", "a b", "$HOME", "", "'\"")))
    assert (done.state, done.status, done.output) == (State.OK, 0, "a b|$HOME||'\"|")


def test_exit_status_and_both_streams_come_back(sh: list[str]) -> None:
    done = run(sh, Task(shell="echo out; echo err >&2; exit 7"))
    assert (done.state, done.status, done.output) == (State.FAILED, 7, "out\nerr\n")


def test_where_and_with_what(sh: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    task = Task(shell='pwd; echo "$A"; umask', cwd=str(folder), env={"A": "x 'y' $z"})
    assert run(sh, task).output == f"{folder}\nx 'y' $z\n0022\n"
    assert run(sh, Task(argv=("true",), cwd=f"{folder}/none")).state is State.FAILED


@given(data=st.binary(max_size=4000))
@settings(max_examples=15)
def test_standard_input_arrives_as_it_is(data: bytes) -> None:
    done = run(["dash", "-s"], Task(argv=("od", "-An", "-v", "-tx1"), stdin=data))
    assert bytes.fromhex(done.output) == data


def test_a_script_has_its_arguments_and_leaves_nothing(sh: list[str]) -> None:
    script = b'#!/bin/sh -e\necho "$0" "$#" "$2"\nfalse\necho never\n'
    done = run(sh, Task(script=script, argv=("one", "two words")))
    path, rest = done.output.split(" ", 1)
    assert rest == "2 two words\n"
    assert done.status == 1
    assert not Path(path).parent.exists()


def test_a_long_text_is_sent_as_a_script(sh: list[str]) -> None:
    text = "echo begin\n" + "# " + "x" * (2 * MAX_WORD) + "\necho end"
    assert run(sh, Task(shell=text)).output == "begin\nend\n"


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"#!/usr/bin/env python3\n", ("/usr/bin/env", "python3")),
        (b"#! /bin/bash\n", ("/bin/bash",)),
        (b"#!/usr/bin/env -S python3 -u\n", ("/usr/bin/env", "-S python3 -u")),
        (b"echo\n", ("sh",)),
        (b"#!\n", ("sh",)),
        (b"", ("sh",)),
    ],
)
def test_the_first_line_names_the_interpreter(first: bytes, words: tuple[str, ...]) -> None:
    assert interpreter(first) == words


def test_time_over_stops_the_command_and_its_children(sh: list[str]) -> None:
    mark = f"30.{uuid.uuid4().int % 10**9}"
    done = run(sh, Task(shell=f"echo begun; sleep {mark} & sleep {mark}", timeout=0.5))
    assert (done.state, done.status) == (State.FAILED, 124)
    assert "timed out after 0.5 s" in done.error
    assert done.output == "begun\n"
    assert gone(mark)


def test_the_longest_time_there_is_and_none_are_waited_for(sh: list[str]) -> None:
    """More would be an error in the one thread that serves all time-outs."""
    watch = Watch()
    assert run(sh, Task(argv=("true",), timeout=MAX_TIMEOUT), watch).state is State.OK
    assert run(sh, Task(argv=("true",)), watch).state is State.OK
    assert run(sh, Task(argv=("sleep", "30"), timeout=0.3), watch).status == 124


def test_what_ignores_being_asked_is_killed(sh: list[str]) -> None:
    mark = f"30.{uuid.uuid4().int % 10**9}"
    done = run(sh, Task(shell=f"trap '' TERM; echo begun; sleep {mark}; sleep {mark}", timeout=0.5))
    assert done.status == 124
    assert gone(mark)


def test_a_command_has_the_signals_of_any(sh: list[str]) -> None:
    """What a shell runs in the background ignores SIGINT and SIGQUIT; no shell can undo that."""
    began = time.monotonic()
    done = run(sh, Task(argv=("timeout", "-s", "INT", "0.3", "sleep", "20")))
    assert done.status == 124
    assert time.monotonic() - began < 10
    look = ("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    any_ = subprocess.run(look, capture_output=True, text=True, check=True).stdout
    assert run(sh, Task(argv=look)).output.splitlines() == any_.splitlines()


def test_a_command_has_three_open_files(sh: list[str]) -> None:
    done = run(sh, Task(shell="ls /proc/$$/fd"))
    assert done.output.split() == ["0", "1", "2"]


def test_what_ends_by_a_signal_says_no_more_than_it_did(sh: list[str]) -> None:
    done = run(sh, Task(shell="echo one; echo two >&2; kill -9 $$"))
    assert (done.status, done.output) == (137, "one\ntwo\n")


def test_stopping_is_told_by_the_host_itself(sh: list[str]) -> None:
    mark = f"30.{uuid.uuid4().int % 10**9}"
    watch = Watch()

    def stop() -> None:
        while not sleepers(mark):
            time.sleep(0.02)
        time.sleep(0.1)
        watch.stop()

    threading.Thread(target=stop, daemon=True).start()
    done = run(sh, Task(argv=("sleep", mark)), watch)
    assert (done.state, done.status) == (State.FAILED, 143)
    assert not sleepers(mark)


def test_no_command_outlives_a_controller_that_vanished(sh: list[str]) -> None:
    mark = f"30.{uuid.uuid4().int % 10**9}"
    channel = LocalChannel(sh)
    shell = Shell("here", channel, PRELUDE)
    task = Task(shell=f"sleep {mark} & sleep {mark}")
    with pytest.raises(UnreachableError):
        shell.run(run_script(task), timeout=1.0)
    assert sleepers(mark)
    for stream in (channel.process.stdin, channel.process.stdout):
        assert stream is not None
        stream.close()
    assert gone(mark)
    channel.process.wait(timeout=5)
    channel.close()


def test_what_was_said_before_the_link_was_lost_is_kept(sh: list[str]) -> None:
    with pytest.raises(UnreachableError) as error:
        run(sh, Task(shell="echo one; printf two; kill -9 $PPID"))
    assert failure("here", error.value).output == "one\ntwo"


def test_the_shell_is_there_for_the_next_script(sh: list[str]) -> None:
    """The watcher takes nothing of what follows."""
    channel = LocalChannel(sh)
    shell = Shell("here", channel, PRELUDE)
    for word in ("one", "two", "three"):
        (record,) = shell.run(run_script(Task(argv=("echo", word))), timeout=10)
        assert record.output == f"{word}\n"
    shell.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"shell": "x", "script": b"y"},
        {"shell": "x", "argv": ("y",)},
        {"argv": ("a\0b",)},
        {"argv": ("a",), "env": {"A-B": "c"}},
        {"argv": ("a",), "env": {"1A": "c"}},
        {"argv": ("a",), "timeout": float("nan")},
        {"argv": ("a",), "timeout": float("inf")},
        {"argv": ("a",), "timeout": -1.0},
    ],
)
def test_what_cannot_be_run_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Task(**fields)  # type: ignore[arg-type]


def test_half_a_script_is_never_run(sh: list[str], tmp_path: Path) -> None:
    """Where the host has no room for what is sent, nothing is run."""
    mark = tmp_path / "mark"
    script = f": >{mark}\n".encode() * 20_000
    shell = Shell("here", LocalChannel(sh), PRELUDE)
    shell.run(f"ulimit -f 8; trap '' XFSZ; TMPDIR={tmp_path}", timeout=5)
    with pytest.raises(CommandError, match="has no room for what was sent"):
        run_on(lambda _: shell, task := Task(script=script), run_script(task), Watch())("here")
    assert not mark.exists()
    assert not list(tmp_path.iterdir())


def test_what_was_sent_goes_with_a_controller_that_vanished(sh: list[str], tmp_path: Path) -> None:
    channel = LocalChannel(sh)
    shell = Shell("here", channel, PRELUDE)
    shell.run(f"TMPDIR={tmp_path}", timeout=5)
    with pytest.raises(UnreachableError):
        shell.run(run_script(Task(script=b"sleep 30")), timeout=1.0)
    assert list(tmp_path.iterdir())
    channel.close()
    assert not list(tmp_path.iterdir())


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsfab.execute.task.MAX_SENT", 1000)
    with pytest.raises(InputError, match="cannot be sent with a command"):
        Task(argv=("cat",), stdin=content(Path("/dev/zero")))
