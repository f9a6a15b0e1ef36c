"""Simultaneous packet captures on several hosts, fetched as pcap files.

Each host's tcpdump writes into a private directory there; it ends by time or number of packets,
and the directory goes with the shell, however that ends. What is captured, view by view:

    wire          every device: what the filter says, without SSH
    tunnel        every device: what is on its way in a tunnel (IP protocols 4, 41, 47; UDP 6080)
    inner-DEVICE  a tunnel's device that is up: the packets that came out of it
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lvsfab import copy
from lvsfab.errors import CommandError, HostError, InputError
from lvsfab.execute.fleet import failure
from lvsfab.execute.task import HostResult, State
from lvsfab.session import Record, Shell
from lvsfab.states.fou import FOU_PORT
from lvsfab.verify.scripts import TIMER

SNAPLEN = 2000  # bytes of each packet; with MAX_COUNT it bounds what a host has to keep
MAX_COUNT = 10_000  # packets of one view
MAX_VIEWS = 100  # of one host: the wire, what is on its way, and each tunnel's device
MAX_SECONDS = 3600
MAX_FILTER = 2000  # characters
FETCHING = 600  # s after the capture's time; then a host removes what nobody fetched
STARTING = 20.0  # s for a host's captures to begin
POLL = 0.5  # s between two looks whether --count is reached
MAX_PARALLEL = 32
_VIEW = re.compile(r"(wire|tunnel|inner-[A-Za-z0-9_.-]{1,15}) ([0-9]{1,9})")

PRELUDE = (
    copy.PRELUDE
    + TIMER
    + rf"""
