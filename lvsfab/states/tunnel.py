"""A real server's end of an IPVS tunnel: modules, decapsulation port, the device up.

The device is the module's fallback device (tunl0, gre0, ...): it takes packets from any director,
and exists as soon as the module is loaded, so it is never created (drivers' xxx_init_net).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from lvsfab.errors import InputError
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.fou import FOU_PORT, Fou
from lvsfab.states.link import Link
from lvsfab.states.module import Module

MODULES: Mapping[str, str] = {
    "tunl0": "ipip",
    "ip6tnl0": "ip6_tunnel",
    "gre0": "ip_gre",
    "ip6gre0": "ip6_gre",
}


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    dev: str
    type: Literal["ipip", "gre", "gue"] = "ipip"


class Tunnel(Composite):
    """Recipe word `tunnel`: type and dev, the fallback device that takes the packets out."""

    kind: ClassVar[str] = "tunnel"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        del context
        found = arguments(args, _Args, self.kind)
        if found.dev not in MODULES:
            raise InputError(f"`{found.dev}` is no tunnel device; known: {', '.join(MODULES)}")
        fou = Fou(port=FOU_PORT, ipv6=found.dev.startswith("ip6"))
        port = wanted(Module(name="fou"), fou) if found.type == "gue" else ()
        return (
            *wanted(Module(name=MODULES[found.dev])),
            *port,
            *wanted(Link(name=found.dev, up=True)),
        )
