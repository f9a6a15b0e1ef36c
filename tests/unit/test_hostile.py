"""Nothing that somebody wrote, and nothing that a host says, is more than data.

Every line of every kind of resource is bent by hostile words; what is not refused is compiled into
the script that a host would get, and run by a real `sh` whose commands do nothing but say with
which arguments they were called.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface, ip_address
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit, setrlimit
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvsfab import (
    capture,
    copy,
    document,
    facts,
    inventory,
    journal,
    lock,
    recipe,
    scripts,
    status,
    targets,
)
from lvsfab.deadman import Guard, reverse
from lvsfab.deadman import parse as parse_way
from lvsfab.errors import CommandError, HostError, InputError, LvsfabError, UnreachableError
from lvsfab.labs.boot import interface_batch
from lvsfab.model import Host, Inventory
from lvsfab.plan import plan_host
from lvsfab.reading import host_read
from lvsfab.report import clean
from lvsfab.session import MAX_RECORD, Command, Framer, Record, Shell
from lvsfab.sources.ansible import from_ini, from_yaml
from lvsfab.sources.hosts import from_list
from lvsfab.sources.ssh_config import from_ssh_config
from lvsfab.states import BUILDERS, KINDS
from lvsfab.states.base import Context
from lvsfab.verify import directors, observe, observe_client, watch
from lvsfab.wire import Question
from tests.unit.local import SHELLS, LocalChannel, shell_argv
from tests.unit.states.test_registry import LINES
from tests.unit.verify.recorded import cluster

MEMORY = 4 << 30  # what takes more ends its test, and not its worker
CASES = int(os.environ.get("LVSFAB_FUZZ", "1"))  # times the number of cases that CI tries


def cases(count: int) -> settings:
    return settings(
        max_examples=count * CASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


QUICK = cases(1000)

CANARY = "CANARY"
EVIL = [
    f"%$(touch {CANARY})\nreboot",
    f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY};", f"| touch {CANARY}",
    f"&& touch {CANARY}", f"\ntouch {CANARY}\n", f"' ; touch {CANARY} ; '", f'" ; touch {CANARY}',
    f"${{IFS}}touch${{IFS}}{CANARY}", "$HOME", "${PATH}", "*", "?", "[a]", "~root", "!!", "\\", "'",
    '"', "#", "--help", "-rf", "-", "--", "-e", "%s%n", "\x00", "\x1b[2J", "\r", "\u202e", "\ufeff",
    "\u0430dmin", "\uff0e", "\ud800", "\x85", "a" * 5000, "-" * 300, "../../etc/passwd",
    "/dev/zero",
    "10.0.0.1 -m", "10.0.0.1\n-A", "10.0.0.1/32;id", "0x7f.1", "tcp:10.0.0.1:80 -r x", "1e400",
    "NaN",
    "}", "{", "}\n}\ntouch x\n{", "<<EOF", ">x", "2>&1", "&", "\t", " ", "",
]  # fmt: skip
WORDS = st.sampled_from(EVIL) | st.text(max_size=20)
HOSTS = {"rs1": Host("rs1", frozenset({"real_server"}))}
CONTEXT = Context(Inventory("unit", HOSTS), HOSTS["rs1"], {})


def fields_of(kind: str) -> list[str]:
    return sorted(KINDS[kind].__struct_fields__) if kind in KINDS else sorted(LINES[kind])


def takes_any_text(kind: str, field: str) -> bool:
    try:
        return bool(BUILDERS[kind].build({**LINES[kind], field: "it's `x` $y; *"}, CONTEXT))
    except LvsfabError:
        return False


# Most fields have few good values, and nearly every word that bends one is refused. These have not.
FREE = [(kind, f) for kind in sorted(LINES) for f in fields_of(kind) if takes_any_text(kind, f)]


@pytest.fixture(scope="module", autouse=True)
def _bounded() -> Iterator[None]:
    soft, hard = getrlimit(RLIMIT_AS)
    if soft == RLIM_INFINITY or soft > MEMORY:
        setrlimit(RLIMIT_AS, (MEMORY, hard))
    yield
    setrlimit(RLIMIT_AS, (soft, hard))


@st.composite
def bent_lines(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A recipe line of some kind with one or two of its fields bent."""
    if draw(st.booleans()):
        kind, field = draw(st.sampled_from(FREE))
        return kind, {**LINES[kind], field: "".join(draw(st.lists(WORDS, min_size=1, max_size=4)))}
    kind = draw(st.sampled_from(sorted(LINES)))
    line = dict(LINES[kind])
    fields = fields_of(kind)
    for _ in range(draw(st.integers(1, 2))):
        field = draw(st.sampled_from(fields or ["name"]) | WORDS)
        good, word = str(line.get(field, "")), draw(WORDS)
        bent: Any = draw(st.sampled_from([word, good + word, word + good]))
        shape = draw(st.integers(0, 9))
        line[field] = {7: [bent], 8: {bent: bent}, 9: draw(st.integers() | st.floats())}.get(
            shape, bent
        )
    return kind, line


