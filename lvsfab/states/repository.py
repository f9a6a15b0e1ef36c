"""A package source of one's own: a file where the host's package manager looks for such.

yum, dnf and zypper read `[name] baseurl=...` from a .repo file, apt a .sources file. apk has one
file for all sources; that is left to its owner.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, Context, Resource, State, UnsupportedError
from lvsfab.states.distributions import PATHS, Family, named
from lvsfab.states.file import worded

_URL = re.compile(r"(https?|ftp|file)://[!-~]+")
HELPERS = r"""
source_lists() { # FILE: what apt has of that source, without endings; all, where FILE is empty
  apt-get indextargets --format '$(SOURCESENTRY) $(METAKEY) $(FILENAME)' 2>/dev/null |
    while read -r s_source s_meta s_list; do
      case $s_source in "$1"*) ;; *) continue ;; esac
      s_meta=$(printf %s "$s_meta" | tr / _)
      printf '%s\n%sInRelease\n%sRelease\n' \
        "${s_list%"$s_meta"*}$s_meta" "${s_list%"$s_meta"*}" "${s_list%"$s_meta"*}"
    done
}
source_drop() { # FILE, and what apt alone has of it
  s_gone=$(source_lists "$1:") # FILE:LINE, as apt says it
  drop_file "$1" || return 1
  s_stay=" $(source_lists '' | tr '\n' ' ')"
  for s_list in $s_gone; do
    case $s_stay in *" $s_list "*) ;; *) rm -f "$s_list" "$s_list".* ;; esac
  done
}
"""
_WORD = re.compile(r"[A-Za-z0-9./_-]+")


class Repository(State, frozen=True, kw_only=True):
    """`url`: for yum, dnf, zypper the baseurl; for apt URL, suite and components in one line.
    `signed_by`: the key of its packages (yum, dnf: a URL; apt: a file there); "": unsigned.
    Read only: `family`, and `text`, the file's content (None: there is none).
    """

    kind: ClassVar[str] = "repository"
    foundation: ClassVar[bool] = True
    volatile: ClassVar[bool] = False
    read_only: ClassVar[frozenset[str]] = frozenset({"family", "text"})
    reader: ClassVar[str] = rf"""
  p_tool=$(package_family) || {{ echo none; return 0; }}
  echo "family $p_tool"
  case $p_tool in
  apt) p_file={PATHS["repositories"]["apt"]}/lvsfab-$1.sources ;;
  zypper) p_file={PATHS["repositories"]["zypper"]}/lvsfab-$1.repo ;;
  *) p_file={PATHS["repositories"]["dnf"]}/lvsfab-$1.repo ;;
  esac
  [ -f "$p_file" ] && {{ printf 'text '; base64 <"$p_file" | tr -d '\n'; echo; }}
  return 0
"""

    name: str
    url: str = ""
    signed_by: str = ""
    family: Family | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)
        if self.family is None:
            first, *rest = self.url.split() or [""]
            if not _URL.fullmatch(first) or not all(_WORD.fullmatch(word) for word in rest):
                raise InputError(f"`{self.url}` is no package source", key=self.kind)
            if self.signed_by and not re.fullmatch(r"[!-~]+", self.signed_by):
                raise InputError(f"`{self.signed_by}` is no key", key=self.kind)

    @property
    def key(self) -> str:
        return self.name

    @property
    def is_there(self) -> bool:
        return self.text is not None

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        """Nothing where no `url` is given: hosts have their sources."""
        fields = dict(args)
        if "key" in fields:
            fields["signed_by"] = fields.pop("key")
        return super().build(fields, context) if fields.get("url") else ()

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said = dict(line.partition(" ")[::2] for line in output.splitlines())
        family = said.get("family")
        if family not in ("apt", "dnf", "yum", "zypper"):
            raise UnsupportedError(
                f"package sources of {family or 'no package manager'} are not handled here"
            )
        try:
            text = base64.b64decode(said["text"]).decode() if "text" in said else None
        except (binascii.Error, UnicodeDecodeError):
            raise UnsupportedError(f"the file of source {key} cannot be read") from None
        return cls(name=key, family=family, text=text)  # type: ignore[arg-type]

    def wanted(self, family: Family) -> str | None:
        """The file's content for a family; None: there is to be none."""
        if self.family is not None:  # an undo
            return self.text
        url, *rest = self.url.split()
        if family == "apt":
            suite, *components = rest or ["./"]
            signed = f"Signed-By: {self.signed_by}" if self.signed_by else "Trusted: yes"
            more = f"Components: {' '.join(components)}\n" if components else ""
            return f"Types: deb\nURIs: {url}\nSuites: {suite}\n{more}{signed}\n"
        check = f"gpgcheck=1\ngpgkey={self.signed_by}" if self.signed_by else "gpgcheck=0"
        return f"[{self.name}]\nname={self.name}\nbaseurl={url}\nenabled=1\n{check}\n"

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        family = have.family if have is not None else None
        if have is None or family is None:
            return ()
        want = self.wanted(family)
        if want == have.text:
            return ()
        return (
            Change("text", *("; ".join((t or "absent").split("\n")) for t in (have.text, want))),
        )

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if have is None or have.family is None:
            return ()
        suffix = "sources" if have.family == "apt" else "repo"
        path = f"{named(PATHS, 'repositories', have.family)}/lvsfab-{key}.{suffix}"
        text = want.wanted(have.family) if want is not None else None
        if text is None:
            return (command("source_drop", path, shown=f"rm -f {path}"),)
        shown = f"install -m 0644 /dev/stdin {path}"
        return (
            command("put_file", path, "0644", "root", "root", *worded(text.encode()), shown=shown),
        )
