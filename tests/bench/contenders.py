"""Who does the work in the bench: each a command line, made for a number of hosts.

The work is the same for all: a directory /srv/bench and ten small files in it, idempotent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.sshd import PORT, Fleet
from tests.sshd import USER

FILES = 10
VENVS = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lvsfab" / "bench"
LVSFAB = Path(sys.executable).parent / "lvsfab"
CONTENT = [f"file number {i}\n" for i in range(FILES)]


@dataclass(frozen=True)
class Contender:
    """`make` writes what it needs into the folder given and returns the command line."""

    name: str
    make: Callable[[Fleet, int, Path], list[str]]
    package: str = ""  # installed into a venv of its own
    most: int = 200  # hosts beyond which it is not asked (its time is known by then)

    def rounds(self, hosts: int) -> int:
        """How often it is asked: those held against each other closely more often."""
        return 1 if self.package or hosts > 50 else 5 if hosts <= 10 else 3


def install(package: str) -> str:
    """ "" when it is there; else why it cannot be installed."""
    bin_ = VENVS / package / "bin"
    marker = VENVS / f"{package}.ok"
    if marker.exists():
        return ""
    VENVS.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(bin_.parent)], check=True)
    done = subprocess.run(
        [str(bin_ / "pip"), "install", "-q", "--disable-pip-version-check", package],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["pip failed"])[-1][:200]
    marker.touch()
    return ""


def _script() -> str:
    """The work as a person would write it for `sh -s`: write what differs, nothing else."""
    lines = ["set -e", "mkdir -p /srv/bench"]
    for i, text in enumerate(CONTENT):
        path = f"/srv/bench/f{i}"
        lines.append(
            f'[ "$(cat {path} 2>/dev/null)" = "{text.strip()}" ] || '
            f'{{ echo "{text.strip()}" >{path}.new; mv {path}.new {path}; }}'
        )
    return "\n".join(lines) + "\n"


def openssh(fleet: Fleet, number: int, folder: Path, *options: str) -> list[str]:
    (folder / "script").write_text(_script())
    (folder / "hosts").write_text("\n".join(fleet.hosts[:number]) + "\n")
    ssh = (
        f"exec ssh {' '.join(options)} -F none -T -i {fleet.key} -o IdentitiesOnly=yes "
        f"-o BatchMode=yes "
        f"-o UserKnownHostsFile={fleet.known} -p {PORT} {USER}@{{}} sh -s <{folder}/script"
    )
    line = f"xargs -P 64 -I{{}} sh -c '{ssh}' <{folder}/hosts"
    return ["sh", "-c", line]


def openssh_same(fleet: Fleet, number: int, folder: Path) -> list[str]:
    """With the key exchange that paramiko and this server agree on: OpenSSH's own first choice
    against a quantum computer (sntrup761) costs several times as much processor time.
    """
    return openssh(fleet, number, folder, "-o KexAlgorithms=curve25519-sha256")


def _inventory(fleet: Fleet, number: int, folder: Path) -> Path:
    path = folder / "inventory.yml"
    lines = ["name: bench", "hosts:"]
    for host in fleet.hosts[:number]:
        login = f"{{host: {host}, port: {PORT}, user: {USER}, key: {fleet.key}}}"
        lines.append(f"  {host}: {{ssh: {login}}}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _home(fleet: Fleet, folder: Path) -> list[str]:
    """With a home of its own, whose known_hosts has the hosts."""
    (folder / ".ssh").mkdir(mode=0o700, exist_ok=True)
    (folder / ".ssh/known_hosts").write_bytes(fleet.known.read_bytes())
    return ["env", f"HOME={folder}", f"XDG_STATE_HOME={folder}"]


def lvsfab_script(fleet: Fleet, number: int, folder: Path) -> list[str]:
    (folder / "script").write_text(_script())
    path = _inventory(fleet, number, folder)
    return [*_home(fleet, folder), str(LVSFAB), "run", "-i", str(path), "*",
            "--script", f"{folder}/script", "--timeout", "600"]  # fmt: skip


def lvsfab_states(fleet: Fleet, number: int, folder: Path) -> list[str]:
    path = _inventory(fleet, number, folder)
    text = path.read_text()
    text = text.replace("{ssh:", "{groups: [bench], ssh:")
    path.write_text(text)
    lines = ["name: bench", "title: ten small files", "steps:", "  - on: bench", "    do:"]
    for i, content in enumerate(CONTENT):
        lines.append(
            f"      - file: {{path: /srv/bench/f{i}, content: {json.dumps(content)}, mode: '0644'}}"
        )
    (folder / "files.yml").write_text("\n".join(lines) + "\n")
    return [*_home(fleet, folder), str(LVSFAB), "apply", "-i", str(path), f"{folder}/files.yml"]


def ansible(fleet: Fleet, number: int, folder: Path) -> list[str]:
    names = "\n".join(fleet.hosts[:number])
    common = f"ansible_port={PORT} ansible_user={USER} ansible_ssh_private_key_file={fleet.key}"
    python = "ansible_python_interpreter=/usr/bin/python3"
    variables = "\n".join(f"{word}" for word in [*common.split(), python])
    (folder / "hosts.ini").write_text(f"[all]\n{names}\n[all:vars]\n{variables}\n")
    tasks = [{"file": {"path": "/srv/bench", "state": "directory"}}]
    tasks += [
        {"copy": {"dest": f"/srv/bench/f{i}", "content": text}} for i, text in enumerate(CONTENT)
    ]
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(play))
    (folder / "ansible.cfg").write_text(
        "[defaults]\nforks = 50\nretry_files_enabled = False\n"
        f"remote_tmp = /srv/.ansible\nlocal_tmp = {folder}/tmp\n"
        "[ssh_connection]\npipelining = True\n"
        f"ssh_args = -F none -o UserKnownHostsFile={fleet.known} -o ControlMaster=auto "
        f"-o ControlPersist=60s\ncontrol_path_dir = {folder}/cp\n"
    )
    return [*_home(fleet, folder), f"ANSIBLE_CONFIG={folder}/ansible.cfg", "LC_ALL=C.UTF-8",
            str(VENVS / "ansible-core/bin/ansible-playbook"),
            "-i", f"{folder}/hosts.ini", f"{folder}/play.yml"]  # fmt: skip


def pyinfra(fleet: Fleet, number: int, folder: Path) -> list[str]:
    data = {"ssh_port": PORT, "ssh_user": USER, "ssh_key": str(fleet.key),
            "ssh_known_hosts_file": str(fleet.known)}  # fmt: skip
    hosts = [(host, data) for host in fleet.hosts[:number]]
    (folder / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    lines = ["import io", "from pyinfra.operations import files", 'files.directory("/srv/bench")']
    for i, text in enumerate(CONTENT):
        lines.append(f'files.put(src=io.StringIO({text!r}), dest="/srv/bench/f{i}")')
    (folder / "deploy.py").write_text("\n".join(lines) + "\n")
    return [*_home(fleet, folder), str(VENVS / "pyinfra/bin/pyinfra"), "-y", "--parallel", "50",
            f"{folder}/inventory.py", f"{folder}/deploy.py"]  # fmt: skip


def fabric(fleet: Fleet, number: int, folder: Path) -> list[str]:
    (folder / "script").write_text(_script())
    (folder / "work.py").write_text(f"""
