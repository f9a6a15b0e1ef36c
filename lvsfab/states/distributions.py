"""What distributions name differently: packages, services, paths. One table of data.

A row is a plain name, then what each family calls it; what a row leaves out is named plainly
there. Families go by their package manager: apt (Debian, Ubuntu), dnf (RHEL and its rebuilds,
Fedora), yum (older ones: dnf's names, unless a row has its own), zypper (openSUSE, SLES), apk
(Alpine).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Family = Literal["apt", "dnf", "yum", "zypper", "apk"]
Table = Mapping[str, Mapping[str, str]]

PACKAGES: Table = {
    "httpd": {"apt": "apache2-bin", "dnf": "httpd", "zypper": "apache2", "apk": "apache2"},
    "arping": {"apt": "iputils-arping", "dnf": "iputils", "zypper": "iputils"},
    "iproute2": {"dnf": "iproute"},
    "procps": {"dnf": "procps-ng", "apk": "procps-ng"},
    "arptables": {"dnf": "iptables-nft", "yum": "arptables", "zypper": "iptables-backend-nft"},
    "openssh": {"apt": "openssh-server", "dnf": "openssh-server"},
}
SERVICES: Table = {
    "httpd": {"apt": "apache2", "zypper": "apache2", "apk": "apache2"},
    "sshd": {"apt": "ssh"},
}
PATHS: Table = {
    "repositories": {
        "apt": "/etc/apt/sources.list.d",
        "dnf": "/etc/yum.repos.d",
        "zypper": "/etc/zypp/repos.d",
    },
    "ipvs rules": {
        "apt": "/etc/ipvsadm.rules",
        "dnf": "/etc/sysconfig/ipvsadm",
        "zypper": "/etc/sysconfig/ipvsadm",
        "apk": "/etc/ipvsadm.rules",
    },
    "web root": {
        "apt": "/var/www/html",
        "dnf": "/var/www/html",
        "zypper": "/srv/www/htdocs",
        "apk": "/var/www/localhost/htdocs",
    },
}


def named(table: Table, plain: str, family: str) -> str:
    """What `family` calls `plain`."""
    names = table.get(plain, {})
    return names.get(family, names.get("dnf", plain) if family == "yum" else plain)


def cases(table: Table) -> str:
    """The table as branches of a shell's `case NAME:FAMILY in`, each printing the name there."""
    return "\n".join(
        f"  {plain}:{family}) echo {named(table, plain, family)} ;;"
        for plain, families in table.items()
        for family in dict.fromkeys((*families, *(("yum",) if "dnf" in families else ())))
    )


HELPERS = (
    r"""
service_named() { # what this host calls service $1
  case $1:$(package_family) in
"""
    + cases(SERVICES)
    + r"""
  *) printf '%s\n' "$1" ;;
  esac
}
"""
)
