"""The Host entries of an ssh_config(5). Only plain names are hosts; patterns give them values.

Of the user's own file only names are taken: the transport reads it anyway, with its jumps. Of
another file HostName, Port, User and IdentityFile are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from lvsfab.errors import InputError
from lvsfab.files import Reading, home
from lvsfab.model import Inventory, SSHLogin
from lvsfab.sources.hosts import PORT, key_file, make

DEPTH = 16  # of Include, as OpenSSH has it
MAX_TRIED = 1_000_000  # hosts with patterns
_WILD = re.compile(r"[*?!]")
Block = tuple[tuple[str, ...], dict[str, str]]


def from_ssh_config(path: Path | None) -> Inventory:
    file = path if path is not None else home("~/.ssh/config")
    reading = Reading()
    blocks = list(_blocks(file, reading.lines(file, given=True), reading, 0))
    of: dict[str, list[int]] = {}  # the blocks that speak of each host; and those with patterns
    wild: list[int] = []
    for number, (patterns, _) in enumerate(blocks):
        for pattern in patterns:
            (wild if _WILD.search(pattern) else of.setdefault(pattern, [])).append(number)
    if len(of) * len(wild) > MAX_TRIED:
        raise InputError("too many patterns for so many hosts", path=file)
    logins = {}
    for name, own in of.items():
        if path is None:
            logins[name] = SSHLogin(host=name)
            continue
        values: dict[str, str] = {}
        for patterns, found in (blocks[number] for number in sorted({*own, *wild})):
            if _applies(name, patterns):
                values = found | values  # the first value wins
        port, key = values.get("port"), values.get("identityfile")
        if port is not None and not PORT.fullmatch(port):
            raise InputError(f"Host {name}: Port `{port}`", path=file)
        logins[name] = SSHLogin(
            host=values.get("hostname", name).replace("%h", name),
            port=int(port) if port else None,
            user=values.get("user", ""),
            key=key_file(key, name, file) if key else None,
        )
    return make(f"ssh_config-{file.stem}" if path else "ssh_config", logins, {}, file)


def _applies(name: str, patterns: tuple[str, ...]) -> bool:
    if any(fnmatchcase(name, p[1:]) for p in patterns if p.startswith("!")):
        return False
    return any(fnmatchcase(name, p) for p in patterns if not p.startswith("!"))


def _blocks(path: Path, lines: list[str], reading: Reading, depth: int) -> Iterator[Block]:
    block: Block = (("*",), {})
    for number, line in enumerate(lines, 1):
        match = re.match(r"([A-Za-z]+)(?:\s*=\s*|\s+|$)(.*)", line.strip())
        if match is None:
            continue
        word, value = match[1].lower(), match[2]
        try:
            words = shlex.split(value, comments=True)
        except ValueError as error:
            raise InputError(f"{error}", path=path, line=number) from None
        if word == "host":
            yield block
            block = (tuple(words), {})
        elif word == "match":  # conditions of a connection: not of an inventory
            yield block
            block = ((), {})
        elif word == "include" and depth < DEPTH:
            yield block
            block = (block[0], {})
            for pattern in words:
                for file, text in reading.included(pattern, path, number):
                    yield from _blocks(file, text, reading, depth + 1)
        elif words:
            block[1].setdefault(word, words[0])
    yield block
