"""The executor on real hosts: each flag, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest
from tests.e2e.snapshot import differences
from tests.unit.test_docs import block

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield


def test_targets_by_fact_and_compound(lab: LabUnderTest) -> None:
    done = lab.cli("hosts", "role:real_server and not rs3", "--json")
    assert [h["name"] for h in done.json["hosts"]] == ["rs1", "rs2"]
    done = lab.cli("hosts", "fact:hostname=rs[12]", "--json")
    assert [h["name"] for h in done.json["hosts"]] == ["rs1", "rs2"]
    assert "matches no host" in lab.cli("hosts", "web*", code=64).err


def test_run_shell_script_stdin_cwd_env(lab: LabUnderTest, tmp_path: Path) -> None:
    done = lab.cli("run", "rs1", "--cwd", "/etc", "--env", "A=b c", "--shell", 'pwd; echo "$A"')
    assert done.out.split("\n")[:2] == ["rs1      /etc", "rs1      b c"]
    script = tmp_path / "script"
    script.write_text('#!/bin/bash\necho "$BASH_VERSION" | cut -c1; cat; echo "$1"\n')
    (tmp_path / "in").write_text("from stdin\n")
    done = lab.cli("run", "rs1", "--script", str(script), "--stdin", str(tmp_path / "in"),
                   "--json", "--", "an argument")  # fmt: skip
    assert done.json["output"] == "5\nfrom stdin\nan argument\n"


def test_equal_outputs_are_grouped(lab: LabUnderTest) -> None:
    done = lab.cli("run", "rs*", "--group", "--", "echo", "same")
    assert done.out == "rs1, rs2, rs3 (3)\n  same\n"


def test_failures_are_listed_and_retried(lab: LabUnderTest) -> None:
    text = "echo told; [ $(hostname) != rs2 ]"
    done = lab.cli("run", "rs*", "--shell", text, code=5)
    assert "rs2      FAILED exit status 1" in done.err
    assert "3 hosts: 2 ok, 1 failed" in done.err
    done = lab.cli("run", "rs*", "--retry-failed", "--json", "--", "true")
    assert [d["host"] for d in done.documents()] == ["rs2"]
    assert "nothing to do" in lab.cli("run", "--retry-failed", "rs*", "--", "true").err


def test_bounds_on_failures(lab: LabUnderTest) -> None:
    done = lab.cli("run", "rs*", "--parallel", "1", "--fail-fast", "--json", "--", "false", code=5)
    assert [d["state"] for d in done.documents()] == ["failed", "not_run", "not_run"]
    done = lab.cli("run", "rs*", "--batch", "2", "--max-fail", "1", "--json", "--", "false", code=5)
    assert [d["state"] for d in done.documents()].count("not_run") == 1


def test_a_command_that_takes_too_long_is_stopped_there(lab: LabUnderTest) -> None:
    mark = f"60.{uuid.uuid4().int % 10**9}"
    done = lab.cli("run", "rs1", "--timeout", "1", "--json", "--", "sleep", mark, code=5)
    assert done.json["status"] == 124
    assert "timed out after 1 s" in done.json["error"]
    assert lab.sh("rs1", f"ps -eo args | grep -c '[s]leep {mark}' || :").strip() == "0"


def test_facts_tell_what_lvs_needs(lab: LabUnderTest) -> None:
    done = lab.cli("facts", "role:director", "--json").json
    assert done["host"] == "director"
    assert done["modules"]["ip_vs"] in ("present", "loadable")
    assert done["sysctls"]["net.ipv4.ip_forward"]["value"] == "0"
    assert "ipvsadm" in done["tools"]
    devices = {d["name"]: d for d in done["interfaces"]}
    assert "10.1.1.250/24" in devices["eth0"]["addresses"]
    assert "LVS tun" in lab.cli("facts", "director").out


def test_ctrl_c_stops_the_commands_and_says_so(lab: LabUnderTest) -> None:
    mark = f"60.{uuid.uuid4().int % 10**9}"
    argv = [str(LVSFAB), "run", "-i", str(lab.path), "rs*", "--shell", f"echo on; sleep {mark}"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline().endswith("on\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: stopped on rs1, rs2, rs3" in err
    look = f"ps -eo args | grep '[s]leep {mark}'"
    assert lab.cli("run", "rs*", "--shell", look, code=5).out == ""


def test_a_killed_controller_leaves_no_command(lab: LabUnderTest) -> None:
    mark = f"60.{uuid.uuid4().int % 10**9}"
    argv = [str(LVSFAB), "run", "-i", str(lab.path), "rs1", "--shell", f"echo on; sleep {mark}"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline().endswith("on\n")
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while lab.sh("rs1", f"ps -eo args | grep -c '[s]leep {mark}' || :").strip() != "0":
        assert time.monotonic() < deadline, "its command is still there"


def test_put_and_get(lab: LabUnderTest, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(200_000))
    put = ("put", "rs1 or rs2", str(source), "/root/there", "--mode", "0600", "--owner", "root")
    assert lab.cli(*put, "--dry-run", code=2).err.count("new") == 2
    assert lab.cli(*put).err.count("new") == 2
    assert lab.cli(*put).err.count("equal") == 2
    owned = ("put", "rs1", str(source), "/root/there", "--owner")
    assert "owner, group: changed" in lab.cli(*owned, "nobody:nogroup").err
    assert lab.sh("rs1", "stat -c '%U %G %a' /root/there") == "nobody nogroup 600\n"
    assert "equal" in lab.cli(*owned, "65534:65534").err
    lab.cli("get", "rs1 or rs2", "/root/there", str(tmp_path / "got"))
    lab.cli("get", "rs1", "/proc/sys/kernel/hostname", str(tmp_path / "got"))
    assert (tmp_path / "got/rs1/hostname").read_text() == "rs1\n"
    assert (tmp_path / "got/rs2/there").read_bytes() == source.read_bytes()
    lab.cli("run", "rs1 or rs2", "--", "rm", "/root/there")


def test_ctrl_c_ends_a_copy_and_leaves_no_part_of_it(lab: LabUnderTest, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(200_000_000)
    argv = [str(LVSFAB), "put", "-i", str(lab.path), "rs1", str(source), "/dev/shm/there", "--json"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    look = "ls /dev/shm/.lvsfab.* /dev/shm/there 2>/dev/null || :"
    deadline = time.monotonic() + 30
    while not lab.sh("rs1", look):
        assert time.monotonic() < deadline, "nothing of it arrives"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert '"state":"stopped"' in out.replace(" ", "")
    assert "interrupted: stopped on rs1" in err
    while lab.sh("rs1", look):
        assert time.monotonic() < deadline, "a part of it stays"


def test_a_state_is_planned_made_and_undone(clean: LabUnderTest) -> None:
    state = ("state", "rs1 or rs2", "sysctl", "net.ipv4.ip_forward=1")
    before = clean.snapshot()
    assert clean.cli(*state, "--dry-run", code=2).out.count("0 -> 1") == 2
    assert differences(before, clean.snapshot()) == []
    assert "2 changes on 2 of 2 hosts" in clean.cli(*state).err
    assert "0 changes" in clean.cli(*state).err
    clean.cli("down")
    clean.left_nothing()


def test_a_recipe_of_ones_own_is_added_to_what_is_up(clean: LabUnderTest, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    recipe.write_text(
        "name: mine\ntitle: a page\nsteps:\n  - on: real_server\n    do:\n"
        "      - file: {path: /srv/mine, content: hello}\n"
        "  - on: director\n    do:\n      - file: {path: /srv/later, content: hello}\n"
    )
    clean.cli("up", "tun", "--no-verify")
    assert clean.cli("apply", str(recipe), "--dry-run", code=2).out.count("/srv/") == 3
    done = clean.cli("apply", str(recipe), "--batch", "1")
    assert done.err.index("rs1") < done.err.index("rs2") < done.err.index("/srv/later")
    assert "3 changes" in done.err
    assert "0 changes" in clean.cli("apply", str(recipe)).err
    assert clean.cli("plan", "tun", code=2).out.count("/srv/mine") > 0  # `up` would take it back
    clean.cli("verify", "-n", "6")
    clean.cli("down")
    clean.left_nothing()


def test_from_python(lab: LabUnderTest) -> None:
    """The example of docs/executor.md, as it stands there."""
    text = block("executor.md", "python")
    found: dict[str, Any] = {}
    assert "inventory/lab.yml" in text
    exec(text.replace("inventory/lab.yml", str(lab.path)), found)  # noqa: S102 - our own document
    done = found["done"]
    assert {h: r.output.strip() for h, r in done.results.items()} == {
        "rs1": "rs1", "rs2": "rs2", "rs3": "rs3",
    }  # fmt: skip
    assert done.ok
    assert found["facts"]["rs1"].able["tun"] == ()
    steps = found["plan"].plans["rs1"].steps
    assert [s.id for s in steps] == ["sysctl:net.ipv4.ip_forward"]
    failed = found["fleet"].run("rs1", shell="exit 3")
    assert (failed.ok, failed.failed["rs1"].status, failed.exit_code) == (False, 3, 5)
