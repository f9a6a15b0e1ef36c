"""Packages by the host's own package manager: apt, dnf, yum, zypper or apk.

What is installed already is left alone. An undo removes what was not there before: the named
packages, and what came for them and is needed by nothing else. With apt what was needed by nothing
before that stays; what comes cannot be known before, for its source may come with the same run.
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
_READ = re.compile(_PACKAGE.pattern + "(:[a-z0-9-]+)?")  # apt names foreign architectures

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
package_unneeded() { # NAME...: what would go as needed by nothing, if NAMEs went, and NAMEs
  apt-get -s -q -o APT::AutoRemove::RecommendsImportant=false \
    -o APT::AutoRemove::SuggestsImportant=false autoremove "$@" 2>/dev/null |
    sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p'
}
package_install_apt() { # NAME...
  p_asked=" $* $(apt-mark showmanual | tr '\n' ' ')"
  package_apt install --no-install-recommends "$@" ||
    { package_apt update && package_apt install --no-install-recommends "$@"; } || return 1
  for p_name in $(apt-mark showmanual); do # what a metapackage brings counts as asked for
    case $p_asked in *" $p_name "*) ;; *) apt-mark auto "$p_name" >/dev/null ;; esac
  done
}
package_remove_apt() { # PACKAGES THAT STAY, NAME...
  p_stay=" $1 $(package_unneeded | tr '\n' ' ')"; shift
  p_list=" $* "
  for p_name in $(apt-get -s purge "$@" 2>/dev/null | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p')
  do
    case $p_list in *" $p_name "*) ;; *)
      echo "$p_name was installed since and needs what would go: nothing is removed"; return 1 ;;
    esac
  done
  for p_name in $(package_unneeded "$@"); do
    case $p_stay$p_list in *" $p_name "*) ;; *) p_list="$p_list$p_name " ;; esac
  done
  package_apt purge $p_list
}
package_install() { # FAMILY NAME...
  p_family=$1; shift
  case $p_family in
  apt) package_install_apt "$@" ;;
  dnf | yum) "$p_family" -y install "$@" ;;
  zypper) zypper -n install --no-recommends "$@" ;;
  apk) apk add "$@" ;;
  esac
}
package_remove() { # FAMILY, PACKAGES THAT STAY, NAME...
  p_family=$1 p_stay=$2; shift 2
  case $p_family in
  apt) package_remove_apt "$p_stay" "$@" ;;
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
    Read only: `family`, `missing` (of the packages, those not installed), `unneeded` (packages that
    came for others and are needed by nothing any more; asked of apt if some are missing).
    """

    kind: ClassVar[str] = "package"
    read_only: ClassVar[frozenset[str]] = frozenset({"family", "missing", "unneeded"})
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
  [ "$p_tool" = apt ] && [ -n "$p_missing" ] && package_unneeded | sed 's/^/unneeded /'
  return 0
"""

    name: str
    names: dict[Family, str] = msgspec.field(default_factory=dict)
    installed: bool = True
    family: Family | None = None
    missing: tuple[str, ...] = ()
    unneeded: tuple[str, ...] = ()

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

    @property
    def is_there(self) -> bool:
        return self.installed

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said: dict[str, list[str]] = {"missing": [], "unneeded": [], "family": []}
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "none":
                raise UnsupportedError("no package manager known here (apt, dnf, yum, zypper, apk)")
            if word in said and _READ.fullmatch(rest):
                said[word].append(rest)
        name, *rest_ = key.split(";")
        missing = tuple(said["missing"])
        return cls(
            name=name,
            names=dict(pair.split("=", 1) for pair in rest_),  # type: ignore[arg-type]
            installed=not missing,
            family=said["family"][0] if said["family"] else None,  # type: ignore[arg-type]
            missing=missing,
            unneeded=tuple(said["unneeded"]),
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
        if want is None or not want.missing:
            return ()  # which of them were here before is not known: leave them
        shown = f"{have.family} remove {' '.join(want.missing)}"
        stay = " ".join(want.unneeded)
        return (command("package_remove", have.family, stay, *want.missing, shown=shown),)