def commands_of(kind: str, line: dict[str, Any]) -> list[Command]:
    """What the line would have done, in every direction; InputError when it is refused."""
    found: list[Command] = []
    for resource in BUILDERS[kind].build(line, CONTEXT):
        key = resource.key
        assert key.isascii() and key.isprintable() and " " not in key and len(key) <= 512, key
        state = resource.state
        for have, want in ((None, state), (state, None)):
            if have is not None or want is not None:
                found += resource.type.commands(key, have, want)
        plan = plan_host("h", [resource], {resource.id: None}, [])
        if plan.steps:
            assert scripts.change_script("unit", plan.steps, record=plan.record)
    return found


class Tool:
    """One `sh` for many cases: each script in a subshell with no PATH, where every command is a
    function that says its arguments; what it says, and whether anything else was done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = Shell("h", LocalChannel(["env", "-i", "-C", str(folder), "dash", "-s"]))

    def takes(self, commands: Sequence[Command]) -> None:
        """A shell calls these commands with exactly their words and their input, and no other."""
        body = "\n".join(c.script() for c in map(callable_by_any_shell, commands))
        (said,) = self.says({c.argv[0] for c in commands}, f"t() {{\n{body}\n}}\nrec t t")
        assert said.output == "".join(map(_said, commands))

    def says(self, names: Collection[str], script: str) -> list[Record]:
        """The records of `script`, in which the commands of these names say what they are told."""
        assert all(name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
                   for name in names), names  # fmt: skip
        say = (
            "say() { for s_w; do printf '%s\\036' \"$s_w\"; done; printf '\\035'; "
            'while IFS= read -r s_l || [ -n "$s_l" ]; do printf \'%s\\037\' "$s_l"; done; }'
        )
        stubs = "\n".join(f'{n.replace("-", "_")}() {{ say {n} "$@"; }}' for n in sorted(names))
        whole = f"(\n{say}\n{stubs}\nPATH=/nowhere\n{script}\n)"
        records = self.shell.run(whole, timeout=10)
        assert not list(self.folder.iterdir())
        return records


def callable_by_any_shell(command: Command) -> Command:
    """Itself, by the name of its stub: a function's name has no dash."""
    return Command((command.argv[0].replace("-", "_"), *command.argv[1:]), command.stdin)


def _said(command: Command) -> str:
    lines = (command.stdin or "").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    return "".join(f"{word}\x1e" for word in command.argv) + "\x1d" + "".join(
        f"{line}\x1f" for line in lines
    )  # fmt: skip


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    found = Tool(tmp_path_factory.mktemp("shell"))
    yield found
    found.shell.close()


@cases(4000)
@given(line=bent_lines())
def test_no_word_of_a_recipe_reaches_a_shell_unquoted(
    line: tuple[str, dict[str, Any]], tool: Tool
) -> None:
    kind, fields = line
    try:
        commands = commands_of(kind, fields)
    except LvsfabError:
        return
    if commands:
        tool.takes(commands)


