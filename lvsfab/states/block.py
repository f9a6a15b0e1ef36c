"""Some lines in a file that is somebody else's, between two marks, at its top: /etc/hosts, say.

At the top, because then a file that does not end with a newline stays as it was to the byte when
the lines are taken out again. A file that is not there is made, and goes again.
"""

from __future__ import annotations

import base64
import re
from typing import ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, State, UnsupportedError, show

_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")

HELPERS = r"""
block_strays() { # of PATH: what a run that was cut off left beside it
  for k_stray in "$1".lvsfab.??????????; do [ -f "$k_stray" ] && echo "stray $k_stray"; done
  return 0
}
block_write() { # PATH NAME [MADE]; the block's lines in base64 on standard input, none to take it
  # out. MADE is yes where the file was made for the block: empty, it goes
  k_lines=$(base64 -d) || return 1
  rm -f "$1".lvsfab.??????????
  k_new=$(mktemp "$1.lvsfab.XXXXXXXXXX") || return 1
  {
    [ -z "$k_lines" ] || printf '# lvsfab begin %s\n%s\n# lvsfab end %s\n' "$2" "$k_lines" "$2"
    # sed leaves a last line without its newline as it is
    [ ! -e "$1" ] || sed "/^# lvsfab begin $2\$/,/^# lvsfab end $2\$/d" "$1"
  } >"$k_new" || { rm -f "$k_new"; return 1; }
  [ "$3" = yes ] && [ ! -s "$k_new" ] && { rm -f "$1" "$k_new"; return; }
  if [ -e "$1" ]; then chown "$(stat -c %u:%g "$1")" "$k_new"; chmod "$(stat -c %a "$1")" "$k_new"
  else chmod 644 "$k_new"; fi
  { sync "$k_new" 2>/dev/null || sync; }
  # a file that is a mount of its own (a container's /etc/hosts) cannot be replaced
  mv -f "$k_new" "$1" 2>/dev/null || { cat "$k_new" >"$1"; rm -f "$k_new"; }
}
"""


class Block(State, frozen=True, kw_only=True):
    """`path`, `name` of the block, `content`: its lines, or None: none of it is there. Read only:
    `made`: whether the file is missing; `strays`: files that were not yet in its place.
    """

    kind: ClassVar[str] = "block"
    volatile: ClassVar[bool] = False
    read_only: ClassVar[frozenset[str]] = frozenset({"made", "strays"})
    reader: ClassVar[str] = r"""
  k_path=${1%%#*} k_name=${1#*#}
  block_strays "$k_path"
  [ -e "$k_path" ] || { echo missing; return 0; }
  [ -f "$k_path" ] || { echo other; return 0; }
  grep -q -x "# lvsfab begin $k_name" "$k_path" || { echo none; return 0; }
  printf 'text '; sed -n "/^# lvsfab begin $k_name\$/,/^# lvsfab end $k_name\$/p" "$k_path" |
    sed '1d;$d' | base64 | tr -d '\n'; echo
"""

    path: str
    name: str
    content: str | None = None
    made: bool = False
    strays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words.name(self.name, self.kind)
        if not _PATH.fullmatch(self.path) or "/../" in self.path or len(self.path) > 100:
            raise InputError(f"`{self.path}` is no plain absolute path", key=self.kind)
        if self.content is not None and not re.fullmatch(r"[\t\n -~]{0,65536}", self.content):
            raise InputError("a block's content is printable text", key=self.kind)
        if self.content is not None and "# lvsfab " in self.content:
            raise InputError("a block's content has no marks of its own", key=self.kind)

    @property
    def key(self) -> str:
        return f"{self.path}#{self.name}"

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        path, _, name = key.partition("#")
        lines = output.strip().splitlines()
        strays = tuple(x.removeprefix("stray ") for x in lines if x.startswith("stray "))
        word, _, rest = "\n".join(lines[len(strays) :]).partition(" ")
        if word in ("missing", "none"):
            return cls(path=path, name=name, made=word == "missing", strays=strays)
        if word != "text":
            raise UnsupportedError(f"{path} is no regular file")
        try:
            return cls(path=path, name=name, content=base64.b64decode(rest).decode(), strays=strays)
        except ValueError:
            raise UnsupportedError(f"{path} cannot be read") from None

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        want, was = _lines(self), _lines(have)
        if want != was:
            return (Change("content", was or "absent", want or "absent"),)
        left = have.strays if have is not None else ()
        return (Change("left over", show(left), "absent"),) if left else ()

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        path, _, name = key.partition("#")
        if want is None or want.content is None:
            made = "yes" if want is not None and want.made else "no"
            shown = f"take the lines of {name} out of {path}"
            return (command("block_write", path, name, made, stdin="", shown=shown),)
        data = base64.b64encode(want.content.strip("\n").encode()).decode()
        shown = f"put the lines of {name} into {path}"
        return (command("block_write", path, name, stdin=data, shown=shown),)


def _lines(state: Block | None) -> str:
    content = state.content if state is not None else None
    return "; ".join((content or "").strip("\n").split("\n"))
