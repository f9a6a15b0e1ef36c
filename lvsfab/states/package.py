"""Packages by the host's own package manager: apt, dnf, yum, zypper or apk.

What is installed already is left alone. An undo removes what was not there before: with apt
exactly the packages that came (a simulation says which, before anything is changed), with the
others the named ones and what their tool knows to be needed by nothing else.
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

import msgspec

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, State, UnsupportedError, show
from lvsfab.states.distributions import PACKAGES, Family, cases

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")


HELPERS = (
    r"""
package_family() {
  for p_tool in apt-get dnf yum zypper apk; do
    has "$p_tool" && { echo "${p_tool%-get}"; return 0; }
  done
  return 1
}
package_names() { # KEY FAMILY: the names for that family, one a line
  p_family=$2
  [ "$p_family" = yum ] && case ";$1" in *";yum="*) ;; *";dnf="*) p_family=dnf ;; esac
  case ";$1;" in
  *";$p_family="*) p_list=";$1;"; p_list=${p_list#*";$p_family="}; p_list=${p_list%%;*}
    printf '%s\n' "$p_list" | tr , '\n'; return 0 ;;
  esac
  case ${1%%;*}:$2 in
"""
    + cases(PACKAGES)
    + r"""
  *) printf '%s\n' "${1%%;*}" ;;
  esac
}
package_installed() { # FAMILY NAME
  case $1 in
  apt) [ "$(dpkg-query -W -f '${db:Status-Status}' "$2" 2>/dev/null)" = installed ] ;;
  apk) apk info -e "$2" >/dev/null 2>&1 ;;
  *) rpm -q --whatprovides "$2" >/dev/null 2>&1 ;;
  esac
}
package_apt() { # through this shell: a link that is cut must not end apt half way
  if [ -n "$(dpkg --audit 2>/dev/null)" ]; then # something else ended it half way
    DEBIAN_FRONTEND=noninteractive dpkg --force-confold --configure -a >/dev/null 2>&1 </dev/null
  fi
  p_said=$(DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=60 \
    -o Dpkg::Options::=--force-confold "$@" 2>&1 </dev/null)
  p_status=$?
  printf '%s\n' "$p_said" | tail -n 40
  return "$p_status"
}
package_install() { # FAMILY NAME...
  p_family=$1; shift
  case $p_family in
  apt) package_apt install --no-install-recommends "$@" ||
    { package_apt update && package_apt install --no-install-recommends "$@"; } ;;
  dnf | yum) "$p_family" -y install "$@" ;;
  zypper) zypper -n install --no-recommends "$@" ;;
  apk) apk add "$@" ;;
  esac
}
package_remove() { # FAMILY NAME...
  p_family=$1; shift
  case $p_family in
  apt)
    p_list=" $* "
    for p_name in $(apt-get -s purge "$@" 2>/dev/null | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p')
    do
      case $p_list in *" $p_name "*) ;; *)
        echo "$p_name was installed since and needs what would go: nothing is removed"; return 1 ;;
      esac
    done
    package_apt purge "$@" ;;
  dnf | yum) "$p_family" -y remove "$@" ;;
  zypper) zypper -n remove --clean-deps "$@" ;;
  apk) apk del "$@" ;;
  esac
}
"""
)


class Package(State, frozen=True, kw_only=True):
    """`name` as in distributions.PACKAGES or everywhere the same; `names`: family -> package or
    packages with commas.
    Read only: `family`, `missing` (of the packages, those not installed), `brings` (what
    installing those would install).
    """

    kind: ClassVar[str] = "package"
    read_only: ClassVar[frozenset[str]] = frozenset({"family", "missing", "brings"})
    foundation: ClassVar[bool] = True
    volatile: ClassVar[bool] = False
    reader: ClassVar[str] = r"""
  p_tool=$(package_family) || { echo none; return 0; }
  echo "family $p_tool"
  p_missing=
  for p_name in $(package_names "$1" "$p_tool"); do
    package_installed "$p_tool" "$p_name" && continue
    echo "missing $p_name"; p_missing="$p_missing $p_name"
  done
  [ "$p_tool" = apt ] && [ -n "$p_missing" ] &&
    apt-get -s -q install --no-install-recommends $p_missing 2>/dev/null |
      sed -n 's/^Inst \([^ ]*\) (.*/brings \1/p'
  return 0
"""

    name: str
    names: dict[Family, str] = msgspec.field(default_factory=dict)
    installed: bool = True
    family: Family | None = None
    missing: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lists = [text.split(",") for text in self.names.values()]
        for name in (self.name, *(name for found in lists for name in found)):
            if not _PACKAGE.fullmatch(name):
                raise InputError(f"`{name}` is no package name", key=self.kind)
        if len(self.key) > 200:
            raise InputError("too many package names: make it several lines", key=self.kind)

    @property
    def key(self) -> str:
        return ";".join([self.name, *(f"{f}={self.names[f]}" for f in sorted(self.names))])

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said: dict[str, list[str]] = {"missing": [], "brings": [], "family": []}
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "none":
                raise UnsupportedError("no package manager known here (apt, dnf, yum, zypper, apk)")
            if word in said and _PACKAGE.fullmatch(rest):
                said[word].append(rest)
        name, *rest_ = key.split(";")
        missing = tuple(said["missing"])
        return cls(
            name=name,
            names=dict(pair.split("=", 1) for pair in rest_),  # type: ignore[arg-type]
            installed=not missing,
            family=said["family"][0] if said["family"] else None,  # type: ignore[arg-type]
            missing=missing,
            brings=tuple(said["brings"]),
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if have is None or have.installed == self.installed:
            return ()
        return (Change("installed", show(have.installed), show(self.installed)),)

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if have is None or have.family is None:
            return ()
        if want is not None and want.installed:
            shown = f"{have.family} install {' '.join(have.missing)}"
            return (command("package_install", have.family, *have.missing, shown=shown),)
        gone = (want.brings or want.missing) if want is not None else ()
        if not gone:
            return ()  # which of them were here before is not known: leave them
        shown = f"{have.family} remove {' '.join(gone)}"
        return (command("package_remove", have.family, *gone, shown=shown),)