@pytest.mark.parametrize("kind", sorted(LINES))
def test_nothing_is_named_by_a_text_without_an_end(kind: str) -> None:
    fields = LINES[kind]
    for name, value in fields.items():
        if isinstance(value, str):
            with suppress(LvsfabError):
                commands_of(kind, {**fields, name: value + "a" * 5000})  # its keys have an end


@cases(2000)
@given(line=bent_lines(), there=st.booleans())
def test_nor_do_keys_and_journals_of_whole_scripts(
    line: tuple[str, dict[str, Any]], there: bool, tool: Tool
) -> None:
    """A change with its journal, its switch and its reading; and the end of that journal. What the
    line says is wanted, or is `there` and wanted gone.
    """
    kind, fields = line
    try:
        resources = BUILDERS[kind].build(fields, CONTEXT)
        haves = {r.id: r.state if there else None for r in resources}
        if there:
            resources = tuple(replace(resource, state=None) for resource in resources)
        plan = plan_host("h", resources, haves, [])
    except LvsfabError:
        return
    steps = [
        replace(step, commands=tuple(map(callable_by_any_shell, step.commands)))
        for step in plan.apply
    ]
    back = [command for step in plan.apply for command in reverse(step)]
    names = {c.argv[0] for step in plan.apply for c in (*step.commands, *reverse(step))}
    names |= {"journal_add", "journal_put"} | {f"read_{r.type.kind}" for r in resources}
    undo = tuple(tuple(map(callable_by_any_shell, reverse(step))) for step in plan.apply)
    script = "\n".join(
        [
            *(f"ahead_{r.type.kind}() {{ :; }}" for r in resources),
            scripts.change_script("unit", steps, record=plan.record),
            scripts.forget_script("unit", plan.record),
            *Guard("token", (), undo, 1).functions(),
            *(f"rec undo deadman_undo_{number + 1}" for number in range(len(undo))),
        ]
    )
    records = tool.says(names, script)
    said = {r.id: r.output for r in records if r.id not in ("record", "undo")}
    assert said == {
        **{f"do:{i}": "".join(map(_said, step.commands)) for i, step in enumerate(plan.apply)},
        **{f"have:{step.id}": _said(Command((f"read_{step.resource.type.kind}", step.resource.key)))
           for step in plan.apply},
    }  # fmt: skip
    assert "".join(r.output for r in records if r.id == "undo") == "".join(map(_said, back))
    written = [r.output.split("\x1e") for r in records if r.id == "record"]
    for which in ("journal_add", "journal_put"):
        texts = [words[2] for words in written if words[0] == which]
        kept = [entry for text in texts for entry in journal.parse(text)]
        assert sorted(kept, key=lambda entry: entry.id) == sorted(
            plan.record, key=lambda entry: entry.id
        )


@QUICK
@given(st.lists(WORDS.filter(lambda w: "\x00" not in w and "\ud800" not in w), min_size=1))
def test_a_command_says_exactly_its_words(words: list[str]) -> None:
    assert shlex.split(Command(tuple(words)).script()) == words


MODES = {mode: recipe.load(recipe.find(mode)) for mode in ("nat", "dr", "tun")}
SERVED: tuple[tuple[str, dict[str, str]], ...] = (
    ("dr", {}),
    ("nat", {}),
    ("dr", {"vip": "fd00::100"}),
)
INVENTORY = {
    "name": "mine",
    "lab": {"management": "100.64.10.0/24", "memory": 128, "kernel": "auto", "packages": ["curl"]},
    "networks": {"n": {"subnets": ["10.0.0.0/24", "fd00::/64"], "mtu": 1400}},
    "hosts": {
        "d": {"roles": ["director"], "gateways": ["10.0.0.254", "fd00::254"],
              "interfaces": {"e0": {"network": "n", "addresses": ["10.0.0.1/24", "fd00::1/64"]}},
              "ssh": {"host": "d", "user": "u", "port": 22, "key": "~/k", "sudo": True}},
        "r": {"roles": ["real_server"],
              "interfaces": {"e0": {"network": "n", "addresses": ["10.0.0.2/24", "fd00::2/64"]}},
              "routes": {"10.1.0.0/16": "10.0.0.254", "fd01::/64": "fd00::254"},
              "weight": 1, "groups": ["g", "h"], "forward": True,
              "only": ["dr", "nat", "tun"], "inner": "10.9.0.2/24", "memory": 64, "port": 80},
        "c": {"roles": ["client"]},
    },
    "parameters": {"all": {"vip": "10.0.0.100"}, "dr": {"port": 80, "weights": {"r": 2}}},
}  # fmt: skip


