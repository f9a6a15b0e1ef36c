"""What a host is and can: one script, one record, parsed into a value. Reading changes nothing
(no tool is asked that loads a kernel module by being asked; versions are the package manager's).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_interface

import msgspec

from lvsfab.errors import CommandError
from lvsfab.session import Record
from lvsfab.states.distributions import PACKAGES
from lvsfab.states.module import SEEN
from lvsfab.states.sysctl import effective

SCHEMA = "lvsfab.facts/1"
MAX_TOLD = 200  # characters of what cannot be read that are shown
MODULES = (
    "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_lblc", "ip_vs_lblcr",
    "ip_vs_dh", "ip_vs_sh", "ip_vs_sed", "ip_vs_nq", "ip_vs_fo", "ip_vs_ovf", "ip_vs_mh",
    "ipip", "ip_gre", "fou", "nf_conntrack", "nf_tables", "arp_tables", "arptable_filter",
    "ip_tables", "xt_ipvs", "dummy", "veth", "sch_netem",
)  # fmt: skip
NEEDS = {"nat": ("ip_vs",), "dr": ("ip_vs",), "tun": ("ip_vs", "ipip")}
_PACKAGES = {  # tool: the packages that it comes in, by their plain names
    "ip": "iproute2", "ipvsadm": "ipvsadm", "keepalived": "keepalived", "nft": "nftables",
    "arptables": "arptables", "iptables": "iptables", "modprobe": "kmod", "sysctl": "procps",
    "curl": "curl", "tcpdump": "tcpdump", "ethtool": "ethtool", "sshd": "openssh",
    "python3": "python3-minimal python3",
}  # fmt: skip
TOOLS = {  # and by those that distributions give them
    tool: tuple(dict.fromkeys(n for p in plain.split() for n in (p, *PACKAGES.get(p, {}).values())))
    for tool, plain in _PACKAGES.items()
}
_ASKED = (  # sysctls of each device
    "rp_filter", "arp_ignore", "arp_announce", "send_redirects", "accept_redirects", "forwarding",
)  # fmt: skip
READ = (  # which sysctls are read
    "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.vs.*",
    *(f"net.ipv4.conf.*.{name}" for name in _ASKED),
)  # fmt: skip
_SINGLE = (
    "os", "os_version", "os_name", "hostname", "kernel", "machine", "init", "processors", "memory",
)  # fmt: skip
PLAIN = (*_SINGLE, "interface", "address", "lvs")

SCRIPT = (
    SEEN + r"""
read_facts() {
  echo '== os'; cat /etc/os-release 2>/dev/null
  echo '== host'
  printf 'hostname %s\nkernel %s\nmachine %s\n' "$(uname -n)" "$(uname -r)" "$(uname -m)"
  read -r f_cpu _ </proc/uptime && printf 'uptime %s\n' "$f_cpu"
  sed -n 's/^MemTotal: *\([0-9]*\) kB/memory \1/p' /proc/meminfo
  printf 'processors %s\n' "$(grep -c '^processor' /proc/cpuinfo)"
  echo '== init'
  if [ -d /run/systemd/system ]; then echo systemd
  elif [ -e /run/openrc/softlevel ]; then echo openrc
  elif [ -x /sbin/openrc ]; then echo openrc
  else cat /proc/1/comm; fi
  f_modules=/lib/modules/$(uname -r)
  echo '== present'; sed 's/ .*//' /proc/modules 2>/dev/null
  grep -hE "$F_MODULES" "$f_modules/modules.builtin" 2>/dev/null
  for f_name in $F_NAMES; do module_seen "$f_name" && echo "$f_name"; done
  echo '== loadable'
  has modprobe && sed 's/:.*//' "$f_modules/modules.dep" 2>/dev/null | grep -E "$F_MODULES"
  if has ip; then
    echo '== link'; ip -o link 2>/dev/null
    echo '== address'; ip -o addr 2>/dev/null
    echo '== route'; ip route 2>/dev/null; ip -6 route 2>/dev/null
  fi
  echo '== sysctl'
  grep -sH '' /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding
  for f_name in $F_SYSCTLS; do grep -sH '' /proc/sys/net/ipv4/conf/*/"$f_name"; done
  [ -d /proc/sys/net/ipv4/vs ] && grep -sH '' /proc/sys/net/ipv4/vs/*
  echo '== tool'
  for f_name in $F_TOOLS; do
    f_path=$(command -v "$f_name") && printf '%s %s\n' "$f_name" "$f_path"
  done
  echo '== package'
  if has dpkg-query; then
    dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' $F_PACKAGES 2>/dev/null |
      sed -n 's/^installed //p'
  elif has rpm; then rpm -q --qf '%{NAME} %{VERSION}-%{RELEASE}\n' $F_PACKAGES | grep -v ' not '
  elif has apk; then
    apk list -I 2>/dev/null | sed 's/^\([^ ]*\)-\([0-9][^ ]*-r[0-9]*\) .*/\1 \2/'
  fi
  return 0
}
"""
    f"F_MODULES='/({'|'.join(MODULES).replace('_', '[_-]')})[.]ko'\n"
    f"F_NAMES='{' '.join(MODULES)}'\n"
    f"F_SYSCTLS='{' '.join(_ASKED)}'\n"
    f"F_TOOLS='{' '.join(TOOLS)}'\n"
    f"F_PACKAGES='{' '.join(dict.fromkeys(n for names in TOOLS.values() for n in names))}'\n"
    "rec facts read_facts"
)


class NetDevice(msgspec.Struct, frozen=True):
    name: str
    state: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]


class Tool(msgspec.Struct, frozen=True):
    """`version` is its package's; empty where no package manager knows it."""

    path: str
    version: str


