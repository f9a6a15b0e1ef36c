"""What makes a configuration survive a reboot (`up --persist`): more resources on each host. Pure.

/etc/lvsfab/boot-NAME is a shell script that carries out the very commands of the run, from what
the host had before to what is wanted; `boot` has the host's init run it. What a host's own tools
set again whenever they are asked stands where they look, too: /etc/sysctl.d, /etc/modules-load.d.

All of it is journalled like anything else. The journal and the word on what is up then stand in
/var/lib, so that after a reboot `verify`, `up` and `down` find what a run left.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from lvsfab.journal import Entry
from lvsfab.plan import Have, Unsupported
from lvsfab.session import PRELUDE
from lvsfab.states import helpers_script
from lvsfab.states.base import Resource, State, changes
from lvsfab.states.boot import Boot
from lvsfab.states.file import File
from lvsfab.states.module import Module
from lvsfab.states.sysctl import Sysctl

_HEAD = """\
#!/bin/sh
# What `lvsfab up --persist` (inventory {name}) made of this host, made again when it boots.
# `lvsfab down` takes it away. The steps are at the end.
"""
_STEPS = """
# ---- the steps: once for each boot; one that fails is told, and those after it are still done
mkdir -p -m 700 /run/lvsfab /run/lvsfab/{name}
mkdir /run/lvsfab/{name}/booted 2>/dev/null || exit 0
failed=0
failure() {{
  failed=1
  echo "lvsfab: $1 failed at boot: $said" >&2
  has logger && logger -t lvsfab "$1 failed at boot: $said"
}}
"""


def places(name: str) -> tuple[Resource, ...]:
    """What has to be read on a host before `kept` can say what is wanted there."""
    return (
        Resource(File, _program(name), None),
        Resource(File, _modules(name), None),
        Resource(File, _sysctls(name), None),
        Resource(Boot, name, None),
    )


def kept(
    name: str,
    wanted: Sequence[Resource],
    haves: Mapping[str, Have],
    journal: Sequence[Entry],
) -> tuple[Resource, ...]:
    """The resources that keep `wanted` over a reboot of a host; none where a reboot undoes nothing.

    The boot script starts from what was there before lvsfab came: that is what the host boots to.
    """
    before: dict[str, State | None] = {}
    for resource in wanted:
        have = haves.get(resource.id)
        before[resource.id] = None if isinstance(have, Unsupported) else have
    before |= {entry.id: entry.before for entry in journal if entry.id in before}
    steps = [r for r in wanted if r.type.volatile and changes(r.state, before[r.id])]
    if not steps:
        return ()
    lines = [_step(r, before[r.id]) for r in steps]
    program = _HEAD.format(name=name) + PRELUDE + helpers_script()
    program += _STEPS.format(name=name) + "\n".join(lines) + "\nexit $failed\n"
    modules = [r.key for r in steps if isinstance(r.state, Module) and r.state.loaded]
    sysctls = [r.state for r in steps if isinstance(r.state, Sysctl)]
    files = [File(path=_program(name), content=program, mode="0700")]
    if modules:
        files.append(File(path=_modules(name), content=_list(modules), mode="0644"))
    if sysctls:  # a dash: no fault where the module or device comes later
        settings = [f"-{s.name} = {s.value}" for s in sysctls]
        files.append(File(path=_sysctls(name), content=_list(settings), mode="0644"))
    boot = Boot(name=name)
    return (*(Resource(File, f.path, f) for f in files), Resource(Boot, boot.key, boot))


def _step(resource: Resource, before: State | None) -> str:
    commands = resource.type.commands(resource.key, before, resource.state)
    body = " && ".join(command.script() for command in commands) or ":"
    return f"said=$({{ {body}; }} 2>&1 </dev/null) || failure {shlex.quote(resource.id)}"


def _list(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in ("# lvsfab up --persist", *lines))


def _program(name: str) -> str:
    return f"/etc/lvsfab/boot-{name}"


def _modules(name: str) -> str:
    return f"/etc/modules-load.d/lvsfab-{name}.conf"


def _sysctls(name: str) -> str:
    return f"/etc/sysctl.d/99-lvsfab-{name}.conf"