def bent(value: Any, draw: st.DrawFn) -> Any:
    """The same tree with something hostile at one place of it, key or value."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 5)) == 0:
            word = draw(WORDS)
            return {(word if k == key else k): v for k, v in value.items()}
        return {**value, key: bent(value[key], draw)}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], bent(value[at], draw), *value[at + 1 :]]
    word = draw(WORDS)
    return draw(st.sampled_from([word, f"{value}{word}", f"{word}{value}", [word], {word: word}]))


def only_data(found: Inventory) -> None:
    for host in found.hosts.values():
        for name in (host.name, *host.groups):
            assert name.isascii() and name.isprintable() and name[0] not in "-."
        assert "\0" not in str(host.ssh.key)
        batch = interface_batch(host, (), IPv4Interface("100.64.10.1/24"))
        assert re.fullmatch(r"([A-Za-z0-9._:/+-]+( [A-Za-z0-9._:/+-]+)*\n)+", batch)


@cases(1500)
@given(data=st.data())
def test_hostile_inventories_are_refused_or_only_data(data: st.DataObject, tool: Tool) -> None:
    tree = data.draw(st.composite(lambda draw: bent(INVENTORY, draw))())
    text = json.dumps(tree).encode()  # JSON is YAML, and can say every string
    try:
        found = inventory.read(document.parse(text, Path("hostile.yml")))
    except LvsfabError as error:
        assert clean(str(error)).replace("\n", "").replace("\t", "").isprintable()
        return
    only_data(found)
    for mode, vip in SERVED:
        try:
            compiled = recipe.compile_recipe(MODES[mode], found, vip)
        except LvsfabError:
            continue
        for name in compiled.hosts:
            plan = plan_host(name, compiled.resources(name), {}, [])
            tool.takes([c for s in plan.steps for c in s.commands])


def leaves(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for part, inner in parts:
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*place, part))
        else:
            yield (*place, part)


def put(value: Any, place: tuple[str | int, ...], bend: Callable[[str], str]) -> Any:
    if not place:
        return bend(str(value))
    copied: Any = dict(value) if isinstance(value, dict) else list(value)
    copied[place[0]] = put(value[place[0]], place[1:], bend)
    return copied


@pytest.mark.parametrize("place", list(leaves(INVENTORY)), ids=lambda p: ".".join(map(str, p)))
def test_each_text_of_an_inventory_with_each_hostile_word(place: tuple[str | int, ...]) -> None:
    """What boots a lab's host is made of some of them."""
    for word in (word for word in EVIL if word != "\ud800"):  # no YAML can say that
        for bend in (
            lambda text, word=word: f"{text}{word}",
            lambda text, word=word: f"{text.split('/')[0]}%{word}/64",
        ):
            try:
                found = inventory.read(
                    document.Document(Path("hostile.yml"), put(INVENTORY, place, bend), {})
                )
            except LvsfabError:
                continue
            only_data(found)


def test_the_inventory_is_good_before() -> None:
    found = inventory.read(document.parse(json.dumps(INVENTORY).encode(), Path("good.yml")))
    for mode, vip in SERVED:
        assert recipe.compile_recipe(MODES[mode], found, vip).hosts == ("d", "r")