class Value(msgspec.Struct, frozen=True):
    """A sysctl: what is written there, and what the kernel goes by (conf.all counts too)."""

    value: str
    effective: str


class Facts(msgspec.Struct, frozen=True):
    """One host. `memory` in KiB, `uptime` in seconds; `modules`: present, loadable or absent;
    `able`: LVS mode -> the modules that it lacks there (none: it can).
    """

    os: str
    os_version: str
    os_name: str
    hostname: str
    kernel: str
    machine: str
    init: str
    memory: int
    processors: int
    uptime: float
    modules: dict[str, str]
    interfaces: tuple[NetDevice, ...]
    routes: tuple[str, ...]
    sysctls: dict[str, Value]
    tools: dict[str, Tool]
    able: dict[str, tuple[str, ...]]

    def flat(self) -> dict[str, str]:
        """By the names that targets use (fact:NAME=GLOB); several values are several lines."""
        found = {name: str(getattr(self, name)) for name in _SINGLE}
        found["interface"] = "\n".join(device.name for device in self.interfaces)
        addresses = [a for device in self.interfaces for a in device.addresses]
        found["address"] = "\n".join(a.partition("/")[0] for a in addresses)
        found["lvs"] = "\n".join(mode for mode, lacks in self.able.items() if not lacks)
        found |= {f"module.{name}": state for name, state in self.modules.items()}
        found |= {f"sysctl.{name}": value.effective for name, value in self.sysctls.items()}
        found |= {f"tool.{name}": tool.version or tool.path for name, tool in self.tools.items()}
        return found


def read(host: str, records: Sequence[Record]) -> Facts:
    """What a host answered to SCRIPT. CommandError when that cannot be read."""
    if not records:
        raise CommandError(host, "told no facts")
    try:
        return parse(records[0].output)
    except (ValueError, LookupError) as error:
        raise CommandError(host, f"its facts cannot be read: {str(error)[:MAX_TOLD]}") from None


