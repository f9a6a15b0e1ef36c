"""Inventories from where people have them already. What `-i` may be:

a file or the name of one in inventory/ (lvsfab's own YAML, or Ansible's), `ssh_config` or
`ssh_config:FILE` (its Host entries), an Ansible INI file, an executable that prints JSON
(Ansible's dynamic form), and `hosts:a,b,c` (which `-H a,b,c` stands for).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lvsfab import document, inventory
from lvsfab.files import home
from lvsfab.model import Inventory

YAML = (".yml", ".yaml")


def load(what: str) -> Inventory:
    """The inventory that `-i WHAT` means. InputError says what is wrong, and where."""
    kind, colon, rest = what.partition(":")
    if colon and kind == "hosts":
        from lvsfab.sources.hosts import from_list  # one of many is needed

        return from_list(rest)
    if kind == "ssh_config":
        from lvsfab.sources.ssh_config import from_ssh_config

        return from_ssh_config(home(rest) if colon else None)
    path = inventory.find(what) if not Path(what).is_file() else Path(what)
    if path.suffix in YAML:
        doc = document.load(path)
        if not ansible_yaml(doc.data):
            return inventory.read(doc)
        from lvsfab.sources.ansible import from_yaml

        return from_yaml(doc)
    from lvsfab.sources import ansible

    return ansible.from_program(path) if os.access(path, os.X_OK) else ansible.from_ini(path)


def ansible_yaml(data: Any) -> bool:
    """Ansible's files have groups at the top (`all` as a rule), which may be called anything; ours
    have a name, which is text, and hosts.
    """
    if not isinstance(data, dict) or isinstance(data.get("name"), str):
        return False
    if not all(_group(data[key]) for key in ("name", "networks", "lab") if key in data):
        return False
    return "all" in data or "hosts" not in data


def _group(body: Any) -> bool:
    return body is None or (isinstance(body, dict) and set(body) <= {"hosts", "children", "vars"})