KEPT = {"balancer": "keepalived", "vrrp_password": "word"}
PLACES = {  # two directors for keepalived
    "ipvsadm": inventory.load(inventory.find("lab")),
    "keepalived": inventory.load(inventory.find("3-nat-keepalived")),
}
GOOD = {"address": "10.1.1.9", "port": "81", "words": "443", "weights": "rs1:2", "integer": "2",
        "flag": "true", "text": "rs1"}  # fmt: skip


@st.composite
def hostile_sets(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    """A mode, what balances it, and settings of which one or two are bent: any of the recipe's."""
    mode, by = draw(st.sampled_from(sorted(MODES))), draw(st.sampled_from(sorted(PLACES)))
    sets = dict(KEPT) if by == "keepalived" else {}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(MODES[mode].parameters)) | WORDS)
        known = MODES[mode].parameters.get(name)
        good = "" if known is None else str((known.values or [GOOD.get(known.type, "1")])[-1])
        word = draw(WORDS)
        sets[name] = draw(st.sampled_from([word, f"{good}{word}", f"{word}{good}", good]))
    return mode, by, sets


def compiled(mode: str, by: str, sets: dict[str, str]) -> recipe.Compiled:
    given = {"vip": "10.71.12.100"} if by == "keepalived" and mode != "nat" else {}
    return recipe.compile_recipe(MODES[mode], PLACES[by], given | sets)


@cases(1500)
@given(wanted=hostile_sets())
def test_hostile_settings_are_refused_or_only_data(
    wanted: tuple[str, str, dict[str, str]], tool: Tool
) -> None:
    try:
        found = compiled(*wanted)
    except LvsfabError:
        return
    for name in found.hosts:
        plan = plan_host(name, found.resources(name), {}, [])
        tool.takes([c for s in plan.steps for c in s.commands])


@pytest.mark.parametrize("by", sorted(PLACES))
@pytest.mark.parametrize("mode", sorted(MODES))
def test_what_is_bent_is_good_before(mode: str, by: str, tool: Tool) -> None:
    """Else the property above would hold of nothing."""
    found = compiled(mode, by, dict(KEPT) if by == "keepalived" else {})
    commands = [
        c for name in found.hosts
        for s in plan_host(name, found.resources(name), {}, []).steps for c in s.commands
    ]  # fmt: skip
    assert len(commands) > 10
    tool.takes(commands)


ANSIBLE = {
    "all": {"hosts": {"a": {"ansible_host": "10.0.0.1", "ansible_port": 22, "ansible_user": "u"}},
            "vars": {"ansible_become": True},
            "children": {"web": {"hosts": {"b[1:3]": {"ansible_ssh_private_key_file": "k"}}}}},
}  # fmt: skip
ELSEWHERE = st.lists(st.lists(st.sampled_from([
    "Host", "Match", "Include", "HostName", "Port", "User", "IdentityFile", "ProxyJump", "[web]",
    "[web:children]", "[all:vars]", "a", "b[1:3]", "b[01:9999999]", "a*", "!a", "ansible_host=x",
    "ansible_port=22", "ansible_user=u", "10.0.0.1", "22", "host", "exec", "all", "=",
]) | WORDS, max_size=4).map(" ".join), max_size=5).map("\n".join)  # fmt: skip


def harmless(load: Callable[[], Inventory]) -> None:
    """Refused in words, or hosts whose names and logins are plain."""
    try:
        found = load()
    except LvsfabError as error:
        assert clean(str(error)).replace("\n", "").replace("\t", "").isprintable()
        return
    for host in found.hosts.values():
        assert host.name.isascii() and host.name.isprintable() and host.name[0] not in "-."
        for word in (host.ssh.host, host.ssh.user):
            assert word.isprintable() and not word.startswith("-") and " " not in word, word
        assert host.ssh.port is None or 1 <= host.ssh.port <= 65535


