from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsfab import document, inventory
from lvsfab.errors import InputError
from lvsfab.model import Inventory

BASE = """\
name: t
lab: {management: 100.64.9.0/24}
networks:
  inner: {subnets: [10.0.0.0/24, "fd00::/64"]}
hosts:
  a:
    roles: [director]
    interfaces:
      eth0: {network: inner, addresses: [10.0.0.1/24, "fd00::1/64"]}
    gateways: [10.0.0.254]
"""


def read(text: str) -> Inventory:
    return inventory.read(document.parse(text.encode(), Path("t.yml")))


def test_the_default_inventory_is_good() -> None:
    found = inventory.load(inventory.find("lab"))
    assert [h.name for h in found.with_role("real_server")] == ["rs1", "rs2", "rs3"]
    assert found.hosts["rs3"].only == {"tun"}
    assert found.lab is not None


def test_addresses_and_networks_become_values() -> None:
    host = read(BASE).hosts["a"]
    assert str(host.address(4)) == "10.0.0.1"
    assert str(host.address(6)) == "fd00::1"
    assert host.interface_for(host.gateways[0]) is host.interfaces[0]


@pytest.mark.parametrize(
    ("old", "new", "key", "told"),
    [
        ("10.0.0.1/24", "10.0.0.300/24", "hosts.a.interfaces.eth0.addresses[0]", "is not an add"),
        ("10.0.0.1/24", "10.0.0.1", "hosts.a.interfaces.eth0.addresses[0]", "prefix length"),
        ("10.0.0.1/24", "10.9.0.1/24", "hosts.a.interfaces.eth0.addresses[0]", "not in network"),
        ("network: inner", "network: outer", "hosts.a.interfaces.eth0.network", "known: inner"),
        ("[director]", "[boss]", "hosts.a.roles[0]", "invalid enum value 'boss'"),
        ("[10.0.0.254]", "[10.9.0.254]", "hosts.a.gateways[0]", "none of a's networks"),
        ("[10.0.0.254]", "[10.0.0.2, 10.0.0.3]", "hosts.a.gateways", "one default route"),
        ("roles: [director]", "inner: 10.8.0.1", "hosts.a.inner", "prefix length"),
        ("roles: [director]", "inner: fd00::8/64", "hosts.a.inner", "not an IPv4 address"),
        ("roles: [director]", "inner: 10.0.0.1/24", "hosts.a.inner", "a's already"),
        ("name: t", "name: -t", "name", "not a name"),
        ("eth0:", "'eth0;reboot':", "hosts.a.interfaces.eth0;reboot", "not a name"),
        ("100.64.9.0/24", "10.0.0.0/16", "lab.management", "overlaps network inner"),
        ("100.64.9.0/24", "100.64.9.0/24, packages: [-y]", "lab.packages[0]", "Debian package"),
        ("100.64.9.0/24", "100.64.9.0/30", "lab.management", "too few addresses"),
        ("eth0:", "mgmt:", "hosts.a.interfaces.mgmt", "itself"),
        ("roles: [director]", 'groups: [a, "\\e[2J"]', "hosts.a.groups[1]", "not a name"),
        ("roles: [director]", "groups: [a b]", "hosts.a.groups[0]", "not a name"),
        ("roles: [director]", "weight: 70000", "hosts.a.weight", "<= 65535"),
        ("roles: [director]", "colour: red", "hosts.a.colour", "unknown key; known here"),
        ("roles: [director]", "ssh: {host: -oProxyCommand=x}", "hosts.a.ssh.host", "no host name"),
        ("roles: [director]", "ssh: {key: ~nosuchuser/x}", "hosts.a.ssh.key", "home directory"),
        ("roles: [director]", 'ssh: {key: "a\\0b"}', "hosts.a.ssh.key", "a NUL"),
    ],
)
def test_bad_input_is_named_at_its_place(old: str, new: str, key: str, told: str) -> None:
    text = BASE.replace(old, new)
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.key == key
    assert told in caught.value.message
    assert caught.value.line is not None
    assert new.split(":", 1)[0].strip("'\"")[:4] in text.splitlines()[caught.value.line - 1]


SIX = """\
name: t
lab: {management: 100.64.9.0/24}
networks:
  n: {subnets: ["fd00::/64"]}
hosts:
  a:
    gateways: ["fd00::9"]
    routes: {"fd01::/64": "fd00::8"}
    interfaces:
      e0: {network: n, addresses: ["fd00::1/64"]}
"""


@pytest.mark.parametrize("plain", ["fd00::9", "fd00::8", "fd01::", "fd00::1"])
@pytest.mark.parametrize("scope", ["%e0", r"%$(touch CANARY)\nreboot", "%"])
def test_an_address_has_no_scope(plain: str, scope: str) -> None:
    """It may be any text, and a lab's host would be given it as it is."""
    read(SIX)
    with pytest.raises(InputError, match="is not a") as caught:
        read(SIX.replace(plain, plain + scope))
    assert caught.value.line is not None


def test_one_address_for_two_hosts_is_refused() -> None:
    second = "  b:\n    interfaces:\n      eth0: {network: inner, addresses: [10.0.0.1/24]}\n"
    with pytest.raises(InputError, match=r"t.yml:13: .*10.0.0.1 is a's already"):
        read(BASE + second)


def test_a_missing_inventory_says_where_one_could_be() -> None:
    with pytest.raises(InputError, match="no inventory `nowhere`"):
        inventory.find("nowhere")


@given(st.text(min_size=1, max_size=80), st.sampled_from(["name", "host", "interface", "network"]))
def test_hostile_names_are_refused_or_plain(text: str, field: str) -> None:
    raw: dict[str, object] = {
        "name": text if field == "name" else "t",
        "networks": {text if field == "network" else "n": {}},
        "hosts": {
            text if field == "host" else "a": {
                "interfaces": {
                    text if field == "interface" else "eth0": {
                        "network": text if field == "network" else "n"
                    }
                }
            }
        },
    }
    doc = document.Document(Path("t.yml"), raw, {})
    try:
        inventory.read(doc)
    except InputError:
        return
    assert text.isascii()
    assert not set(text) & set(" \n\t;|&$`'\"<>(){}*?!~#\\")
    assert not text.startswith("-")


def test_the_schema_is_for_editors() -> None:
    assert "hosts" in str(inventory.schema())


def test_labs_that_are_shipped_can_run_side_by_side() -> None:
    folder = inventory.find("lab").parent
    labs = [inventory.load(path).lab for path in sorted(folder.glob("*.yml"))]
    assert len(labs) > 5
    networks = [found.management for found in labs if found is not None]
    assert len(networks) == len(set(networks)) == len(labs)
