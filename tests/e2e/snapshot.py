"""What a host is, as far as lvsfab could ever change it; and how two such pictures differ.

Looking changes nothing: tools that load modules by being asked are asked only when their module
is there. Neighbours, counters, what time alone changes and what a boot sizes by the memory it finds
are left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

SCRIPT = r"""
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
has_module() { [ -d "/sys/module/$1" ]; }
for n in 1 2 3 4 5; do # an address that is still being probed for a duplicate is not there yet
  ip -6 addr show tentative | grep -q . || break; sleep 1
done
echo "== addresses"; ip -o addr | sed 's/valid_lft.*//; s/\\ *$//' | sort
echo "== links"; ip -o -d link | sed 's/promiscuity.*//; s/\\ */ /g' | sort
echo "== routes"; { ip route show table all; ip -6 route show table all; } |
  sed 's/ expires [^ ]*//; s/ *$//' | sort
echo "== rules"; ip rule; ip -6 rule
echo "== sysctl"; grep -rHs '' /proc/sys/net --exclude=stable_secret --exclude='*_count' \
  --exclude=flush --exclude='*_*mem' --exclude=inet_peer_threshold | sort
echo "== ipvs"; has_module ip_vs && ipvsadm -Sn
echo "== arptables"; has_module arp_tables && arptables-legacy -nL
echo "== nft"; has_module nf_tables && nft list ruleset
echo "== fou"; has_module fou && ip fou show
echo "== modules"; cut -d' ' -f1 /proc/modules | sort
echo "== processes"; ps -eo user,args --no-headers | grep -v -e '\[' -e sshd -e 'ps -eo' -e 'sh -' \
  -e sort -e grep -e sftp | sort
echo "== packages"; dpkg-query -W -f '${binary:Package} ${Version} ${Status}\n'
# /usr by names alone: no file of it need be looked at, which takes seconds on a lab's disk
echo "== files"; { find /usr -xdev; for d in / /run /tmp; do
    find "$d" -xdev \( -path /usr -o -path /proc -o -path /sys -o -path /dev -o \
      -path /var/cache -o -path /var/log/journal -o -path /run/sshd.pid -o \
      -path /run/utmp \) -prune -o \
      ! -type s ! -path /root/.lesshst ! -name '*log*' -printf '%p %y %m %u:%g %l\n'
  done; } | grep -v -e '^/run d' -e '^/tmp d' | sort
echo "== contents"
find /etc /root /run /var/lib -xdev -type f ! -path '/var/lib/dpkg/*' ! -name utmp \
  ! -name sshd.pid |
  sort | tr '\n' '\0' | xargs -0 cksum
exit 0
"""


def differences(
    before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """One line for each difference, with host and section; a host that is missing is one too."""
    found = [f"{host}: missing" for host in before if host not in after]
    for host, sections in after.items():
        for section, text in sections.items():
            was = before.get(host, {}).get(section, "")
            found += [
                f"{host} {section}: {line}"
                for line in difflib.unified_diff(
                    was.splitlines(), text.splitlines(), n=0, lineterm=""
                )
                if not line.startswith(("---", "+++", "@@"))
            ]
    return found