@cases(300)
@given(text=ELSEWHERE)
def test_hostile_inventories_from_elsewhere(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.ini"
    path.write_bytes(text.encode(errors="surrogatepass"))
    harmless(lambda: from_ssh_config(path))
    harmless(lambda: from_ini(path))
    harmless(lambda: from_list(text))


@cases(300)
@given(data=st.data())
def test_hostile_ansible_trees(data: st.DataObject) -> None:
    tree = data.draw(st.composite(lambda draw: bent(ANSIBLE, draw))())
    text = json.dumps(tree).encode()
    harmless(lambda: from_yaml(document.parse(text, Path("hostile.yml"))))


@QUICK
@given(text=WORDS)
def test_hostile_targets_are_refused_or_select(text: str) -> None:
    try:
        found = targets.select(text, CONTEXT.inventory).hosts
    except LvsfabError:
        return
    assert set(found) <= set(HOSTS.values())


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n"
            for i in range(9)),
        "a: " + "[" * 20000,
        "a: !!python/object/apply:os.system ['touch CANARY']",
        "a: &a {b: *a}",
        "a: 1\na: 2",
        "x" * (20 * 1024 * 1024),
        "\x00\x01\x02",
        "--- {}\n--- {}",
    ],
    ids=["bomb", "deep", "python", "cycle", "twice", "long", "binary", "two documents"],
)  # fmt: skip
def test_yaml_that_is_a_weapon(text: str) -> None:
    with pytest.raises(LvsfabError) as refused:
        inventory.read(document.parse(text.encode(), Path("hostile.yml")))
    assert len(str(refused.value)) < 5000


# what hosts say ---------------------------------------------------------------------------------

NONCE = "lvsfab-0123456789abcdef01234567"


@QUICK
@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace")))
def test_whatever_a_host_prints_is_bounded_and_harmless(noise: bytes) -> None:
    framer = Framer(NONCE)
    framed = f"\n{NONCE}>a\n".encode() + noise + f"\n{NONCE}<a 0\n".encode()
    records = framer.feed(noise) + framer.feed(framed) + framer.feed(f"\n{NONCE}=\n".encode())
    assert framer.done
    assert [r.id for r in records] == ["a"]
    assert clean(records[0].output).replace("\n", "").replace("\t", "").isprintable()


@QUICK
@given(st.text())
def test_clean_text_holds_no_control_character(text: str) -> None:
    shown = clean(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert not set(shown) & set("\x1b\x9b\r\x07\x08\u202e\u2066")


@QUICK
@given(
    st.sampled_from(sorted(KINDS)),
    WORDS | st.binary(max_size=80).map(lambda b: b.decode(errors="backslashreplace"))
    | st.recursive(st.none() | st.integers() | st.text(max_size=5),
                   lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                       st.sampled_from(["ifname", "addr_info", "local", "prefixlen", "flags", "mtu",
                                        "linkinfo", "info_data", "family", "x"]), inner,
                       max_size=4)).map(json.dumps),
)  # fmt: skip
def test_answers_of_the_wrong_kind_name_their_host(kind: str, output: str) -> None:
    resource = BUILDERS[kind].build(LINES[kind], CONTEXT)
    if not resource:
        return
    record = Record(f"have:{resource[0].id}", 0, output)
    try:
        haves = scripts.haves("h", [record])
    except CommandError as error:
        assert error.host == "h"
        return
    plan_host("h", resource, haves, [])


@QUICK
@given(st.dictionaries(st.sampled_from(["host", "lock", "mark", "journal", "others", "way"]),
                       st.tuples(st.integers(0, 4), WORDS | st.text()), max_size=6))  # fmt: skip
def test_what_a_host_says_of_itself_may_be_anything(said: dict[str, tuple[int, str]]) -> None:
    records = [Record(name, status, text) for name, (status, text) in said.items()]
    try:
        found = host_read("h", records, ())
    except HostError as error:
        assert error.host == "h"
        return
    lock.said(said.get("lock", (0, ""))[1])
    assert found.way is None or found.way.peer == ip_address(str(found.way.peer))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("head", ["", '[{"x":', '[{"ifname":"eth0","addr_info":[{"x":'])
def test_answers_that_nest_without_an_end_name_their_host(kind: str, head: str) -> None:
    for resource in BUILDERS[kind].build(LINES[kind], CONTEXT):
        record = Record(f"have:{resource.id}", 0, head + "[" * 100_000)
        try:
            scripts.haves("h", [record])
        except CommandError as error:
            assert error.host == "h"


