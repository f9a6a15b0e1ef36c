"""A file with its content, mode and owner; read back byte for byte, replaced atomically.

A file that is not there is a state too (`present: no`), for it carries which directories above it
are missing: an undo removes those again, if they are empty. So is what a run that was cut off left
beside it: directories made for it that are empty, and files that were not yet in their place.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states.base import Change, Context, Others, Resource, State, UnsupportedError, show

MAX_BYTES = 1024 * 1024  # a configuration is smaller; the journal keeps former content whole
_PATH = re.compile(r"(/[A-Za-z0-9._+@:=-]+)+")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")

# A process costs a host a millisecond, ten files have many: what a shell can do by itself it does.
HELPERS = (
    "f_nl='\n' f_tab='\t'\n"
    r"""
file_strays() { # of PATH: what a run that was cut off left in its directory
  for f_stray in "${1%/*}"/.lvsfab.??????????; do [ -f "$f_stray" ] && echo "stray $f_stray"; done
  return 0
}
file_alone() { # DIRECTORY NAME: whether there is nothing in it but NAME, and strays
  for f_one in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    [ -e "$f_one" ] || [ -L "$f_one" ] || continue
    case ${f_one##*/} in "$2" | .lvsfab.*) ;; *) return 1 ;; esac
  done
}
file_stats() { # PATH...: what stat says of each: one process for all. No PATH: forgotten
  f_stats=
  [ $# -eq 0 ] || f_stats=$f_nl$(stat -c '%n stat %a %U %G %u %g %s' "$@" 2>/dev/null)$f_nl
}
file_text() { # PATH SIZE: its content in $f_text, if that is short and plain
  [ "$2" -le 1024 ] || return 1 # dash reads byte by byte
  f_text=
  while IFS= read -r f_line; do f_text=$f_text$f_line$f_nl; done <"$1"
  f_text=$f_text$f_line
  [ "${#f_text}" -eq "$2" ] || return 1 # a NUL, which no variable can have
  case $f_text in *[!\ -~$f_nl$f_tab]*) return 1 ;; esac
}
file_fill() { # FILE text|base64 CONTENT: a file that must not be there yet
  set -C
  case $2 in
  text) printf %s "$3" >"$1" ;;
  *) printf %s "$3" | base64 -d >"$1" ;;
  esac
  set -- $?
  set +C
  return "$1"
}
file_owned() { # FILE OWNER GROUP
  # a file of root's that root just made needs no chown
  [ "$2:$3" = root:root ] && [ "${f_me:=$(id -u):$(id -g)}" = 0:0 ] && [ -O "$1" ] && [ -G "$1" ] ||
    chown "$2:$3" "$1"
}
put_file() { # PATH MODE OWNER GROUP text|base64 CONTENT
  f_dir=${1%/*}; f_dir=${f_dir:-/}
  [ -d "$f_dir" ] || (umask 022; mkdir -p -- "$f_dir") || return 1
  for f_new in "$f_dir"/.lvsfab.??????????; do [ ! -f "$f_new" ] || rm -f -- "$f_new"; done
  f_new=${NONCE#lvsfab-} # nobody can guess it
  f_new=$f_dir/.lvsfab.${f_new%"${f_new#??????????}"}
  file_fill "$f_new" "$5" "$6" && file_owned "$f_new" "$3" "$4" && chmod "$2" "$f_new" &&
    { sync "$f_new" 2>/dev/null || sync; } && mv -f -- "$f_new" "$1" && return 0
  rm -f -- "$f_new"
  return 1
}
drop_file() { # PATH [DIRECTORY]...: the directories go if nothing else is in them
  rm -f -- "$1" "${1%/*}"/.lvsfab.?????????? || return 1
  shift
  for f_dir; do rmdir -- "$f_dir" 2>/dev/null; done
  return 0
}
"""
)


class File(State, frozen=True, kw_only=True):
    """`content`: text, `mode`: octal digits, `owner`, `group`: names (or numbers). Read only:
    `data` (base64) for content that is no text; `missing`: directories that are not there, `empty`:
    directories with nothing in them but the next, both innermost first; `strays`: see above.
    """

    kind: ClassVar[str] = "file"
    read_only: ClassVar[frozenset[str]] = frozenset({"data", "missing", "empty", "strays"})
    volatile: ClassVar[bool] = False
    reader: ClassVar[str] = r"""
  file_strays "$1"
  if [ -L "$1" ] || { [ -e "$1" ] && [ ! -f "$1" ]; }; then echo other; return 0; fi
  if [ ! -e "$1" ]; then
    echo absent
    f_dir=${1%/*}
    while [ -n "$f_dir" ] && [ ! -d "$f_dir" ]; do
      printf 'missing %s\n' "$f_dir"; f_dir=${f_dir%/*}
    done
    f_in=
    while [ -n "$f_dir" ] && file_alone "$f_dir" "$f_in"; do
      printf 'empty %s\n' "$f_dir"; f_in=${f_dir##*/}; f_dir=${f_dir%/*}
    done
    return 0
  fi
  case $f_stats in
  *"$f_nl$1 stat "*) f_stat="stat ${f_stats#*"$f_nl$1 stat "}"; f_stat=${f_stat%%"$f_nl"*} ;;
  *) f_stat=$(stat -c 'stat %a %U %G %u %g %s' "$1") ;;
  esac
  echo "$f_stat"
  [ "${f_stat##* }" -le 1048576 ] || return 0
  if file_text "$1" "${f_stat##* }"; then printf 'text\n%s' "$f_text"; else base64 "$1"; fi
  return 0
"""
    ahead: ClassVar[str] = 'file_stats "$@"'

    path: str
    content: str | None = None
    data: str | None = None
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    present: bool = True
    missing: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not _PATH.fullmatch(self.path) or {".", ".."} & set(parts) or len(self.path) > 200:
            raise InputError(f"`{self.path}` is no plain absolute path", key=self.kind)
        if self.mode is not None and not re.fullmatch(r"0?[0-7]{3,4}", self.mode):
            raise InputError(f"mode `{self.mode}`: octal digits, such as 0644", key=self.kind)
        for name in (self.owner, self.group):
            if name is not None and not _OWNER.fullmatch(name):
                raise InputError(f"`{name}` is no user or group", key=self.kind)
        try:
            base64.b64decode(self.data or "", validate=True)
        except ValueError:
            raise InputError("data is no base64", key=self.kind) from None
        if self.content is not None and len(self.content.encode()) > MAX_BYTES:
            raise InputError(f"content of more than {MAX_BYTES} bytes", key=self.kind)

    @property
    def key(self) -> str:
        return self.path

    @property
    def bytes(self) -> bytes:
        if self.data is not None:
            return base64.b64decode(self.data)
        return (self.content or "").encode()

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        strays: tuple[str, ...] = ()
        first, _, rest = output.partition("\n")
        while first.startswith("stray "):
            strays += (first.removeprefix("stray "),)
            first, _, rest = rest.partition("\n")
        words = first.split()
        if words == ["other"]:
            raise UnsupportedError(f"{key} is there, but is no regular file")
        if words == ["absent"]:
            said = [line.partition(" ")[::2] for line in rest.splitlines()]
            missing, empty = (
                tuple(path for word, path in said if word == name) for name in ("missing", "empty")
            )
            return cls(path=key, present=False, missing=missing, empty=empty, strays=strays)
        if len(words) != 7 or words[0] != "stat":
            raise UnsupportedError(f"{key} cannot be read: {output[:200]}")
        _, mode, owner, group, uid, gid, size = words
        if int(size) > MAX_BYTES:
            raise UnsupportedError(f"{key} has {size} bytes, more than {MAX_BYTES} are not kept")
        content: str | None
        form, _, content = rest.partition("\n")
        data = None
        if form != "text":
            try:
                raw = base64.b64decode("".join(rest.split()), validate=True)
            except binascii.Error:
                raise UnsupportedError(f"{key} cannot be read: {rest[:200]}") from None
            try:
                content = raw.decode()
            except UnicodeDecodeError:
                content, data = None, base64.b64encode(raw).decode()
        return cls(
            path=key,
            content=content,
            data=data,
            mode=mode.zfill(4),
            owner=owner if _OWNER.fullmatch(owner) and owner != "UNKNOWN" else uid,
            group=group if _OWNER.fullmatch(group) and group != "UNKNOWN" else gid,
            strays=strays,
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        if not self.present or have is None or not have.present:
            here = have is not None and have.present
            if here == self.present:
                left = _left(self, have)
                return (Change("left over", show(left), "absent"),) if left else ()
            return (Change("present", show(here), show(self.present)),)
        found = [Change("left over", show(have.strays), "absent")] if have.strays else []
        if self.bytes != have.bytes:
            found.append(Change("content", _size(have.bytes), _size(self.bytes)))
        for field in ("mode", "owner", "group"):
            want, was = getattr(self, field), getattr(have, field)
            if want is not None and want.lstrip("0") != (was or "").lstrip("0"):
                found.append(Change(field, show(was), want))
        return tuple(found)

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is None or not have.present or not want.present or have.bytes == want.bytes:
            return ""
        return f"there is a file of other content ({_size(have.bytes)})"

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None or not want.present:
            missing = want.missing if want is not None else ()
            return (command("drop_file", key, *missing, shown=f"rm -f {key}"),)
        was = have if have is not None and have.present else None
        mode = want.mode or (was.mode if was else None) or "0644"
        owner = want.owner or (was.owner if was else None) or "root"
        group = want.group or (was.group if was else None) or "root"
        shown = f"install -m {mode} -o {owner} -g {group} /dev/stdin {key}"
        return (command("put_file", key, mode, owner, group, *worded(want.bytes), shown=shown),)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        fields = dict(args)
        if fields.pop("absent", False):
            fields["present"] = False
        elif "content" not in fields:
            raise InputError("a file needs `content`", key=cls.kind)
        return super().build(fields, context)


def worded(raw: bytes) -> tuple[str, str]:
    """A file's content as `put_file` is told it: as it is, or what no command line can carry in
    base64.
    """
    if re.fullmatch(rb"[\t\n -~]*", raw):
        return "text", raw.decode()
    return "base64", base64.b64encode(raw).decode()


def _left(want: File, have: File | None) -> tuple[str, ...]:
    """Of what was not there before, what an interrupted run left, where the file is absent."""
    if have is None:
        return ()
    return have.strays + tuple(path for path in want.missing if path in have.empty)


def _size(raw: bytes) -> str:
    return f"{len(raw)} bytes, {binascii.crc32(raw):08x}"