import sys
from fabric import Connection, ThreadingGroup
options = {{"key_filename": {str(fleet.key)!r}, "allow_agent": False, "look_for_keys": False}}
script = open({str(folder / "script")!r}).read()
hosts = {list(fleet.hosts[:number])!r}
group = ThreadingGroup.from_connections(
    Connection(h, user={USER!r}, port={PORT}, connect_kwargs=options) for h in hosts)
done = group.run(script, hide=True, in_stream=False)
sys.exit(any(r.failed for r in done.values()))
""")
    return [*_home(fleet, folder), str(VENVS / "fabric/bin/python"), f"{folder}/work.py"]


def salt(fleet: Fleet, number: int, folder: Path) -> list[str]:
    for name in ("cache", "pki", "logs", "srv"):
        (folder / name).mkdir(exist_ok=True)
    roster = {
        host: {"host": host, "port": PORT, "user": USER, "priv": str(fleet.key),
               "thin_dir": "/srv/.salt"}
        for host in fleet.hosts[:number]
    }  # fmt: skip
    (folder / "roster").write_text(json.dumps(roster))
    work = {f"/srv/bench/f{i}": {"file.managed": [{"contents": text}, {"makedirs": True}]}
            for i, text in enumerate(CONTENT)}  # fmt: skip
    (folder / "srv/bench.sls").write_text(json.dumps(work))
    (folder / "master").write_text(json.dumps({
        "root_dir": str(folder), "cachedir": f"{folder}/cache", "pki_dir": f"{folder}/pki",
        "log_file": f"{folder}/logs/log", "file_roots": {"base": [f"{folder}/srv"]},
        "ssh_max_procs": 50, "sock_dir": f"{folder}/sock",
    }))  # fmt: skip
    return [*_home(fleet, folder), str(VENVS / "salt/bin/salt-ssh"), "-c", str(folder),
            "--roster-file", f"{folder}/roster",
            "--ssh-option", f"UserKnownHostsFile={fleet.known}",
            "*", "state.apply", "bench"]  # fmt: skip


FLOOR, RUN, APPLY = "OpenSSH, sh -s (the floor)", "lvsfab run --script", "lvsfab apply"
ALL = (
    Contender(FLOOR, openssh),
    Contender("the same, key exchange as lvsfab's", openssh_same),
    Contender(RUN, lvsfab_script, most=1000),
    Contender(APPLY, lvsfab_states),
    Contender("fabric ThreadingGroup", fabric, "fabric"),
    Contender("pyinfra", pyinfra, "pyinfra"),
    Contender("ansible-core", ansible, "ansible-core"),
    Contender("salt-ssh", salt, "salt", most=10),
)
