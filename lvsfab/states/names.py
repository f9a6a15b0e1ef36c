"""The hosts' names in /etc/hosts, on every host of the recipe, with a name for the VIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.base import Context, Resource
from lvsfab.states.block import Block
from lvsfab.states.composite import Composite, arguments, wanted


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    site: str = ""


class Names(Composite):
    """Recipe word `names`: site, the VIP's name; without it nothing."""

    kind: ClassVar[str] = "names"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        site = arguments(args, _Args, self.kind).site
        if context.cluster is None:
            raise InputError("names stands only in a recipe with a cluster", key=self.kind)
        if not site:
            return ()
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", site):
            raise InputError(f"`{site}` is no host name", key=self.kind)
        vip = context.cluster.service.vip
        lines = [
            f"{address} {host.name}"
            for host in context.inventory.hosts.values()
            if (address := host.address(vip.version)) is not None
        ]
        content = "\n".join([*lines, f"{vip} {site}"])
        return wanted(Block(path="/etc/hosts", name=context.inventory.name, content=content))
