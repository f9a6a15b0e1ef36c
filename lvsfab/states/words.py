"""Words that are checked before they become part of a state. InputError says what is wrong."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from lvsfab.errors import InputError
from lvsfab.model import IPAddress, IPInterface

_INTERFACE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}")  # IFNAMSIZ is 16
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


def interface(value: str, kind: str) -> str:
    """A network interface's kernel name."""
    if not _INTERFACE.fullmatch(value):
        raise InputError(f"`{value}` is no interface name", key=kind)
    return value


def name(value: str, kind: str) -> str:
    """A plain name: of a module, a service, a table, a page."""
    if not _NAME.fullmatch(value):
        raise InputError(f"`{value}` is no name", key=kind)
    return value


def pairs(output: str) -> dict[str, str]:
    """The lines of two words that a reader printed, as word -> word; others are passed over."""
    return dict(words for line in output.splitlines() if len(words := line.split()) == 2)


def plain(value: object, kind: str) -> None:
    """Every text in a recipe line, however deep: nothing that no command line can carry."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and _unwritable(value)):
            raise InputError("text with a NUL or half a character in it", key=kind)
    elif isinstance(value, dict):
        for key, inner in value.items():
            plain(key, kind)
            plain(inner, kind)
    elif isinstance(value, list | tuple):
        for inner in value:
            plain(inner, kind)


def _unwritable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def address(value: str, kind: str) -> IPAddress:
    try:
        found = ip_address(value)
    except ValueError:
        raise InputError(f"`{value}` is no IP address", key=kind) from None
    if found.version == 6 and found.scope_id is not None:
        raise InputError(f"`{value}`: name the device apart from the address", key=kind)
    return found


def with_prefix(value: str, kind: str) -> IPInterface:
    """An address with its prefix length, which must be said."""
    try:
        found = ip_interface(value)
    except ValueError:
        found = None
    if found is None or "/" not in value or "%" in value:
        raise InputError(f"`{value}` is no address with a prefix, such as 10.1.1.100/32", key=kind)
    return found


def network(value: str, kind: str) -> IPv4Network | IPv6Network:
    try:
        found = ip_network(value)
    except ValueError:
        found = None
    if found is None or "%" in value:
        raise InputError(f"`{value}` is no network, such as 192.0.2.0/24", key=kind)
    return found


def port(value: int, kind: str, *, least: int = 1) -> int:
    if not least <= value <= 65535:
        raise InputError(f"{value} is no port", key=kind)
    return value


def within(value: int, least: int, most: int, what: str, kind: str) -> int:
    if not least <= value <= most:
        raise InputError(f"{what} {value} is not within {least} to {most}", key=kind)
    return value
