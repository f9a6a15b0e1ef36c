"""`lvsfab capture`: the same packets outside the tunnel and out of it, and nothing left behind."""

from __future__ import annotations

import signal
import struct
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.e2e.conftest import LVSFAB, ROOT, LabUnderTest

pytestmark = pytest.mark.lab
VIP, CLIENT = "192.168.10.100", "172.25.254.67"
SLL2, RAW = 276, 101  # link types: what `-i any` writes, and a tunnel's device
HEADER = {SLL2: 20, RAW: 0, 12: 0}  # bytes before the IP header


def packets(path: Path) -> list[bytes]:
    """The IP packets of a pcap file of this machine's byte order."""
    data = path.read_bytes()
    magic, *_, link = struct.unpack("=IHHiIII", data[:24])
    assert magic == 0xA1B2C3D4
    found, at = [], 24
    while at < len(data):
        size = struct.unpack("=IIII", data[at : at + 16])[2]
        found.append(data[at + 16 + HEADER[link] : at + 16 + size])
        at += 16 + size
    return found


def ends(packet: bytes) -> tuple[str, str]:
    return str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))


def started(lab: LabUnderTest, *argv: str) -> subprocess.Popen[str]:
    words = [str(LVSFAB), "capture", "-i", str(lab.path), *argv]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("capturing on"), line + process.stderr.read()
    return process


def ended(process: subprocess.Popen[str], code: int) -> None:
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err


def requests(lab: LabUnderTest, number: int) -> None:
    lab.sh("client", f"curl -s -H 'Connection: close' 'http://{VIP}/?[1-{number}]' | wc -l")


def busy(lab: LabUnderTest) -> str:
    """What a capture could leave on hosts."""
    look = "ls -d /tmp/lvsfab.* 2>/dev/null; ps -eo comm | grep -x -e tcpdump -e sleep; true"
    done = lab.cli("run", "director or role:real_server", "--json", "--shell", look)
    return "".join(d["output"] for d in done.documents() if "output" in d)


def test_a_request_is_seen_in_the_tunnel_and_out_of_it(clean: LabUnderTest, tmp_path: Path) -> None:
    clean.cli("up", "tun", "--no-verify")
    quiet = busy(clean)
    target = "director or role:real_server"
    process = started(clean, target, "--for", "5", "--filter", f"host {VIP}", "-o", str(tmp_path))
    requests(clean, 6)
    ended(process, 0)
    for server, address, director in (
        ("rs1", "192.168.10.1", "192.168.10.250"),
        ("rs3", "198.51.100.22", "10.1.1.250"),
    ):
        inner = packets(tmp_path / server / "inner-tunl0.pcap")
        assert len(inner) >= 2 * 2  # two connections, SYN and ACK at least
        assert {ends(packet) for packet in inner} == {(CLIENT, VIP)}
        outer = packets(tmp_path / server / "tunnel.pcap")
        assert {(packet[9], *ends(packet)) for packet in outer} == {(4, director, address)}
        assert {ends(packet[20:]) for packet in outer} == {(CLIENT, VIP)}
        assert len(outer) == len(inner)
        replies = {ends(packet) for packet in packets(tmp_path / server / "wire.pcap")}
        assert (VIP, CLIENT) in replies
    assert not (tmp_path / "director" / "inner-tunl0.pcap").exists()
    assert packets(tmp_path / "director" / "tunnel.pcap")

    # a number ends it before its time
    began = time.monotonic()
    process = started(clean, "rs1", "--count", "3", "--for", "50", "-o", str(tmp_path / "n"))
    requests(clean, 6)
    ended(process, 0)
    assert time.monotonic() - began < 40
    assert len(packets(tmp_path / "n" / "rs1" / "wire.pcap")) == 3

    # Ctrl-C ends it early and keeps what there is; an end without a word leaves nothing either
    process = started(clean, target, "--for", "60", "-o", str(tmp_path / "c"))
    requests(clean, 3)
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    assert packets(tmp_path / "c" / "rs1" / "wire.pcap")
    process = started(clean, target, "--for", "60", "-o", str(tmp_path / "k"))
    process.kill()
    ended(process, -signal.SIGKILL)
    for _ in range(20):
        if busy(clean) == quiet:
            break
        time.sleep(0.5)
    assert busy(clean) == quiet
    clean.cli("down")
    clean.left_nothing()


@pytest.mark.parametrize("text", ["-w /tmp/taken", "$(touch /tmp/taken)", "x; touch /tmp/taken"])
def test_a_filter_is_data(clean: LabUnderTest, tmp_path: Path, text: str) -> None:
    done = clean.cli("capture", "rs1", "--for", "1", "--filter", text, "-o", str(tmp_path), code=5)
    assert "cannot capture: tcpdump: " in done.err
    assert clean.sh("rs1", "ls -d /tmp/taken /tmp/lvsfab.* 2>/dev/null || true") == ""
