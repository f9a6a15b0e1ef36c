"""A director as a router, for the VIP's IP version, that teaches nobody a shortcut.

Redirects would tell real servers to answer clients directly (LVS-NAT breaks a while after it
started); the kernel sends them if conf.all or the interface says so, so both are set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.sysctl import Sysctl


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    devices: list[str]


class Forwarding(Composite):
    """Recipe word `forwarding`: devices, those that packets come in and go out by."""

    kind: ClassVar[str] = "forwarding"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        devices = arguments(args, _Args, self.kind).devices
        if context.cluster is not None and context.cluster.service.vip.version == 6:
            # IPv6 has no switch for redirects
            return wanted(Sysctl(name="net.ipv6.conf.all.forwarding", value="1"))
        quiet = [f"net.ipv4.conf.{dev}.send_redirects" for dev in ("all", *dict.fromkeys(devices))]
        return wanted(
            Sysctl(name="net.ipv4.ip_forward", value="1"),
            *(Sysctl(name=name, value="0") for name in quiet),
        )
