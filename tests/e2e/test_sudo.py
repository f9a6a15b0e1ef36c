"""Logging in as somebody else than root, on real hosts: sudo with and without a password, and where
that password can be seen (nowhere).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest

pytestmark = pytest.mark.lab

CANARY = "Canary-5x!'$(touch /root/oops)"  # what a shell would do something with, if it saw it
ASKED, FREE, HOSTS = "asked", "free", "rs1 or rs2"

# Two users: one whom sudo asks for the password, one whom it does not.
USERS = f"""
for user in {ASKED} {FREE}; do
  useradd -m -s /bin/sh "$user"
  install -d -m 700 -o "$user" -g "$user" "/home/$user/.ssh"
  install -m 600 -o "$user" -g "$user" /root/.ssh/authorized_keys "/home/$user/.ssh/"
done
usermod -p "*" {FREE} # else it is locked: no login by key either
cat >/root/word && chpasswd </root/word && rm /root/word
chmod u+s /usr/bin/sudo # a lab's image has no such file on this machine
umask 077
echo '{ASKED} ALL=(ALL) ALL' >/etc/sudoers.d/test
echo '{FREE} ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers.d/test
"""
# Everything that somebody else, or a later reader, could see on a host.
LOOK = r"""
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n'
find /run /var/lib/lvsfab /var/log /tmp /var/tmp /home /root -xdev -type f -size -4M \
  -exec cat {} + 2>/dev/null
ls -la /root
"""


def lvsfab(lab: LabUnderTest, path: Path, *argv: str, said: str = "") -> tuple[int, str]:
    """Exit code and all that it printed; `said` is its standard input."""
    split = argv.index("--") if "--" in argv else len(argv)
    words = [str(LVSFAB), *argv[:split], "-i", str(path), *argv[split:]]
    done = subprocess.run(
        words, input=said, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def users(lab: LabUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The lab's inventory again, with each of the two users on rs1 and rs2."""
    folder = tmp_path_factory.mktemp("sudo")
    (folder / "users").write_text(USERS)
    (folder / "word").write_text(f"{ASKED}:{CANARY}\n")
    files = ("--script", str(folder / "users"), "--stdin", str(folder / "word"))
    lab.cli("run", HOSTS, *files)
    found = {}
    for user in (ASKED, FREE):
        text = lab.path.read_text()
        for host in ("rs1", "rs2"):
            assert f"\n  {host}:\n" in text
            login = f"    ssh: {{user: {user}, sudo: {'true' if user == ASKED else 'false'}}}\n"
            text = text.replace(f"\n  {host}:\n", f"\n  {host}:\n{login}")
        found[user] = folder / f"{user}.yml"
        found[user].write_text(text)
    yield found
    for host in ("rs1", "rs2"):
        lab.cli("lab", "reboot", host)  # and it is pristine


def seen_here(mark: str) -> str:
    """Arguments and environment of what runs here and has `mark` in its arguments."""
    text = ""
    for path in [process / "cmdline" for process in Path("/proc").iterdir()]:
        try:
            raw = path.read_bytes()
            if mark.encode() in raw:
                text += (raw + path.with_name("environ").read_bytes()).decode(errors="replace")
        except OSError:
            continue
    return text


def test_the_password_is_asked_for_once_and_seen_nowhere(
    lab: LabUnderTest, users: dict[str, Path]
) -> None:
    path = users[ASKED]
    mark = f"7.{os.getpid()}"
    argv = [str(LVSFAB), "run", "-i", str(path), HOSTS, "-K", "-v", "--shell"]
    process = subprocess.Popen(
        [*argv, f"echo as $(whoami); sleep {mark}"], cwd=ROOT, text=True, env=dict(os.environ),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{CANARY}\n")  # one line for both hosts
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(3)]  # -v begins with what is run
    assert sorted(lines[1:]) == ["rs1      as root\n", "rs2      as root\n"]
    there = lab.cli("run", HOSTS, "--json", "--shell", LOOK).out
    assert mark in there  # it looked while the command ran
    here = seen_here(mark)
    assert mark in here
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    code, made = lvsfab(lab, path, "state", HOSTS, "sysctl", "net.ipv4.ip_forward=1", "-K", "-v",
                        said=f"{CANARY}\n")  # fmt: skip
    assert code == 0
    assert "2 changes on 2 of 2 hosts" in made
    code, undone = lvsfab(lab, path, "plan", "tun", "-K", "-v", said=f"{CANARY}\n")
    assert code in (0, 2)
    after = lab.cli("run", HOSTS, "--json", "--shell", LOOK).out
    lab.cli("down")
    records = [p.read_text() for p in Path(os.environ["XDG_STATE_HOME"]).rglob("*.json*")]
    assert any('"state"' in text for text in records)
    for text in (*lines, rest, there, here, made, undone, after, *records):
        assert "Canary" not in text
    assert "oops" not in after