k_view() {{ # NAME DEVICE FILTER
  timeout "$k_life" tcpdump -i "$2" -n -p -U --immediate-mode -s {SNAPLEN} -c "$k_count" -w - -- "$3" \
    </dev/null >"$k_dir/$1.pcap" 2>"$k_dir/$1.err" &
  k_pids="$k_pids $!"; k_views="$k_views $1"
}}
k_begin() {{ # SECONDS COUNT FILTER
  has tcpdump || {{ echo 'tcpdump is not installed'; return 4; }}
  k_life=$(($1 + 60)) k_count=$2 k_pids= k_views=
  k_dir=$(mktemp -d "${{TMPDIR:-/tmp}}/lvsfab.XXXXXXXXXX") || return 1
  trap k_end EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
  lv_after $(($1 + {FETCHING})) rm -rf -- "$k_dir"
  k_port=${{SSH_CONNECTION##* }}
  case $k_port in '' | *[!0-9]*) k_port=22 ;; esac
  k_view wire any "${{3:+($3) and }}not tcp port $k_port"
  k_wire=${{k_pids# }}
  k_view tunnel any 'ip proto 4 or ip proto 41 or ip6 proto 4 or ip6 proto 41 or proto 47 or udp dst port {FOU_PORT}'
  for k_dev in /sys/class/net/*; do
    case $(cat "$k_dev/type" 2>/dev/null) in 768 | 769 | 778 | 823) ;; *) continue ;; esac
    [ $(($(cat "$k_dev/flags") & 1)) = 1 ] && k_view "inner-${{k_dev##*/}}" "${{k_dev##*/}}" "$3"
  done
  set -- $k_views
  for k_pid in $k_pids; do
    k_tries=0
    until grep -qs 'listening on' "$k_dir/$1.err"; do
      k_tries=$((k_tries + 1))
      [ "$k_tries" -lt 50 ] && kill -0 "$k_pid" 2>/dev/null && sleep 0.1 ||
        {{ cat "$k_dir/$1.err"; return 5; }}
    done
    shift
  done
  echo "$k_dir"
}}
k_alive() {{ kill -0 "$k_wire" 2>/dev/null; }}
k_stop() {{ # each view with the number of its packets
  kill $k_pids 2>/dev/null; wait $k_pids 2>/dev/null
  for k_name in $k_views; do
    printf '%s %s\n' "$k_name" "$(sed -n 's/^\([0-9]*\) packets\{{0,1\}} captured.*/\1/p' "$k_dir/$k_name.err")"
  done
}}
k_end() {{ # nothing stays: neither programs nor files
  [ -n "$k_pids" ] && kill $k_pids 2>/dev/null
  kill "$lv_timer" 2>/dev/null
  rm -rf -- "$k_dir"
}}
"""  # noqa: E501
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """`seconds` it lasts at most; `count`: packets of each view; `filter`: of pcap-filter(7)."""

    seconds: int = 10
    count: int = MAX_COUNT
    filter: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= MAX_SECONDS:
            raise InputError(f"{self.seconds} is not within 1 to {MAX_SECONDS} s", key="--for")
        if not 1 <= self.count <= MAX_COUNT:
            raise InputError(f"{self.count} is not within 1 to {MAX_COUNT}", key="--count")
        if len(self.filter) > MAX_FILTER or not (self.filter.isprintable() or not self.filter):
            raise InputError(f"one line of at most {MAX_FILTER} characters", key="--filter")

    @property
    def most(self) -> int:
        """Bytes of a view's file: its header, and each packet with its own (pcap-savefile(5): 24
        and 16; any device's packets have one more).
        """
        return 24 + self.count * (64 + SNAPLEN)


@dataclass(frozen=True, slots=True)
class View:
    """One file: `packets` in it, and where it is."""

    name: str
    packets: int
    path: Path


@dataclass(slots=True)
class Captured:
    """What came of it, by host. `interrupted`: ended by Ctrl-C; what there was is fetched."""

    results: dict[str, HostResult] = field(default_factory=dict)
    views: dict[str, tuple[View, ...]] = field(default_factory=dict)
    interrupted: bool = False


def capture(
    hosts: Sequence[str],
    connect: Callable[[str], Shell],
    want: Wanted,
    directory: Path,
    *,
    started: Callable[[], None] = lambda: None,
) -> Captured:
    """Capture on all `hosts` at once into DIRECTORY/HOST/VIEW.pcap. `connect` opens a shell with
    PRELUDE; `started` is told when every host listens. HostErrors become results.
    """
    done = Captured()
    shells: dict[str, Shell] = {}
    places: dict[str, str] = {}

    def begin(host: str) -> None:
        shells[host] = connect(host)
        words = shlex.join(["k_begin", str(want.seconds), str(want.count), want.filter])
        places[host] = _said(shells[host], f"rec begin {words}").strip()

    def fetch(host: str) -> None:
        began = time.monotonic()
        views = parse_views(_said(shells[host], "rec stop k_stop"), directory / host)
        if len(views) > MAX_VIEWS:
            raise CommandError(host, f"says that it has more than {MAX_VIEWS} captures")
        for view in views:
            path = f"{places[host]}/{view.name}.pcap"
            copy.get(shells[host], path, view.path, most=want.most)
        told = ", ".join(f"{view.name} {view.packets}" for view in views)
        seconds = time.monotonic() - began
        done.views[host] = views
        done.results[host] = HostResult(host, State.OK, 0, told, seconds=seconds)

    def on_all(names: Sequence[str], work: Callable[[str], None]) -> None:
        def one(host: str) -> None:
            try:
                work(host)
            except HostError as error:
                done.results[host] = failure(host, error)

        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="capture") as pool:
            list(pool.map(one, names))

    try:
        on_all(hosts, begin)
        listening = [host for host in hosts if host not in done.results]
        if listening:
            started()
            try:
                _wait({host: shells[host] for host in listening}, want)
            except KeyboardInterrupt:
                done.interrupted = True
            on_all(listening, fetch)
    finally:
        for shell in shells.values():
            shell.close()
    done.results = {host: done.results[host] for host in hosts if host in done.results}
    return done


def _wait(shells: Mapping[str, Shell], want: Wanted) -> None:
    """Until the time is over or, where a number was asked for, every host has so many."""
    deadline = time.monotonic() + want.seconds
    busy = dict(shells)
    while busy and (left := deadline - time.monotonic()) > 0:
        if want.count == MAX_COUNT:
            time.sleep(left)
            return
        time.sleep(min(POLL, left))
        for host, shell in list(busy.items()):
            with suppress(HostError):  # what is wrong shows when it is fetched
                (record,) = shell.run("rec alive k_alive", timeout=STARTING, what="its capture")
                if record.status == 0:
                    continue
            del busy[host]


def parse_views(text: str, folder: Path) -> tuple[View, ...]:
    """Lines `VIEW PACKETS`; anything else is passed over. At most one more than MAX_VIEWS."""
    found = filter(None, (_VIEW.fullmatch(line) for line in text.splitlines()))
    return tuple(
        View(m[1], int(m[2]), folder / f"{m[1]}.pcap") for m in islice(found, MAX_VIEWS + 1)
    )


def _said(shell: Shell, script: str) -> str:
    records = shell.run(script, timeout=STARTING, what="its capture")
    record = records[0] if records else Record("", 1, "no answer")
    if record.status:
        said = record.output.strip() or f"status {record.status}"
        missing = record.status == 4
        raise CommandError(
            shell.host,
            f"cannot capture: {said}",
            status=record.status,
            tip="lvsfab state HOST package tcpdump" if missing else "",
        )
    return record.output
