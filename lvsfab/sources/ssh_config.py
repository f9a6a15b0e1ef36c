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
from lvsfab.model import Inventory, SSHLogin
from lvsfab.sources.hosts import make

DEPTH = 16  # of Include, as OpenSSH has it
Block = tuple[tuple[str, ...], dict[str, str]]


def from_ssh_config(path: Path | None) -> Inventory:
    file = path if path is not None else Path("~/.ssh/config").expanduser()
    try:
        blocks = list(_blocks(file, 0))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=file) from None
    names = [n for patterns, _ in blocks for n in patterns if not re.search(r"[*?!]", n)]
    logins = {}
    for name in dict.fromkeys(names):
        if path is None:
            logins[name] = SSHLogin(host=name)
            continue
        values: dict[str, str] = {}
        for patterns, found in blocks:
            if _applies(name, patterns):
                values = found | values  # the first value wins
        port, key = values.get("port"), values.get("identityfile")
        if port is not None and not port.isdigit():
            raise InputError(f"Host {name}: Port `{port}`", path=file)
        logins[name] = SSHLogin(
            host=values.get("hostname", name).replace("%h", name),
            port=int(port) if port else None,
            user=values.get("user", ""),
            key=Path(key).expanduser() if key else None,
        )
    return make(f"ssh_config-{file.stem}" if path else "ssh_config", logins, {}, file)


def _applies(name: str, patterns: tuple[str, ...]) -> bool:
    if any(fnmatchcase(name, p[1:]) for p in patterns if p.startswith("!")):
        return False
    return any(fnmatchcase(name, p) for p in patterns if not p.startswith("!"))


def _blocks(path: Path, depth: int) -> Iterator[Block]:
    block: Block = (("*",), {})
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = re.match(r"\s*([A-Za-z]+)(?:\s*=\s*|\s+)(.*?)\s*$", line)
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
                base = Path(pattern).expanduser()
                base = base if base.is_absolute() else path.parent / base
                for file in sorted(base.parent.glob(base.name)):
                    yield from _blocks(file, depth + 1)
        elif words:
            block[1].setdefault(word, words[0])
    yield block