def test_a_wrong_password_and_none_are_told_apart(
    lab: LabUnderTest, users: dict[str, Path]
) -> None:
    run = ("run", "rs1", "--json")
    code, said = lvsfab(lab, users[ASKED], *run, "-K", "--", "true", said="Canary-wrong\n")
    assert code == 4
    assert "sudo does not take the password" in json.loads(said.splitlines()[0])["error"]
    assert "Canary" not in said
    code, said = lvsfab(lab, users[ASKED], *run, "--", "true")
    assert code == 4
    assert "-K asks for it" in json.loads(said.splitlines()[0])["tip"]
    code, said = lvsfab(lab, users[ASKED], *run, "-K", "--", "true")
    assert code == 64


def test_where_sudo_does_not_ask_the_password_goes_nowhere(
    lab: LabUnderTest, users: dict[str, Path]
) -> None:
    path = users[FREE]
    for more, typed, who in (
        ((), "", FREE), (("--sudo",), "", "root"), (("--sudo", "-K"), f"{CANARY}\n", "root"),
    ):  # fmt: skip
        code, said = lvsfab(lab, path, "run", "rs1", *more, "--", "whoami", said=typed)
        assert (code, said) == (0, f"rs1      {who}\n")
    assert "oops" not in lab.sh("rs1", "ls /root")


def test_states_and_facts_as_root(
    lab: LabUnderTest, users: dict[str, Path], tmp_path: Path
) -> None:
    path = users[FREE]
    recipe = tmp_path / "mine.yml"
    lines = [
        "name: mine\ntitle: two phases\nsteps:",
        "  - on: real_server\n    do:\n      - file: {path: /srv/mine, content: mine}",
        "  - on: real_server\n    do:\n      - sysctl: {name: net.ipv4.ip_forward, value: 1}",
    ]
    recipe.write_text("\n".join(lines) + "\n")
    state = ("state", "rs1", "sysctl", "net.ipv4.ip_forward=1")
    assert lvsfab(lab, path, *state)[0] in (1, 4, 5)
    assert lab.sh("rs1", "cat /proc/sys/net/ipv4/ip_forward") == "0\n"
    assert lvsfab(lab, path, *state, "--sudo")[0] == 0
    assert lab.sh("rs1", "cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    assert lvsfab(lab, path, "apply", str(recipe), "--sudo")[0] == 0
    assert lab.sh("rs2", "cat /srv/mine") == "mine"
    assert lvsfab(lab, path, "facts", "rs1", "--sudo")[0] == 0
    lab.cli("down")
    assert lab.sh("rs1", "cat /proc/sys/net/ipv4/ip_forward") == "0\n"


def test_files_are_copied_as_root(
    lab: LabUnderTest, users: dict[str, Path], tmp_path: Path
) -> None:
    path = users[FREE]
    (tmp_path / "source").write_text("text\n")
    put = ("put", "rs1", str(tmp_path / "source"), "/root/there", "--mode", "0600")
    assert lvsfab(lab, path, *put)[0] == 5
    assert lvsfab(lab, path, *put, "--sudo")[0] == 0
    assert lvsfab(lab, path, "get", "rs1", "/root/there", str(tmp_path))[0] == 5
    assert lvsfab(lab, path, "get", "rs1", "/root/there", str(tmp_path), "--sudo")[0] == 0
    assert (tmp_path / "rs1/there").read_text() == "text\n"
    lab.sh("rs1", "rm /root/there")
