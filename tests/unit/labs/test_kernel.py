from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lvsfab.errors import LabError
from lvsfab.labs import cache, data, kernel, kernel_source

CONFIG = """\
# Linux/um 7.2.12 Kernel Configuration
CONFIG_UML=y
CONFIG_UML_NET_VECTOR=y
CONFIG_HOSTFS=y
CONFIG_IP_VS=m
CONFIG_HZ=100
CONFIG_LOCALVERSION=""
# CONFIG_NF_TABLES_ARP is not set
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A made-up /lib/modules/VERSION."""
    directory = tmp_path / "modules" / "7.2.12"
    for name in ("netfilter/ipvs/ip_vs.ko", "netfilter/ipvs/ip_vs_rr.ko.xz", "ipv4/ip-tunnel.ko"):
        file = directory / "kernel/net" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (directory / "modules.builtin").write_text("kernel/fs/hostfs/hostfs.ko\nkernel/fs/ext4/ext4.ko")
    (directory / "modules.dep").write_text("kernel/net/netfilter/nf_tables.ko:\n")
    return directory


def test_look(modules: Path) -> None:
    features, built_in = kernel.look(modules, CONFIG)
    assert built_in == {
        "hostfs",
        "ext4",
        "CONFIG_UML",
        "CONFIG_UML_NET_VECTOR",
        "CONFIG_HOSTFS",
    }
    assert features == built_in | {"ip_vs", "ip_vs_rr", "ip_tunnel", "CONFIG_IP_VS"}


def test_look_at_a_kernel_without_lists(tmp_path: Path) -> None:
    assert kernel.look(tmp_path, "") == (frozenset(), frozenset())


def test_load_and_ask(modules: Path, tmp_path: Path) -> None:
    (tmp_path / cache.MARK).write_text(json.dumps({"version": "7.2.12"}))
    (tmp_path / "config").write_text(CONFIG)
    found = kernel.load(tmp_path, "built")
    assert found.version == "7.2.12"
    assert found.modules / found.version == modules
    assert found.has("ip_vs")
    assert found.has("ip-tunnel")
    assert not found.has("nf_tables")  # a name in modules.dep is no module
    assert not found.has("CONFIG_NF_TABLES_ARP")
    assert found.lacks(("ip_vs_rr", "arp_tables", "ext4", "fou")) == ("arp_tables", "fou")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/net/ipv4/ipip.ko", "ipip"),
        ("kernel/net/8021q/8021q.ko.zst", "8021q"),
        ("ip-tunnel.ko.xz", "ip_tunnel"),
    ],
)
def test_module_name(path: str, name: str) -> None:
    assert kernel.module_name(path) == name


def test_embedded_config() -> None:
    binary = (
        b"\x7fELF\0\1CONFIG_UML=y\n\0CONFIG_IP_VS=m\n\0\xffCONFIG_HZ=100\n\0"
        b'CONFIG_LOCALVERSION=""\n\0# CONFIG_X is not set\n\0CONFIG_%s=y%d'
    )
    assert kernel.embedded_config(binary).splitlines() == [
        "CONFIG_HZ=100",
        "CONFIG_IP_VS=m",
        'CONFIG_LOCALVERSION=""',
        "CONFIG_UML=y",
    ]


def test_only_the_built_kernels_key_follows_the_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {origin: kernel.kernel_key(origin) for origin in kernel.ORIGINS}
    monkeypatch.setattr(kernel, "text", lambda _: "CONFIG_IP_VS=m\n")
    after = {origin: kernel.kernel_key(origin) for origin in kernel.ORIGINS}
    assert before["built"] != after["built"]
    assert before["prebuilt"] == after["prebuilt"]
    assert len({*before.values(), *after.values()}) == 3


def test_no_such_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path))
    assert kernel.find_kernel("built") is None
    with pytest.raises(ValueError, match="vanilla"):
        kernel.find_kernel("vanilla")


def test_another_machine_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVSFAB_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(LabError, match="x86-64 alone; this machine is aarch64"):
        kernel.build_kernel("built", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_without_effect() -> None:
    fragment = "# why\nCONFIG_IP_VS=m\nCONFIG_NF_TABLES_ARP=y\n\nCONFIG_HOSTFS=m\nCONFIG_HZ=100\n"
    assert kernel_source.without_effect(fragment, CONFIG) == (
        "CONFIG_NF_TABLES_ARP=y",
        "CONFIG_HOSTFS=m",
    )


def test_the_fragment_says_each_thing_once_and_has_what_the_lab_needs() -> None:
    lines = [line for line in data.text("kernel.config").splitlines() if line[:1] not in ("#", "")]
    names = [line.partition("=")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert all(line.startswith("CONFIG_") and line[-2:] in ("=y", "=m") for line in lines)
    needed = [name for name in kernel.NEEDED if name.startswith("CONFIG_")]
    assert {f"{name}=y" for name in needed} <= set(lines)


def test_interrupts_are_taken_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "arch/um/os-Linux/irq.c"
    file.parent.mkdir(parents=True)
    said: list[str] = []
    file.write_text("x\n#define MAX_EPOLL_EVENTS 64\ny\n")
    kernel_source.mend(tmp_path, said.append)
    assert file.read_text() == "x\n#define MAX_EPOLL_EVENTS 1\ny\n"
    assert said == []
    kernel_source.mend(tmp_path, said.append)
    assert "left as it is" in said[0]
