"""What `ipvsadm -S -n` says, as values: whole fields, never substrings.

The words of a rule are ipvsadm(8)'s. Two things it does not tell are asked for apart:
thresholds (`ipvsadm -L --thresholds`; a saved rule has none) and whether IPVS is there at all
(/proc/net/ip_vs; asking ipvsadm would load the module).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from lvsfab.errors import InputError
from lvsfab.model import ForwardingMethod
from lvsfab.states.base import Way

METHODS = {"-m": ForwardingMethod.NAT, "-g": ForwardingMethod.DR, "-i": ForwardingMethod.TUN}
OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service", "fwm": "-f", "fwm6": "-f"}
_PROTOCOLS = {
    "-t": "tcp",
    "--tcp-service": "tcp",
    "-u": "udp",
    "--udp-service": "udp",
    "--sctp-service": "sctp",
    "-f": "fwm",
    "--fwmark-service": "fwm",
}
_FLAGS = {  # ipvsadm.c prints sh's and mh's flags by name, others' by number
    "sh-fallback": "flag-1",
    "sh-port": "flag-2",
    "mh-fallback": "flag-1",
    "mh-port": "flag-2",
}

HELPERS = r"""
ipvs_option() { # of service key $1: ipvs_o the option, ipvs_a its argument
  ipvs_a=${1#*:}
  case $1 in
  tcp:*) ipvs_o=-t ;;
  udp:*) ipvs_o=-u ;;
  sctp:*) ipvs_o=--sctp-service ;;
  *) ipvs_o=-f ;;
  esac
}
ipvs_rules() { # the saved rules of service key $1
  [ -e /proc/net/ip_vs ] && has ipvsadm || return 0
  ipvs_option "$1"
  ipvsadm -S -n 2>/dev/null | grep -F -e " $ipvs_o $ipvs_a "
}
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One saved rule: `verb` -A (a service) or -a (a server), the service's key, the server's
    address and port ("" for a service), and the other options with their values.
    """

    verb: str
    service: str
    server: str = ""
    options: dict[str, str] = field(default_factory=dict)


def endpoint(address: str, port: int) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`."""
    ip = ip_address(address)
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """The inverse of `endpoint`. ValueError for anything else."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return str(ip_address(host)), int(port)


def service_words(key: str) -> tuple[str, ...]:
    """`tcp:10.0.0.1:80` -> -t 10.0.0.1:80; `fwm:5` -> -f 5; `fwm6:5` -> -f 5 -6."""
    protocol, _, rest = key.partition(":")
    if protocol not in OPTIONS:
        raise InputError(f"`{key}` is no virtual service, such as tcp:10.0.0.1:80")
    return (OPTIONS[protocol], rest, *(("-6",) if protocol == "fwm6" else ()))


def check_service_key(key: str, kind: str) -> tuple[str, str, int]:
    """Protocol, address ("" for a mark) and port (the mark) of a service's key, or InputError."""
    protocol, _, rest = key.partition(":")
    try:
        if protocol.startswith("fwm"):
            address, port = "", int(rest)
            good = str(port) == rest and 0 < port < 2**32
        else:
            address, port = split_endpoint(rest)
            good = endpoint(address, port) == rest and 0 <= port <= 65535
    except ValueError:
        good = False
    if not good or protocol not in OPTIONS:
        raise InputError(
            f"`{key}` is no virtual service, such as tcp:10.0.0.1:80, tcp:[fd00::1]:80 or fwm:5",
            key=kind,
        )
    return protocol, address, port


def catches(protocol: str, address: str, port: int, way: Way) -> str:
    """How a virtual service could cut off the controller that comes by `way`, in words; "": it
    catches other connections than this host's own SSH. What a firewall mark catches it does not
    say; the table that sets the mark is guarded by itself.
    """
    if protocol != "tcp" or ip_address(address) != way.local or port not in (0, way.port):
        return ""
    return f"{endpoint(address, port)} catches connections to this host's own SSH"


def cuts(key: str, way: Way) -> str:
    """The same of a service's key, for a change of the service or of one of its servers: as long as
    it has none, the kernel refuses what it catches, so no step of several is harmless by itself.
    They follow each other, and are guarded as one; a connection that is open goes on all the while,
    and the new one that confirms is scheduled as any other. Where some servers are this host
    itself and some are not, one connection proves no more than itself.
    """
    protocol, address, port = check_service_key(key, "virtual_service")
    return catches(protocol, address, port, way) if address else ""


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Every rule of `ipvsadm -S -n`; a line that is none is passed over."""
    return tuple(rule for line in text.splitlines() if (rule := _rule(line.split())) is not None)


def _rule(words: list[str]) -> Rule | None:
    if len(words) < 3 or words[0] not in ("-A", "-a") or words[1] not in _PROTOCOLS:
        return None
    protocol, rest = _PROTOCOLS[words[1]], words[3:]
    options: dict[str, str] = {}
    server = ""
    i = 0
    while i < len(rest):
        word = rest[i]
        value = rest[i + 1] if i + 1 < len(rest) and not rest[i + 1].startswith("-") else ""
        if word == "-6" and protocol == "fwm":
            protocol, value = "fwm6", ""
        elif word == "-r":
            server = value
        elif word in METHODS or word in ("-o", "--ops", "ops"):
            options[word.lstrip("-") if word.endswith("ops") else word] = ""
            value = ""
        else:
            options[word] = value
        i += 2 if value else 1
    if (words[0] == "-a") != bool(server):
        return None
    return Rule(words[0], f"{protocol}:{words[2]}", server, options)


def canonical_flags(flags: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({_FLAGS.get(flag, flag) for flag in flags if flag}))


def thresholds(text: str) -> dict[str, tuple[int, int]]:
    """Server -> (upper, lower) from `ipvsadm -L -n --thresholds` of one service."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and words[0] == "->" and words[2].isdigit() and words[3].isdigit():
            found[words[1]] = (int(words[2]), int(words[3]))
    return found