def parse(output: str) -> Facts:
    """What SCRIPT's record says. Pure; what a host does not say is empty, not an error; what is
    said and cannot be read is a ValueError.
    """
    parts = _sections(output)
    release = dict(_release(parts.get("os", ())))
    host = {word: rest for word, _, rest in (s.partition(" ") for s in parts.get("host", ()))}
    present = {_stem(line) for line in parts.get("present", ())}
    loadable = {_stem(line) for line in parts.get("loadable", ())}
    modules = {
        name: "present" if name in present else "loadable" if name in loadable else "absent"
        for name in MODULES
    }
    packages = dict(line.partition(" ")[::2] for line in parts.get("package", ()))
    tools = {}
    for line in parts.get("tool", ()):
        name, _, path = line.partition(" ")
        versions = [packages[p] for p in TOOLS.get(name, ()) if p in packages]
        tools[name] = Tool(path, versions[0] if versions else "")
    return Facts(
        os=release.get("ID", "unknown"),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", ""),
        hostname=host.get("hostname", ""),
        kernel=host.get("kernel", ""),
        machine=host.get("machine", ""),
        init=next(iter(parts.get("init", ())), "unknown"),
        memory=_number(host.get("memory", "")),
        processors=_number(host.get("processors", "")),
        uptime=_seconds(host.get("uptime", "")),
        modules=modules,
        interfaces=tuple(_interfaces(parts.get("link", ()), parts.get("address", ()))),
        routes=tuple(" ".join(line.split()) for line in parts.get("route", ())),
        sysctls=_sysctls(parts.get("sysctl", ())),
        tools=tools,
        able={m: tuple(n for n in needs if modules[n] == "absent") for m, needs in NEEDS.items()},
    )


def lacking(name: str) -> str:
    """What is wrong with `name` as one that targets use (`Facts.flat`); empty: nothing."""
    kind, dot, rest = name.partition(".")
    there: Collection[str]
    if not dot:
        there, found = (*PLAIN, "module.NAME", "sysctl.NAME", "tool.NAME"), name in PLAIN
    elif kind == "sysctl":
        there, found = READ, any(fnmatchcase(rest, glob) for glob in READ)
    else:
        there = {"module": MODULES, "tool": tuple(TOOLS)}.get(kind, ())
        found = rest in there
    if found:
        return ""
    return f"no fact `{name}`" + (f"; there are {', '.join(there)}" if there else "")


def _sections(output: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], [])
        elif line:
            lines.append(line)
    return found


def _release(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            yield name, value.strip().strip("\"'")


def _stem(line: str) -> str:
    file = line.strip().rpartition("/")[2]
    return re.sub(r"\.ko(\.[a-z0-9]+)?$", "", file).replace("-", "_")


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,15}([.][0-9]{1,9})?", text) else 0.0


def _interfaces(links: Iterable[str], addresses: Iterable[str]) -> Iterable[NetDevice]:
    """From `ip -o link` and `ip -o addr`."""
    by_device: dict[str, list[str]] = {}
    for line in addresses:
        words = line.split()
        if len(words) > 3 and words[2] in ("inet", "inet6"):
            # `inet 10.0.0.1 peer 10.0.0.2/32`: the device's own comes first
            by_device.setdefault(words[1], []).append(str(ip_interface(words[3])))
    for line in links:
        match = re.match(r"[0-9]+: ([^:@\s]+)(?:@\S+)?: <([^>]*)>.*? mtu ([0-9]{1,9})", line)
        if match:
            mac = re.search(r"link/[^\s/]+ ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b", line)
            state = "up" if "UP" in match[2].split(",") else "down"
            found = tuple(by_device.get(match[1], ()))
            yield NetDevice(match[1], state, mac[1] if mac else "", int(match[3]), found)


def _sysctls(lines: Iterable[str]) -> dict[str, Value]:
    raw = {}
    for line in lines:
        path, _, value = line.removeprefix("/proc/sys/").partition(":")
        raw[path.translate(str.maketrans("./", "/."))] = " ".join(value.split())
    found = {}
    for name, value in raw.items():
        head, _, last = name.rpartition(".")
        device = head.rpartition(".")[2]
        alone = not head.startswith("net.ipv4.conf.") or device in ("all", "default")
        of_all = None if alone else raw.get(f"net.ipv4.conf.all.{last}")
        forwards = raw.get(f"{head}.forwarding") == "1"
        found[name] = Value(value, effective(name, value, of_all, forwards))
    return found


def document(host: str, facts: Facts) -> Mapping[str, object]:
    """For --json; with the schema's name it is one `lvsfab.facts/1`."""
    return {"host": host, **msgspec.to_builtins(facts)}
