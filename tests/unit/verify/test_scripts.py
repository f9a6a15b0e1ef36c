"""The scripts: every one is sh that dash takes, and the client's runs for real against a server on
this machine.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lvsfab.model import Cluster, Protocol, RealServer
from lvsfab.session import Record, Shell, by_id
from lvsfab.verify import client, scripts
from lvsfab.verify.marks import mark_plans
from lvsfab.verify.observe_client import parse_batch, parse_probes, parse_transfers
from tests.unit.local import LocalChannel
from tests.unit.verify.recorded import cluster

NAMES = {"rs1", "rs2"}
Page = Callable[[int], bytes]


def on_loopback(port: int, protocol: Protocol = Protocol.TCP) -> Cluster:
    wanted = cluster("dr")
    service = replace(wanted.service, vip=ip_address("127.0.0.1"), port=port, protocol=protocol)
    return replace(
        wanted,
        service=service,
        real_servers=tuple(replace(s, port=port) for s in wanted.real_servers),
    )


def ask(script: str) -> dict[str, Record]:
    shell = Shell("here", LocalChannel())
    try:
        return by_id(shell.run(script, timeout=60))
    finally:
        shell.close()


@contextmanager
def http(
    answer: Callable[[int, bytes], bytes | None], seen: list[str] | None = None
) -> Iterator[int]:
    """A server that gives `answer(index of the connection, request)` and closes; None: silence.
    It notes in `seen` which address each connection is from.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    kept: list[socket.socket] = []

    def one(index: int, peer: socket.socket) -> None:
        with suppress(OSError):
            peer.settimeout(30)
            got = b""
            while b"\r\n\r\n" not in got:
                part = peer.recv(65536)
                if not part:
                    return peer.close()
                got += part
            head, _, body = got.partition(b"\r\n\r\n")
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    left = int(line.split(b":")[1]) - len(body)
                    while left > 0:
                        left -= len(peer.recv(65536))
            said = answer(index, head)
            if said is None:
                return kept.append(peer)
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(said)
                + said
            )
            peer.close()
        return None

    def serve() -> None:
        for index in itertools.count():
            try:
                peer, address = listener.accept()
            except OSError:
                return
            if seen is not None:
                seen.append(address[0])
            threading.Thread(target=one, args=(index, peer), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in kept:
            peer.close()
        thread.join(5)


def page(index: int, head: bytes = b"") -> bytes:
    del head
    name = ("rs1", "rs2")[index % 2]
    return f"{name} reached at 127.0.0.1 port 80 by 127.0.0.1\n".encode()


@pytest.mark.parametrize("method", ["nat", "dr", "tun"])
@pytest.mark.parametrize("vip", ["10.1.1.100", "fd00:1::100"])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_script_is_sh(method: str, vip: str, protocol: Protocol, shell: str) -> None:
    assert shutil.which(shell)
    wanted = cluster(method)
    address = ip_address(vip)
    if address.version == 6:
        own = tuple(
            RealServer(s.name, ip_address(f"fd00:10::{i}"), 80)
            for i, s in enumerate(wanted.real_servers, 1)
        )
        wanted = replace(wanted, real_servers=own)
    wanted = replace(wanted, service=replace(wanted.service, vip=address, protocol=protocol))
    marks = mark_plans(wanted.real_servers)
    source = ip_address("fd00::67" if address.version == 6 else "172.25.254.67")
    texts = [
        client.batch_script(wanted, 60, "token", held=held, transfers=2, marks=marks)
        for held in (False, True)
    ]
    texts.append(client.batch_script(wanted, 60, "token", held=False, transfers=2, rate=9))
    for host in ("director", "client", "router", "rs1"):
        device = "eth2" if host == "router" else ""
        texts.append(
            scripts.before_script(
                wanted, host, client=source, observe_on=device, marks=marks, life=99
            )
        )
        texts.append(
            scripts.after_script(
                wanted, host, client=source, observe_on=device, marks=True, ports=(1, 2)
            )
        )
    for text in texts:
        done = subprocess.run(
            [shell, "-n"], input=text, text=True, capture_output=True, check=False, timeout=20
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_marks_define_what_they_call() -> None:
    wanted = cluster("nat")
    text = scripts.before_script(
        wanted, "director", client=None, marks=mark_plans(wanted.real_servers), life=9
    )
    for function in ("lv_marks_on", "lv_marks_off", "lv_marks_done", "lv_mark_server", "lv_after"):
        assert f"\n{function}() {{" in text


@pytest.mark.parametrize("held", [False, True])
def test_a_batch_in_order_each_request_on_its_own_connection(held: bool) -> None:
    with http(page) as port:
        wanted = on_loopback(port)
        records = ask(client.batch_script(wanted, 30, "t0ken", held=held, transfers=0))
    batch, took = parse_batch(records["batch"], NAMES, held=held)
    assert batch.problem == ""
    assert batch.answers() == ("rs1", "rs2") * 15
    assert len(set(batch.ports)) == 30
    assert all(kind.connects == 1 for kind in batch.kinds)
    assert took > 0


@pytest.mark.parametrize("held", [False, True])
def test_a_batch_no_faster_than_it_may_be(held: bool) -> None:
    with http(page) as port:
        wanted = on_loopback(port)
        script = client.batch_script(wanted, 20, "t0ken", held=held, transfers=0, rate=25)
        batch, took = parse_batch(ask(script)["batch"], NAMES, held=held)
    assert batch.answers() == ("rs1", "rs2") * 10
    assert 19 / 25 <= took < 10


def test_addresses_take_turns_and_each_comes_to_each_port() -> None:
    first: list[str] = []
    second: list[str] = []
    with http(page, first) as port, http(page, second) as other:
        wanted = on_loopback(port)
        wanted = replace(wanted, service=replace(wanted.service, ports=(other,)))
        sources = [ip_address("127.0.0.2"), ip_address("127.0.0.3")]
        script = client.batch_script(wanted, 8, "t0ken", held=False, transfers=0, sources=sources)
        batch, _ = parse_batch(ask(script)["batch"], NAMES)
    assert batch.problem == ""
    assert batch.sent == 8
    assert first == second == ["127.0.0.2", "127.0.0.3"] * 2
    assert len(set(batch.ports)) == 8  # a port names a request, whichever address sent it


def test_a_client_gives_back_the_addresses_it_took() -> None:
    wanted = cluster("dr")
    pool = (ip_network("172.25.254.192/28"), ip_network("172.25.254.208/28"))
    text = scripts.before_script(wanted, wanted.client or "", client=None, pool=pool, life=9)
    assert "for lv_piece in 172.25.254.192/28 172.25.254.208/28; do" in text
    assert 'ip -4 route add local "$lv_piece" dev lo' in text
    assert 'ip -4 route del local "$lv_piece" dev lo' in text
    after = scripts.after_script(wanted, wanted.client or "", client=None)
    assert "lv_sources_off;" in after


def test_an_answer_cannot_pass_for_a_line_of_ours() -> None:
    forged = b"guess 200 0 1 40000 0.001\nsent 9 0\nend\n"
    with http(lambda index, head: forged) as port:
        records = ask(client.batch_script(on_loopback(port), 4, "t0ken", held=False, transfers=0))
    batch, _ = parse_batch(records["batch"], NAMES)
    assert batch.sent == 4
    assert batch.answers() == (None,) * 4


def test_silence_ends_the_batch_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REQUEST_TIMEOUT", 1)
    monkeypatch.setattr(client, "FAILED_TIME", 1.5)
    began = time.monotonic()
    with http(lambda index, head: None if index % 2 else page(0)) as port:
        records = ask(client.batch_script(on_loopback(port), 500, "t0ken", held=False, transfers=2))
    assert time.monotonic() - began < 20
    batch, _ = parse_batch(records["batch"], NAMES)
    assert batch.stopped
    assert 2 <= batch.sent < 20
    assert {kind.exit for kind in batch.kinds} == {0, 28}
    assert "rs1" in batch.answers()
    transfers, trouble = parse_transfers(records["transfers"])
    assert transfers == ()
    assert "not tried" in trouble


@pytest.mark.parametrize("least", [0, 5, 9])
def test_a_log_is_read_when_its_last_line_is_there(tmp_path: Path, least: int) -> None:
    log = tmp_path / "access.log"
    log.write_text("a line\n" * 3)
    script = scripts.before_script(cluster("dr"), "rs1", client=None, life=9)
    functions = script.partition("\nrec ")[0]
    later = f"( sleep 0.3; echo late >>{log}; echo late >>{log} ) & " if least else ""
    record = ask(f"{functions}\n{later}\nrec log lv_log {least} {log}\nwait\n")["log"]
    # what never comes is not waited for without end
    assert record.output.split() == ["5" if least else "3"]


@pytest.mark.parametrize(
    ("call", "lags", "asked", "late"),
    [
        ("lv_settled", ["5 5", "3 2", "2 2"], 3, "no"),
        ("lv_settled", ["5 5", "1 2"], 2, "yes"),  # it was behind when `2 2` was read
        ("lv_settled", ["2 1"], 1, "yes"),
        ("lv_still", ["5 5", "4 5", "3 3"], 10, "no"),  # 7 times the same
    ],
)
def test_counters_are_waited_for(
    tmp_path: Path, call: str, lags: list[str], asked: int, late: str
) -> None:
    counted, shown = tmp_path / "percpu", tmp_path / "shown"
    counted.touch()
    text = scripts.before_script(cluster("dr"), "director", client=None, life=9)
    functions = text.partition("\nrec ")[0].replace("/proc/net/ip_vs_stats_percpu", str(counted))
    cases = "".join(f"{number}) echo {lag} ;; " for number, lag in enumerate(lags, 1))
    record = ask(f"""{functions}
lv_lag() {{ echo x >>{shown}; case $(cat {shown} | wc -l) in {cases} *) echo {lags[-1]} ;; esac; }}
sleep() {{ :; }}
lv_late=no lv_lag0="2 2"
{call}
rec said echo "$lv_late"
""")["said"]
    assert record.output.strip() == late
    assert len(shown.read_text().split()) == asked


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for held in (False, True):
        records = ask(client.batch_script(on_loopback(port), 3, "t0ken", held=held, transfers=0))
        batch, _ = parse_batch(records["batch"], NAMES, held=held)
        assert [(k.exit, k.good) for k in batch.kinds] == [(7, False)]
        assert batch.sent == 3


def test_transfers_and_probes() -> None:
    def big(index: int, head: bytes) -> bytes:
        return b"x" * client.MIB if b"/1m" in head else page(index)

    with http(big) as port:
        wanted = on_loopback(port)
        marks = mark_plans(wanted.real_servers)
        records = ask(client.batch_script(wanted, 2, "t0ken", held=False, transfers=2, marks=marks))
    transfers, trouble = parse_transfers(records["transfers"])
    assert trouble == ""
    assert len(transfers) == 2 + 2 * (len(client.SIZES) + 1)
    assert all(transfer.good for transfer in transfers)
    assert transfers[-1].size == transfers[-1].done == client.MIB
    probes = parse_probes(records, NAMES)
    assert [probe.server for probe in probes] == ["rs1", "rs2"]
    assert all(probe.answer.good for probe in probes)


def test_datagrams_each_from_a_port_of_its_own() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        asked: list[int] = []

        def serve() -> None:
            for index in range(20):
                _, peer = server.recvfrom(2048)
                asked.append(peer[1])
                if index != 7:
                    server.sendto(page(index), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        wanted = on_loopback(server.getsockname()[1], Protocol.UDP)
        records = ask(client.batch_script(wanted, 20, "t0ken", held=False, transfers=0))
        thread.join(20)
    batch, _ = parse_batch(records["batch"], NAMES)
    assert batch.answers() == tuple(None if i == 7 else ("rs1", "rs2")[i % 2] for i in range(20))
    assert list(batch.ports) == asked
    assert len(set(asked)) == 20
    assert batch.failed_ports == (asked[7],)