@pytest.mark.parametrize("error", [ValueError, KeyError, RecursionError])
def test_what_a_parser_does_not_foresee_is_its_hosts_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(_: str) -> None:
        raise error("--5")

    monkeypatch.setattr("lvsfab.lock.said", said)
    with pytest.raises(CommandError, match=r"h: its answer makes no sense: .*--5"):
        host_read("h", [Record("lock", 0, "held --5 x\n")], ())


@QUICK
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_a_journal_may_say_anything(kind: str, data: st.DataObject) -> None:
    resource = next(iter(BUILDERS[kind].build(LINES[kind], CONTEXT)), None)
    if resource is None or resource.state is None:
        return
    state = json.loads(msgspec.json.encode(resource.state))
    wrong = data.draw(st.composite(lambda draw: bent(state, draw))())
    key = data.draw(st.sampled_from([resource.key, "x", "x y", "\x1b"]) | WORDS)
    try:
        entries = journal.parse(f"{kind} {key} {json.dumps(wrong)}\n")
    except InputError:
        return
    assert journal.parse(f"{kind} {key} {'[' * 100_000}\n") == ()
    for entry in entries:
        try:
            plan_host("h", [], {entry.id: resource.state}, entries)
            plan_host("h", [], {entry.id: None}, entries)
        except LvsfabError:
            continue


@QUICK
@given(st.text())
def test_a_way_may_be_anything(text: str) -> None:
    for output in (
        text,
        f"ssh {text}\nget {text}\n\nmatch\n{text}\n",
        f"ssh 1.1.1.1 2.2.2.2\nget 1.1.1.1 via 2.2.2.2\nmatch\n{text}\n",
        f"ssh 1.1.1.1 2.2.2.2\nget {text}",
        f"ssh 1.1.1.1 2.2.2.2\nget 1.1.1.1 dev br0\nbelow {text}\nmatch\n",
    ):
        found = parse_way(output)
        assert found is None or shlex.join(found.devices) == " ".join(found.devices)


TOKENS = st.sampled_from([
    "1:", "2:", "lo", "eth0", "lo:", "<UP>", "mtu", "1500", "inet", "inet6", "10.0.0.1/8", "via",
    "10.0.0.1", "dev", "TCP", "FWM", "10.0.0.1:80", "->", "rr", "-g", "-s", "sent", "order", "kind",
    "from", "time", "end", "down", "up", "entry", "state", "port", "Tcp:", "IpExt:", "0", "1", "-1",
    "1e400", "nan", "9" * 5000, "0100007F:0050", "02:00:00:00:00:01", "reply", "has", "runs",
    "ssh", "wire", "absent", "644", "root", "a" * 64, "Prot", "LocalAddress:Port", "Route",
]) | WORDS  # fmt: skip
SAID = st.lists(st.lists(TOKENS, max_size=7).map(" ".join), max_size=4).map("\n".join)
PROVEN = cluster("dr")
ASKED = ("links", "addresses", "conf", "dev", "netstat", "snmp6", "route:x", "neighbours",
         "listen", "log", "table", "stats", "connections", "ping:rs1", "batch", "transfers",
         "probe:rs1", "watch", "ask", "arp", "replies", "unreadable", "health:x")  # fmt: skip


@cases(1500)
@given(
    st.dictionaries(st.sampled_from(ASKED), st.tuples(st.integers(0, 4), SAID), max_size=8), SAID
)
def test_what_proves_a_mode_may_be_anything(said: dict[str, tuple[int, str]], text: str) -> None:
    """Each of these is one host's: it is told of, or that host's error, and ends nobody else."""
    records = {name: Record(name, *found) for name, found in said.items()}
    proven, names = PROVEN, ["rs1", "rs2"]
    seen = observe.snapshot("rs1", records, proven)
    assert clean("".join(seen.unread)) == "".join(seen.unread)
    whole = Record("x", 0, text)
    observe_client.parse_batch(whole, names)
    observe_client.parse_transfers(whole)
    observe_client.parse_probes(records, names)
    observe_client.parse_capture("client", records, records, proven)
    directors.parse("d", whole)
    requests, _ = watch.parse(whole)
    assert requests == tuple(sorted(requests, key=lambda request: request.sent))
    capture.parse_views(text, Path("x"))
    for read in (
        lambda: status.read("h", list(records.values())),
        lambda: copy.parse_state("h", "/x", text),
        lambda: facts.read("h", [whole]),
    ):
        try:
            read()
        except HostError as error:
            assert error.host == "h"


