"""Inventories from ssh_config, a list, Ansible's files and an executable."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lvsfab import sources
from lvsfab.errors import InputError
from lvsfab.model import Inventory, SSHLogin
from lvsfab.sources.ansible import expand
from lvsfab.sources.hosts import from_list
from tests.unit.bounded import answer

YAML = """\
all:
  vars: {ansible_user: admin, ansible_port: 2222}
  hosts:
    lone: {ansible_host: 192.0.2.9}
  children:
    director:
      hosts:
        d1: {ansible_port: 22, ansible_become: true}
    web:
      vars: {ansible_user: www}
      hosts:
        web[01:03]:
      children:
        edge:
          hosts: {e1: }
"""
INI = """\
# a comment
lone ansible_host=192.0.2.9
[director]
d1 ansible_port=22 ansible_become=true
[web]
web[01:03]
[edge]
e1
[web:children]
edge
[web:vars]
ansible_user=www
[all:vars]
ansible_user=admin
ansible_port=2222
"""
DYNAMIC = {
    "_meta": {"hostvars": {"lone": {"ansible_host": "192.0.2.9"},
                           "d1": {"ansible_port": 22, "ansible_become": True}}},
    "all": {"vars": {"ansible_user": "admin", "ansible_port": 2222}, "hosts": ["lone"]},
    "director": ["d1"],
    "web": {"hosts": ["web01", "web02", "web03"], "children": ["edge"],
            "vars": {"ansible_user": "www"}},
    "edge": {"hosts": ["e1"]},
}  # fmt: skip


def written(folder: Path, form: str) -> Path:
    if form == "yaml":
        path = folder / "a.yml"
        path.write_text(YAML)
    elif form == "ini":
        path = folder / "a"
        path.write_text(INI)
    else:
        path = folder / "a.sh"
        path.write_text(
            f"#!/bin/sh\n[ \"$1\" = --list ] || exit 3\ncat <<'E'\n{json.dumps(DYNAMIC)}\nE\n"
        )
        path.chmod(0o755)
    return path


@pytest.mark.parametrize("form", ["yaml", "ini", "program"])
def test_ansibles_three_forms_mean_the_same(form: str, tmp_path: Path) -> None:
    found = sources.load(str(written(tmp_path, form)))
    assert found.name == "a"
    assert set(found.hosts) == {"lone", "d1", "web01", "web02", "web03", "e1"}
    assert found.hosts["lone"].ssh == SSHLogin("192.0.2.9", 2222, "admin")
    assert found.hosts["d1"].ssh == SSHLogin("d1", 22, "admin", sudo=True)
    assert found.hosts["d1"].roles == {"director"}
    assert found.hosts["web02"].ssh == SSHLogin("web02", 2222, "www")
    assert found.hosts["e1"].groups == {"edge", "web"}
    assert found.hosts["e1"].ssh.user == "www"


def test_a_program_without_meta_is_asked_for_each_host(tmp_path: Path) -> None:
    path = tmp_path / "inv"
    path.write_text(
        '#!/bin/sh\ncase $1 in\n--list) echo \'{"g": {"hosts": ["a"]}}\' ;;\n'
        '--host) echo \'{"ansible_host": "192.0.2.1"}\' ;;\nesac\n'
    )
    path.chmod(0o755)
    assert sources.load(str(path)).hosts["a"].ssh.host == "192.0.2.1"


@pytest.mark.parametrize(
    ("body", "told"),
    [("exit 3", "status 3"), ("echo nothing", "no JSON"), ("echo '[]'", "no object")],
)
def test_a_program_that_fails_is_told(body: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "inv"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    with pytest.raises(InputError, match=told):
        sources.load(str(path))


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("[web]\na\nb x\n")
    with pytest.raises(InputError, match=r"hosts:3: .*NAME=VALUE"):
        sources.load(str(path))


def test_a_group_that_is_its_own_child_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("[a]\nx\n[a:children]\nb\n[b:children]\na\n")
    with pytest.raises(InputError, match="child of itself"):
        sources.load(str(path))


def test_a_template_is_refused_not_used(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a ansible_host={{lookup}}\n")
    with pytest.raises(InputError, match="template"):
        sources.load(str(path))


CONFIG = """\
Host web1 web2
  HostName %h.example.org
  User www
Host db !web1
  HostName 192.0.2.7
  Port 2200
  IdentityFile ~/.ssh/db
