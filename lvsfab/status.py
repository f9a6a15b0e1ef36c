"""`lvsfab status`: what the directors' IPVS tables hold now, and whether each server answers."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvsfab.errors import CommandError, InputError
from lvsfab.report import table
from lvsfab.session import by_id
from lvsfab.verify.ipvsadm import ServerEntry, ServiceEntry, Table, parse_table

if TYPE_CHECKING:
    from lvsfab.app import App
    from lvsfab.engine import Engine
    from lvsfab.model import Inventory
    from lvsfab.report import Reporter
    from lvsfab.session import Record, Shell

STATUS = "lvsfab.status/1"
TIMEOUT = 30.0  # s for a director to answer
EVERY = 1.0  # s between two looks of --watch
_HEAD = ("REAL SERVER", "ADDRESS", "METHOD", "WEIGHT", "ACTIVE", "INACTIVE", "CONNS", "ANSWERS")

# Reading may not load ip_vs (ipvsadm would). Health: does a TCP connection from the director to
# the server's own address and port come about?
_SCRIPT = r"""
list_table() { [ -e /proc/net/ip_vs ] || return 0; ipvsadm -Ln "$@"; }
answers() { # curl's own verdict is of HTTP; the time to connect is above 0 if it did at all
  case $(curl -s -o /dev/null --connect-timeout 1 --max-time 2 -w '%{time_connect}' "http://$1/") in
  *[1-9]*) return 0 ;; *) return 1 ;; esac
}
rec table list_table
rec stats list_table --stats --exact
"""


@dataclass(frozen=True, slots=True)
class DirectorStatus:
    """One director's table; `conns` by (service key, address, port); `health` by address:port."""

    host: str
    services: Table
    counters: Table
    health: Mapping[str, bool]


def script(probes: tuple[str, ...]) -> str:
    """The script for one director; `probes`: real servers as ADDRESS:PORT."""
    wanted = [f"rec health:{probe} answers {shlex.quote(probe)}" for probe in probes]
    return "\n".join([_SCRIPT, *wanted])


def read(host: str, records: list[Record]) -> DirectorStatus:
    found = by_id(records)
    for name in ("table", "stats"):
        if name not in found or found[name].status != 0:
            answer = found.get(name)
            raise CommandError(
                host,
                "its IPVS table cannot be read",
                command="ipvsadm -Ln",
                status=answer.status if answer else None,
                output=answer.output if answer else "",
            )
    try:
        services, counters = parse_table(found["table"].output), parse_table(found["stats"].output)
    except ValueError as error:
        raise CommandError(host, str(error)) from None
    health = {
        record.id.removeprefix("health:"): record.status == 0
        for record in records
        if record.id.startswith("health:")
    }
    return DirectorStatus(host, services, counters, health)


def show_status(app: App, engine: Engine, report: Reporter, *, watch: bool) -> None:
    """Print the status of every director; with `watch` again each second, until interrupted."""
    directors = [host.name for host in app.inventory.with_role("director")]
    if not directors:
        raise InputError("no host has role `director`", path=app.inventory.path, key="hosts")
    if app.lab is not None and not app.lab.running():
        raise InputError("the lab is not up", tip="lvsfab up tun")
    probes: tuple[str, ...] = ()
    while True:
        lines: list[str] = []
        documents: list[dict[str, Any]] = []
        for name in directors:
            shell = engine.shell(name)
            found = look(shell, probes)
            wanted = tuple(dict.fromkeys(_probe(s) for v in found.services.services
                                         for s in v.servers))  # fmt: skip
            if wanted != probes:
                probes = wanted
                found = look(shell, probes)
            lines += text(found, app.inventory)
            documents.append(data(found, app.inventory))
        if report.as_json:
            report.document(STATUS, {"directors": documents})
        else:
            report.screen(lines, again=watch)
        if not watch:
            return
        time.sleep(EVERY)


def look(shell: Shell, probes: tuple[str, ...]) -> DirectorStatus:
    records = shell.run(script(probes), timeout=TIMEOUT, what="its IPVS table")
    return read(shell.host, records)


def text(status: DirectorStatus, inventory: Inventory) -> list[str]:
    """Plain lines: each virtual service, its servers beneath."""
    lines: list[str] = []
    for service in status.services.services:
        scheduler = " ".join(filter(None, (service.scheduler, *service.flags)))
        persistent = f" persistent {service.persistence} s" if service.persistence else ""
        lines.append(f"{status.host}  {service.key} {scheduler}{persistent}")
        rows = [_row(status, service, server, inventory) for server in service.servers]
        lines += ["  " + line for line in table(rows, _HEAD)]
    return lines or [f"{status.host}  no virtual services"]


def _row(
    status: DirectorStatus, service: ServiceEntry, server: ServerEntry, inventory: Inventory
) -> tuple[str, ...]:
    health = status.health.get(_probe(server))
    return (
        _name(inventory, server),
        _probe(server),
        server.method or "",
        str(server.weight),
        str(server.active),
        str(server.inactive),
        str(_conns(status, service, server)),
        {True: "yes", False: "no", None: "not asked"}[health],
    )


def _probe(server: ServerEntry) -> str:
    """Where it is asked whether it answers: a service of all or of marked ports says no port."""
    host = f"[{server.address}]" if server.address.version == 6 else str(server.address)
    return f"{host}:{server.port or 80}"


def _name(inventory: Inventory, server: ServerEntry) -> str:
    for host in inventory.hosts.values():
        if any(server.address == a.ip for face in host.interfaces for a in face.addresses):
            return host.name
    return "?"


def _conns(status: DirectorStatus, service: ServiceEntry, server: ServerEntry) -> int:
    for counted in status.counters.services:
        if counted.key == service.key:
            entry = counted.server(server.address, server.port)
            if entry is not None and entry.counters is not None:
                return entry.counters.conns
    return 0


def data(status: DirectorStatus, inventory: Inventory) -> dict[str, Any]:
    """The JSON form: one director, its services, their servers."""
    return {
        "host": status.host,
        "services": [
            {
                "service": service.key,
                "scheduler": service.scheduler,
                "flags": list(service.flags),
                "persistence": service.persistence,
                "servers": [
                    {
                        "name": _name(inventory, server),
                        "address": str(server.address),
                        "port": server.port,
                        "method": server.method,
                        "weight": server.weight,
                        "active": server.active,
                        "inactive": server.inactive,
                        "conns": _conns(status, service, server),
                        "answers": status.health.get(_probe(server)),
                    }
                    for server in service.servers
                ],
            }
            for service in status.services.services
        ],
    }
