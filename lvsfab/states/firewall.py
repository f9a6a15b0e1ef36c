"""What a host's own firewall must let in for LVS-TUN, if it is asked to: the service, the tunnel's
packets, and pings inside the tunnel. What finds the firewall and opens it is `let_in`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from lvsfab.errors import InputError
from lvsfab.model import Cluster, VirtualService
from lvsfab.states.base import Context, Resource
from lvsfab.states.composite import Composite, arguments, wanted
from lvsfab.states.fou import FOU_PORT
from lvsfab.states.inner import peers
from lvsfab.states.keepalived import checks_of
from lvsfab.states.let_in import MOST_SOURCES, LetIn


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    wanted: bool
    dev: str


class Firewall(Composite):
    """Recipe word `firewall`: wanted, dev (the tunnel's)."""

    kind: ClassVar[str] = "firewall"

    def build(self, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        found = arguments(args, _Args, self.kind)
        cluster = context.cluster
        if cluster is None:
            raise InputError("firewall stands only in a recipe with a cluster", key=self.kind)
        if not found.wanted:
            return ()
        if cluster.service.vip.version == 6:
            raise InputError("the firewall is opened for IPv4 alone", key=self.kind)
        states = [*_service(cluster.service), *_tunnel(cluster, context, found.dev)]
        if cluster.keepalived is not None and context.host.name not in cluster.directors:
            for _, port in checks_of(cluster, cluster.service.port):  # of the server's own address
                word = "ping" if port is None else f"{cluster.service.protocol}/{port}"
                states += _from_peers(word, context)
        return wanted(*states)


def _service(service: VirtualService) -> Iterator[LetIn]:
    ports = [f"/{port}" for port in service.every_port] if service.port else [""]
    for port in ports:
        yield LetIn(allow=f"{service.protocol}{port}", to=str(service.vip))


def _tunnel(cluster: Cluster, context: Context, dev: str) -> Iterator[LetIn]:
    """Packets with packets in them, from the tunnel's other end alone."""
    words = set()
    if context.host.name not in cluster.directors:  # what IPVS puts requests into
        words.add({"gue": f"udp/{FOU_PORT}"}.get(cluster.tunnel, cluster.tunnel))
    if context.host.inner is not None:  # what the device sends, which knows no GUE
        words.add("gre" if cluster.tunnel == "gre" else "ipip")
        yield LetIn(allow="ping", dev=dev)
    for word in sorted(words):
        yield from _from_peers(word, context)


def _from_peers(word: str, context: Context) -> Iterator[LetIn]:
    faces = (face for peer in peers(context) for face in peer.interfaces)
    outer = [str(a.ip) for face in faces for a in face.addresses if a.version == 4]
    for first in range(0, len(outer), MOST_SOURCES):
        yield LetIn(allow=word, sources=tuple(outer[first : first + MOST_SOURCES]))