Include more/*.conf
Host *
  User everyone
"""


def test_hosts_of_an_ssh_config(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.conf").write_text("Host extra\n  Port=23\n")
    path = tmp_path / "config"
    path.write_text(CONFIG)
    found = sources.load(f"ssh_config:{path}")
    assert list(found.hosts) == ["web1", "web2", "db", "extra"]
    assert found.hosts["web2"].ssh == SSHLogin("web2.example.org", user="www")
    assert found.hosts["db"].ssh == SSHLogin(
        "192.0.2.7", 2200, "everyone", Path("~/.ssh/db").expanduser()
    )
    assert found.hosts["extra"].ssh == SSHLogin("extra", 23, "everyone")


def test_of_the_users_own_ssh_config_names_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(CONFIG)
    assert sources.load("ssh_config").hosts["db"].ssh == SSHLogin("db")


def test_a_list_of_hosts() -> None:
    found = sources.load("hosts:a,root@b:2222,[fd00::1]:22 c.example.org")
    assert found.name == "hosts"
    assert {n: (h.ssh.host, h.ssh.port, h.ssh.user) for n, h in found.hosts.items()} == {
        "a": ("a", None, ""),
        "b": ("b", 2222, "root"),
        "fd00--1": ("fd00::1", 22, ""),
        "c.example.org": ("c.example.org", None, ""),
    }


@pytest.mark.parametrize("text", ["", ",", "a b:x", "a:99999", "-oProxyCommand=x", "a;b", "[::1"])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_list(text)


@given(st.text(max_size=40))
def test_any_text_is_hosts_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(from_list(text), Inventory)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("w[1:3]", ["w1", "w2", "w3"]),
        ("w[08:10].x", ["w08.x", "w09.x", "w10.x"]),
        ("w[a:c]", ["wa", "wb", "wc"]),
        ("w[0:9:4]", ["w0", "w4", "w8"]),
        ("w[1:2]-[a:b]", ["w1-a", "w1-b", "w2-a", "w2-b"]),
    ],
)
def test_ranges(pattern: str, names: list[str]) -> None:
    assert list(expand(pattern)) == names


def test_an_inventory_of_ours_is_still_ours() -> None:
    assert sources.load("lab").lab is not None


@pytest.mark.parametrize("group", ["lab", "name", "networks", "hosts"])
def test_a_group_of_ansibles_may_be_called_as_a_part_of_ours(group: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for text in (
        f"all: {{}}\n{group}: {{hosts: {{a: {{ansible_port: 23}}}}, vars: {{x: 1}}}}\n",
        f"all: {{children: {{{group}: {{hosts: {{a: {{ansible_port: 23}}}}}}}}}}\n",
    ):
        path.write_text(text)
        found = sources.load(str(path))
        assert found.hosts["a"].groups == {group}
        assert found.hosts["a"].ssh.port == 23


@pytest.mark.parametrize("text", [
    "name: few\nhosts: {a: {}}\nnetworks: {inner: {}}\n",
    "hosts: {a: {}}\nlab: {}\n",
    "name: all\nall: {}\n",
    "networks: {inner: {}}\nlab: {}\n",
])  # fmt: skip
def test_what_is_ours_is_not_taken_for_ansibles(text: str) -> None:
    assert not sources.ansible_yaml(yaml.safe_load(text))


def test_a_host_may_have_its_port_with_it(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(
        "web1:2222\nweb2:2222 ansible_port=23\ndb[1:2]:24\n192.0.2.1:25\nweb1 ansible_user=me\n"
    )
    assert {name: host.ssh.port for name, host in sources.load(str(path)).hosts.items()} == {
        "web1": 2222, "web2": 23, "db1": 24, "db2": 24, "192.0.2.1": 25,
    }  # fmt: skip
    path.write_text("web1:99999\n")
    with pytest.raises(InputError, match="port 99999"):
        sources.load(str(path))
    path.write_text("fd00::1\n")
    with pytest.raises(InputError, match="`fd00::1` is no host name"):
        sources.load(str(path))


def test_a_user_is_a_name_wherever_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "hosts.ini"
    path.write_text("a ansible_user='$(reboot) x'\n")
    with pytest.raises(InputError, match="no user name"):
        sources.load(str(path))
    path.write_text("Host a\n  User -oProxyCommand=x\n")
    with pytest.raises(InputError, match="no user name"):
        sources.load(f"ssh_config:{path}")


def refused(tmp_path: Path, text: str, by: str) -> str:
    """What a file of this text is refused with, within its time and memory."""
    path = tmp_path / "x.ini"
    path.write_text(text)
    module = {"from_ini": "ansible", "from_ssh_config": "ssh_config"}[by]
    return answer(f"from lvsfab.sources.{module} import {by}; {by}(there)", path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Include /dev/zero\n", "x.ini:1: /dev/zero: is no regular file"),
        ("Host a\nInclude x.ini x.ini\n", "x.ini:2: .* by Include"),
        ("Host a\nInclude * * *\n", "x.ini:2: .* by Include"),
        ("Include none\n" * 2000, "x.ini:1025: more than 1024 times Include"),
        ("Host a\nInclude ~nosuchuser/x\n", "x.ini:2: `~nosuchuser/x`"),
        ("Include a\0b\n", "x.ini:1: .*NUL"),
        ("Host a\nIdentityFile ~nosuchuser/x\n", "x.ini: a: key `~nosuchuser/x`"),
        ("Host a\nPort \u00b2\n", "Host a: Port"),
        (f"Host a\nPort {'9' * 5000}\n", "Host a: Port"),
        (f"Host a{' ' * 16000}b\n" * 30, "taken"),
        (f"Host {'a' * 1_000_000}\n", "x.ini:1: a line longer than"),
        ("".join(f"Host h{i} *{i}\n" for i in range(20_000)), "too many patterns"),
        ("".join(f"Host h{i}\n" for i in range(10_000)), "taken"),
    ],
    ids=itertools.count(),
)
def test_an_ssh_config_that_is_a_weapon(text: str, told: str, tmp_path: Path) -> None:
    assert re.search(told, refused(tmp_path, text, "from_ssh_config"))


def test_include_is_read_as_ssh_reads_it(tmp_path: Path) -> None:
    """`**` is no more than `*`, and directories are passed over."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "more").write_text("Host extra\n")
    path = tmp_path / "config"
    path.write_text("Include /\nInclude fo*\nInclude **re\nHost\nHost a\n")
    assert list(sources.load(f"ssh_config:{path}").hosts) == ["extra", "a"]


CHAIN = "".join(f"[g{i}:children]\ng{i + 1}\n" for i in range(2000)) + "[g2000]\na\n"
TWICE = "".join(f"[g{i}:children]\ng{i + 1}\ng{i + 1}\n" for i in range(30)) + "[g30]\na\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CHAIN, "taken"),
        (TWICE, "taken"),
        ("".join(f"a[1:{99999 - i}]\n" for i in range(40)), "more than 500000 members"),
        ("".join(f"[h{i}]\na[1:99999]\n" for i in range(40)), "more than 500000 members"),
        ("[" * 16000 + ":22\n", "longer than a host's name"),
        (("[" * 16000 + ":22\n") * 250, "longer than a host's name"),
        ("x" * 16000 + "[1:99999]\n", "x.ini:1: .*longer than a host's name"),
        ("x" * 1_000_000 + "[1:99999]\n", "x.ini:1: a line longer than"),
        ("a[1:99999] " + " ".join(f"v{i}=1" for i in range(2000)) + "\n", "taken"),
        ("a[10:z]\n", "x.ini:1: .*of numbers or of letters"),
        ("a[0:99999999999999999999]\n", "x.ini:1: .*more than 100000 hosts"),
        ("a ansible_ssh_private_key_file=~nosuchuser/x\n", "a: key `~nosuchuser/x`"),
        ("a ansible_port=\u00b2\n", "a: ansible_port"),
        (f"a ansible_port={'9' * 5000}\n", "a: ansible_port"),
        ("a:\u0662\u0662\n", "a: ansible_port"),
    ],
    ids=itertools.count(),
)
def test_an_ansible_file_that_is_a_weapon(text: str, told: str, tmp_path: Path) -> None:
    assert re.search(told, refused(tmp_path, text, "from_ini"))


@pytest.mark.parametrize("host", ["a[10:z]", "a[0:99999999999999999999]", "x" * 300 + "[1:3]"])
def test_a_bad_range_in_yaml_is_named(host: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(f'all:\n  hosts:\n    "{host}": {{}}\n')
    with pytest.raises(InputError, match=r"hosts\.a|hosts\.x") as caught:
        sources.load(str(path))
    assert caught.value.line == 3


def test_a_name_ends_where_its_line_does(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text('all: {hosts: {"a\\n": {}}}\n')
    with pytest.raises(InputError, match="no host name"):
        sources.load(str(path))


@pytest.mark.parametrize(
    "said",
    [
        {"g": {"hosts": 5}},
        {"g": {"children": 5}},
        {"g": {"vars": [1]}},
        {"_meta": {"hostvars": []}, "g": ["a"]},
        {"g": ["a[10:z]"]},
    ],
)
def test_a_program_that_prints_other_things_is_told(said: object, tmp_path: Path) -> None:
    path = tmp_path / "inv"
    path.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    path.chmod(0o755)
    with pytest.raises(InputError, match="inv"):
        sources.load(str(path))


def test_nothing_in_a_program_s_answer_is_something(tmp_path: Path) -> None:
    path = tmp_path / "inv"
    said = {"_meta": {"hostvars": {"b": None}}, "g": {"hosts": ["a"], "vars": None}}
    path.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    path.chmod(0o755)
    assert set(sources.load(str(path)).hosts) == {"a", "b"}