@pytest.fixture(autouse=True)
def tried(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """How many cases a property was tried with, for docs/faults.md."""
    found = getattr(request.function, "_hypothesis_internal_use_settings", None)
    if found is not None:
        record_property("tried", found.max_examples)


def shell_of(script: str, *argv: str) -> Shell:
    """A shell on a host that does as `script` says, whatever it is sent."""
    return Shell("h", LocalChannel(argv or ["sh", "-c", script]))


# The nonce is in the first line that a host is sent.
FRAMES = r"""IFS== read -r x n; exec yes "$(printf '\n%s>x\n%s<x 0' $n $n)" """


@pytest.mark.parametrize(
    ("script", "raises", "told"),
    [
        ("cat >/dev/null", UnreachableError, "no end of"),
        ("exit 3", UnreachableError, "ended before|link lost"),
        ("echo 'No login here'; exit 1", UnreachableError, "No login here|link lost"),
        ("read -r x; printf 'a%.0s' $(seq 9000); exit 0", UnreachableError, "ended before"),
        ("echo MOTD; exec cat", UnreachableError, "no end of"),  # its own script comes back
        ("exec yes", UnreachableError, "no end of"),
        ("exec tr '\\0' x 3<&0 </dev/zero", CommandError, f"more than {MAX_RECORD} bytes"),
        (FRAMES, CommandError, "more than .* answer"),
        ("printf '\\033[2J\\033]0;x\\007'; exit 0", UnreachableError, "ended before|link lost"),
    ],
    ids=["silent", "gone", "no login", "garbage", "echo", "endless", "endless line",
         "endless frames", "escapes"],
)  # fmt: skip
def test_hosts_that_are_no_hosts(script: str, raises: type[HostError], told: str) -> None:
    shell, limit = shell_of(script), 60 if raises is CommandError else 3
    began = time.monotonic()
    try:
        with pytest.raises(raises, match=told) as raised:
            shell.run("rec x true", timeout=limit)
        assert len(str(raised.value)) < 2000
        assert time.monotonic() - began < limit + 5
    finally:
        shell._channel.process.kill()  # type: ignore[attr-defined]
        shell.close()


def test_a_shell_that_prints_banners_is_understood() -> None:
    shell = shell_of("echo Welcome; echo 'Last login: today'; exec sh -s")
    try:
        assert [r.output for r in shell.run("rec x echo good", timeout=5)] == ["good\n"]
    finally:
        shell.close()


def test_forged_frames_need_the_nonce() -> None:
    shell = shell_of("exec sh -s")
    try:
        forged = r"f() { printf '\nlvsfab-000000000000000000000000<x 0\n'; printf '\n=\n'; false; }"
        (record,) = shell.run(f"{forged}\nrec x f", timeout=5)
        assert record.status == 1
    finally:
        shell.close()


@pytest.mark.parametrize("program", sorted(SHELLS))
def test_every_posix_shell_takes_the_whole_prelude(program: str) -> None:
    shell = Shell("h", LocalChannel(shell_argv(program)), scripts.prelude())
    try:
        asked = (Question("192.0.2.1", "no-such-dev"),)
        records = shell.run(scripts.read_script("unit", [], asked=asked), timeout=20)
        found = host_read("h", records, ())
        assert found.answers == ()
        assert ("127.0.0.1", "lo") in found.others.addresses or not found.others.addresses
    finally:
        shell.close()
