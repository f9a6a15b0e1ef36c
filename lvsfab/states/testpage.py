"""A test page: a server that answers with one line, who was reached, where, and by whom.

    NAME reached at LOCAL_ADDRESS port LOCAL_PORT by PEER_ADDRESS

TCP: an Apache of its own beside the host's, on all addresses, IPv4 and IPv6. GET / is the line,
/1m 1 MiB of data, /slow the same at 16 KiB a second; a POST to /upload takes any body and answers
200. UDP: a responder on the address `bind`, so that its answers come from there. Either
writes one line a request to /run/lvsfab/testpage-PORT/access.log: peer, local address, status,
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from lvsfab.errors import InputError
from lvsfab.session import Command, command
from lvsfab.states import words
from lvsfab.states.base import Change, Context, Others, Resource, State, show
from lvsfab.states.testpage_script import HELPERS as HELPERS  # noqa: PLC0414  (found by name)
from lvsfab.states.testpage_script import TEXT


class Testpage(State, frozen=True, kw_only=True):
    """One per port of a host, whichever the protocol. `name`: the host's. `bind` counts for UDP
    alone. `text` and `running` are only ever read: a hash of what was installed (another if it
    was edited), and whether the server lives.
    """

    __test__: ClassVar[bool] = False  # no test class, whatever pytest thinks of its name

    kind: ClassVar[str] = "testpage"
    read_only: ClassVar[frozenset[str]] = frozenset({"text", "running"})
    reader: ClassVar[str] = r"""
  t_dir=/run/lvsfab/testpage-$1
  if [ ! -r "$t_dir/state" ]; then
    [ -d "$t_dir" ] && echo 'text unfinished'
    return 0
  fi
  t_state=$(cat "$t_dir/state"); printf '%s\n' "$t_state"
  testpage_sum "$1"
  case $f_nl$t_state$f_nl in *"${f_nl}sum $t_sum$f_nl"*) ;; *) echo 'text edited' ;; esac
  read -r t_pid 2>/dev/null <"$t_dir/pid" || t_pid=none
  case " $(testpage_pids "$1")" in
  *" $t_pid "*) echo 'running yes' ;;
  *) echo 'running no' ;;
  esac
"""

    port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    name: str
    bind: str = ""
    text: str = TEXT
    running: bool = True

    def __post_init__(self) -> None:
        words.port(self.port, self.kind)
        words.name(self.name, self.kind)
        if self.bind:
            words.address(self.bind, self.kind)
        elif self.protocol == "udp":
            raise InputError("a UDP page needs `bind`, the address it answers from", key=self.kind)

    @property
    def key(self) -> str:
        return str(self.port)

    @classmethod
    def parse(cls, key: str, output: str) -> Self | None:
        said: dict[str, str] = {}
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            said[word] = rest  # of two, the later: `text edited` comes after what was written
        if not said:
            return None
        if "name" not in said:  # its start was interrupted
            return cls(port=int(key), name="unfinished", text="unfinished", running=False)
        udp = said.get("protocol") == "udp"
        return cls(
            port=int(key),
            protocol="udp" if udp else "tcp",
            name=said["name"],
            bind=said.get("bind", ""),
            text=said.get("text", ""),
            running=said.get("running") == "yes",
        )

    def changes(self, have: Self | None) -> tuple[Change, ...]:
        fields = ["protocol", "name", "bind", "text", "running"]
        if self.protocol == "tcp":
            fields.remove("bind")
        if have is None:
            return tuple(Change(f, "absent", show(getattr(self, f))) for f in fields[:-2])
        return tuple(
            Change(field, show(getattr(have, field)), show(getattr(self, field)))
            for field in fields
            if getattr(have, field) != getattr(self, field)
        )

    @classmethod
    def taken(cls, key: str, have: Self | None, want: Self, others: Others) -> str:
        if have is not None or (want.protocol, want.port) not in others.listening:
            return ""
        return f"something else listens on port {want.port}/{want.protocol}"

    @classmethod
    def commands(cls, key: str, have: Self | None, want: Self | None) -> tuple[Command, ...]:
        if want is None or not want.running:
            return (command("testpage_stop", key, shown=f"stop the test page on port {key}"),)
        shown = f"start the test page of {want.name} on port {key}/{want.protocol}"
        argv = ("testpage_start", key, want.protocol, want.name, want.bind, want.text)
        return (command(*argv, shown=shown),)

    @classmethod
    def build(cls, args: Mapping[str, Any], context: Context) -> tuple[Resource, ...]:
        """Port 0 (a service of all ports) is tested on 80. `ports`: further pages like it."""
        fields = dict(args)
        more = fields.pop("ports", ())
        if not isinstance(more, list | tuple):
            raise InputError("`ports` is a list", key=cls.kind)
        if fields.get("port") in (0, "0"):
            fields["port"] = 80
        pages = [fields, *(fields | {"port": port} for port in more)]
        return tuple(page for each in pages for page in super(Testpage, cls).build(each, context))
