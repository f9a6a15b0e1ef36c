import re
from pathlib import Path

import pytest

from lvsfab import document, inventory, recipe
from lvsfab.errors import InputError
from lvsfab.model import ForwardingMethod, Inventory, Scheduler
from lvsfab.recipe import Compiled
from lvsfab.states.block import Block
from lvsfab.states.daemon import Daemon
from lvsfab.states.let_in import LetIn
from lvsfab.states.nft import NftTable
from lvsfab.states.route import Route
from tests.unit.bounded import answer

LAB = inventory.load(inventory.find("lab"))


def compiled(mode: str, lab: Inventory = LAB, **sets: str) -> Compiled:
    return recipe.compile_recipe(recipe.load(recipe.find(mode)), lab, sets)


def changed(old: str, new: str) -> Inventory:
    path = inventory.find("lab")
    text = path.read_text()
    assert old in text
    return inventory.read(document.parse(text.replace(old, new).encode(), path))


def ids(found: Compiled, host: str) -> list[str]:
    return [resource.id for resource in found.resources(host)]


def test_the_shipped_recipes_are_known() -> None:
    assert {"nat", "dr", "tun"} <= set(recipe.known())


@pytest.mark.parametrize("mode", ["nat", "dr", "tun"])
def test_real_servers_come_before_the_director(mode: str) -> None:
    phases = [phase.on for phase in compiled(mode).phases if any(phase.resources.values())]
    assert phases == ["real_server", "director"]


def test_tun_reaches_the_far_server_and_the_others_do_not() -> None:
    servers = {m: [s.name for s in compiled(m).cluster.real_servers] for m in ("nat", "dr", "tun")}  # type: ignore[union-attr]
    assert servers == {
        "nat": ["rs1", "rs2"],
        "dr": ["rs1", "rs2"],
        "tun": ["rs1", "rs2", "rs3"],
    }


def test_arp_is_silenced_before_the_vip_is_added() -> None:
    found = ids(compiled("dr"), "rs1")
    vip = next(i for i in found if i == "address:192.168.10.100@lo")
    assert found.index("sysctl:net.ipv4.conf.all.arp_ignore") < found.index(vip)
    assert found.index("sysctl:net.ipv4.conf.all.arp_announce") < found.index(vip)


def test_every_host_knows_its_own_addresses() -> None:
    routes = [r.state for r in compiled("nat").resources("rs2") if r.type.kind == "route"]
    assert [getattr(r, "via", None) for r in routes] == ["192.168.10.250"]


def test_an_ipv6_vip_makes_an_ipv6_cluster() -> None:
    found = compiled("tun", vip="fd00:10::100")
    assert found.cluster is not None
    assert found.cluster.tunnel_device == "ip6tnl0"
    assert str(found.cluster.real_servers[0].address) == "fd00:10::1"
    assert not [i for i in ids(found, "rs1") if "arp_ignore" in i]


def test_parameters_come_from_default_inventory_and_set_in_this_order() -> None:
    lab = changed("dr:  {vip: 192.168.10.100}", "dr:  {vip: 192.168.10.101, scheduler: wrr}")
    assert compiled("dr", lab).parameters["scheduler"] == "wrr"
    assert compiled("dr", lab, scheduler="sh").parameters["scheduler"] == "sh"
    cluster = compiled("dr", lab, weights="rs1:3").cluster
    assert cluster is not None
    assert cluster.service.scheduler is Scheduler.WRR
    assert [s.weight for s in cluster.real_servers] == [3, 1]


def test_nat_alone_translates_ports() -> None:
    cluster = compiled("nat", real_port="8080").cluster
    assert cluster is not None
    assert {s.port for s in cluster.real_servers} == {8080}
    assert cluster.method is ForwardingMethod.NAT


def test_nat_may_serve_on_the_directors_own_address() -> None:
    lab = inventory.load(inventory.find("2-nat-two-legs"))
    found = compiled("nat", lab)
    assert found.cluster is not None
    assert str(found.cluster.service.vip) == "10.1.1.250"
    assert not [i for i in ids(found, "director") if i.startswith("address:")]
    with pytest.raises(InputError, match="is director's own address"):
        compiled("dr", lab, vip="10.1.1.250")


def test_full_nat_touches_the_service_alone() -> None:
    found = compiled("nat", full_nat="true")
    assert found.cluster is not None
    assert found.cluster.full_nat
    table = next(r.state for r in found.resources("director") if isinstance(r.state, NftTable))
    assert (
        "ct original ip daddr 10.1.1.100 meta l4proto tcp ct original proto-dst { 80 } masquerade"
        in table.content
    )
    assert not [i for i in ids(compiled("nat"), "director") if i.startswith("nft:")]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("1-tun-flat", "tun"),
        ("2-nat-two-legs", "nat"),
        ("2-dr-behind-router", "dr"),
        ("4-tun-across-networks", "tun"),
    ],
)
def test_each_tutorials_inventory_serves(name: str, mode: str) -> None:
    found = compiled(mode, inventory.load(inventory.find(name)))
    assert found.cluster is not None
    assert len(found.cluster.real_servers) == 2
    assert found.cluster.client == "client"


def test_inner_addresses_lead_to_the_other_end_of_the_tunnel() -> None:
    lab = inventory.load(inventory.find("4-tun-across-networks"))
    found = compiled("tun", lab)
    routes = {
        host: [
            (r.state.to, r.state.via) for r in found.resources(host) if isinstance(r.state, Route)
        ]
        for host in ("director", "rs2")
    }
    assert routes == {
        "director": [("10.0.0.2/32", "203.0.113.11"), ("10.0.0.3/32", "198.51.100.22")],
        "rs2": [("10.0.0.1/32", "203.0.113.10")],
    }
    assert [i for i in ids(found, "rs2") if "10.0.0.3@tunl0" in i]


def test_several_ports_are_one_service_by_a_mark() -> None:
    found = compiled("dr", ports="443,8443")
    assert [i for i in ids(found, "director") if i.startswith(("virtual", "real", "nft"))] == [
        "virtual_service:fwm:19542",
        "real_server:fwm:19542->192.168.10.1:0",
        "real_server:fwm:19542->192.168.10.2:0",
        "nft:ip/lvsfab_mark",
    ]
    (marks,) = (r.state for r in found.resources("director") if isinstance(r.state, NftTable))
    assert (
        "ip daddr 192.168.10.100 tcp dport { 80, 443, 8443 } meta mark set 19542" in marks.content
    )
    pages = [i for i in ids(found, "rs1") if i.startswith("testpage")]
    assert pages == ["testpage:80", "testpage:443", "testpage:8443"]
    six = ids(compiled("dr", vip="fd00:10::100", ports="443"), "director")
    assert "virtual_service:fwm6:19542" in six


def test_the_tunnel_monitor_restores_what_its_server_has() -> None:
    lab = inventory.load(inventory.find("4-tun-across-networks"))
    assert "daemon:tunnel" not in ids(compiled("tun", lab), "rs2")
    found = compiled("tun", lab, monitor="true")
    assert "daemon:tunnel" not in ids(found, "director")
    (monitor,) = (r.state for r in found.resources("rs2") if isinstance(r.state, Daemon))
    for line in (
        "modprobe ipip",
        "ip address add 203.0.113.100/32 dev tunl0",
        "ip address add 10.0.0.3/24 dev tunl0",
        "ip -4 route add 10.0.0.1/32 via 203.0.113.10 dev tunl0 src 10.0.0.3 onlink",
        "ping -n -q -c 2 -i 0.5 -W 1 -I 10.0.0.3 10.0.0.1 ",
    ):
        assert f"  {line}" in monitor.program


def let_in(found: Compiled, host: str) -> list[str]:
    return [r.key for r in found.resources(host) if r.type is LetIn]


def test_a_firewall_is_opened_for_what_each_host_needs() -> None:
    lab = inventory.load(inventory.find("4-tun-across-networks"))
    found = compiled("tun", lab, firewall="true")
    assert let_in(found, "director") == [
        "tcp/80;to=203.0.113.100",
        "ping;on=tunl0",
        "ipip;from=203.0.113.11,192.168.1.11,198.51.100.22,192.168.2.22",
    ]
    assert let_in(found, "rs2") == [
        "tcp/80;to=203.0.113.100",
        "ping;on=tunl0",
        "ipip;from=203.0.113.10,192.168.1.10",
    ]
    assert let_in(compiled("tun", lab), "rs2") == []
    # what IPVS sends is GUE, what the device itself sends is not
    found = compiled("tun", lab, firewall="true", tunnel="gue", ports="443")
    assert let_in(found, "rs2") == [
        "tcp/80;to=203.0.113.100",
        "tcp/443;to=203.0.113.100",
        "ping;on=tunl0",
        "ipip;from=203.0.113.10,192.168.1.10",
        "udp/6080;from=203.0.113.10,192.168.1.10",
    ]
    found = compiled("tun", lab, firewall="true", port="0", persistence="60")
    assert let_in(found, "rs2")[0] == "tcp;to=203.0.113.100"


def test_servers_let_the_tunnel_of_every_director_in() -> None:
    path = inventory.find("4-tun-across-networks")
    second = """hosts:
  director2:
    roles: [director]
    interfaces: {eth0: {network: public, addresses: [203.0.113.13/24]}}
    gateways: [203.0.113.1]
"""
    text = path.read_text().replace("hosts:\n", second, 1)
    lab = inventory.read(document.parse(text.encode(), path))
    found = compiled("tun", lab, firewall="true", balancer="keepalived")
    directors = "203.0.113.10,192.168.1.10"
    both = {f"{directors},203.0.113.13", f"203.0.113.13,{directors}"}
    service, ping, tunnel, check = let_in(found, "rs2")
    assert (service, ping) == ("tcp/80;to=203.0.113.100", "ping;on=tunl0")
    assert tunnel.removeprefix("ipip;from=") in both
    assert check.removeprefix("tcp/80;from=") in both  # keepalived's
    # it is no end of a tunnel, only sends; and hears the other director
    assert let_in(found, "director2") == ["tcp/80;to=203.0.113.100", "vrrp;to=224.0.0.18"]
    found = compiled("tun", lab, firewall="true", balancer="keepalived", ports="443")
    assert {"tcp/80", "tcp/443"} == {k.partition(";")[0] for k in let_in(found, "rs2")[-2:]}
    found = compiled("tun", lab, firewall="true", balancer="keepalived", protocol="udp")
    assert let_in(found, "rs2")[-1].startswith("ping;from=")


def test_every_host_knows_all_names() -> None:
    lab = inventory.load(inventory.find("4-tun-across-networks"))
    found = compiled("tun", lab, site="www.example.com")
    blocks = [
        [r.state for r in found.resources(host) if isinstance(r.state, Block)] for host in lab.hosts
    ]
    assert set(found.hosts) == set(lab.hosts)
    assert blocks == len(lab.hosts) * blocks[:1]
    ((block,), *_) = blocks
    assert block.path == "/etc/hosts"
    assert "203.0.113.10 director\n203.0.113.11 rs1\n198.51.100.22 rs2\n" in (block.content or "")
    assert (block.content or "").endswith("203.0.113.100 www.example.com")
    with pytest.raises(InputError, match="no host name"):
        compiled("tun", lab, site="a b")
    # without a name for the VIP there is nothing for client and router, and they may be away
    assert set(compiled("tun", lab).hosts) == {"director", "rs1", "rs2"}


def test_the_sorry_server_waits_until_the_others_are_drained() -> None:
    def weights(text: str) -> list[int]:
        cluster = compiled("nat", sorry="rs2", weights=text).cluster
        assert cluster is not None
        return [s.weight for s in cluster.real_servers]

    assert weights("rs1:1") == [1, 0]
    assert weights("rs1:0") == [0, 1]
    cluster = compiled("nat", sorry="rs2", upper="9", lower="3").cluster
    assert cluster is not None
    assert [(s.upper, s.lower) for s in cluster.real_servers] == [(9, 3), (0, 0)]


@pytest.mark.parametrize(
    ("mode", "sets", "told"),
    [
        ("tun", {"vip": "300.1.1.1"}, "`300.1.1.1` is not an IP address"),
        ("tun", {"vip": "8.8.8.8"}, "outside every network"),
        ("dr", {"vip": "172.25.254.100"}, "director has no interface"),
        ("dr", {"vip": "192.168.10.1"}, "is rs1's own address"),
        ("tun", {"scheduler": "roundrobin"}, "is not one of: rr, wrr"),
        ("tun", {"weights": "rs1:99999"}, "weights from 0 to 65535"),
        ("tun", {"weights": "rs9:1"}, "`rs9` is no real server"),
        ("dr", {"real_port": "8080"}, "DR cannot translate ports"),
        ("tun", {"real_port": "8080"}, "TUN cannot translate ports"),
        ("tun", {"port": "0"}, "needs persistence"),
        ("tun", {"port": "70000"}, "between 0 and 65535"),
        ("tun", {"port": "http"}, "whole number"),
        ("tun", {"persistence": "0"}, "between 1 and"),
        ("tun", {"colour": "red"}, "no parameter `colour`; it has: advert, arp, balancer"),
        ("nat", {"arp": "nft"}, "no parameter `arp`"),
        ("dr", {"ports": "https"}, "`https` is no port"),
        ("dr", {"ports": "80"}, "name each port once"),
        ("dr", {"ports": "443", "protocol": "udp"}, "several ports are for TCP"),
        ("nat", {"ports": "443", "real_port": "8080"}, "cannot be translated to 8080"),
        ("nat", {"ops": "true", "protocol": "udp"}, "one-packet scheduling is for UDP, by DR"),
        ("dr", {"ops": "true"}, "one-packet scheduling is for UDP"),
        ("dr", {"upper": "2", "lower": "3"}, "`lower` is above `upper`"),
        ("dr", {"lower": "5"}, "`lower` 5 without `upper`"),
        ("dr", {"scheduler": "dh", "scheduler_flags": "sh-port"}, "of scheduler dh; it has: none"),
        ("dr", {"scheduler": "sh", "scheduler_flags": "sh-prot"}, "it has: sh-fallback, sh-port"),
        ("dr", {"scheduler": "mh", "scheduler_flags": "sh-port"}, "it has: mh-fallback, mh-port"),
        ("nat", {"sorry": "rs9"}, "none of the real servers"),
        ("nat", {"vip_on": "eth0; reboot"}, "no interface name"),
        ("dr", {"vip": "fd00:10::100%e0"}, "is not an IP address"),
        ("dr", {"ports": "9" * 5000}, "is no port"),
    ],
)
def test_bad_parameters_are_refused(mode: str, sets: dict[str, str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(mode, LAB, **sets)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("roles: [director]", "roles: []", "needs a host with role `director`"),
        ("roles: [real_server]", "roles: []", "needs a host with role `real_server`"),
        ("    only: [tun]", "    # only: [tun]", "rs3 shares no network with director"),
        ("dr:  {vip: 192.168.10.100}", "dr:  {}", "needs `vip`"),
        ("dr:  {vip: 192.168.10.100}", "dr:  {vip: x}", "`x` is not an IP address"),
        ("dr:  {vip: 192.168.10.100}", "dr:  {vip: 192.168.10.100, wip: 1}", "no parameter `wip`"),
    ],
)
def test_inventories_that_cannot_serve_are_refused(old: str, new: str, told: str) -> None:
    lab = changed(old, new)
    with pytest.raises(InputError) as caught:
        compiled("dr", lab)
    assert told in str(caught.value)
    assert caught.value.path == lab.path


RECIPE = """\
name: mine
title: a recipe of one's own
parameters:
  size: {type: integer, default: 3, why: how large it is}
steps:
  - on: real_server
    do:
      - sysctl: {name: net.ipv4.ip_forward, value: "${size}"}
"""


def mine(text: str) -> Compiled:
    read = recipe.read(document.parse(text.encode(), Path("mine.yml")))
    return recipe.compile_recipe(read, LAB, {})


def test_a_recipe_needs_no_cluster() -> None:
    found = mine(RECIPE)
    assert found.hosts == ("rs1", "rs2")
    assert found.cluster is None


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("${size}", "${colour}", 8, "unknown name `${colour}`; known: host.name, size"),
        ("sysctl:", "sysctrl:", 8, "unknown resource kind; known: "),
        ("on: real_server", "on: webserver", 6, "no host of the inventory is `webserver`"),
        ("value:", "walue:", 8, "walue"),
        ("title:", "titel:", 2, "unknown key; known here: "),
        ("type: integer", "type: number", 4, "invalid enum value 'number'"),
        ("why: how large it is", "why: x", 4, "length >= 8"),
        ("name: mine", "name: mine\ninclude: [nothing]", 2, "no file `nothing.yml`"),
        ("name: mine", 'name: "mine\\nvrrp_script x {"', 1, "is not a name"),
        ("name: mine", 'name: "mine\\n"', 1, "is not a name"),
        ("name: mine", "cluster: {method: dr}\nname: mine", 1, "a cluster needs a parameter `vip`"),
    ],
)
def test_a_bad_recipe_is_named_with_its_line(old: str, new: str, line: int, told: str) -> None:
    with pytest.raises(InputError) as caught:
        mine(RECIPE.replace(old, new))
    assert told in caught.value.message
    assert caught.value.line == line


def clustered(name: str, spec: str) -> Compiled:
    """The recipe `dr` with one parameter of another kind, and keepalived."""
    text = (
        Path(recipe.find("dr")).read_text().replace("parameters:", f"parameters:\n  {name}: {spec}")
    )
    read = recipe.read(document.parse(text.encode(), recipe.find("dr")))
    return recipe.compile_recipe(read, LAB, {"balancer": "keepalived"})


@pytest.mark.parametrize(
    ("name", "spec", "told"),
    [
        (
            "advert",
            r'{type: choice, values: ["1\n}"], default: "1\n}", why: free text}',
            "type integer",
        ),
        ("check_every", '{type: text, default: "6 }", why: free text}', "type integer"),
        ("vrrp_password", '{type: words, default: ["a\\nb"], why: free text}', "type text"),
        ("gateway", '{type: text, default: "x", why: free text}', "type address"),
        (
            "scheduler",
            "{type: choice, values: [best], default: best, why: free text}",
            "choice, of: rr",
        ),
        ("protocol", "{type: choice, values: [tcp], why: free text}", "parameters.dr.protocol"),
        ("advert", "{type: integer, why: free text}", "parameters.dr.advert"),
    ],
)
def test_what_keepalived_is_told_has_its_kind(name: str, spec: str, told: str) -> None:
    """keepalived.conf is text: whatever a recipe says there would be read as more of it."""
    with pytest.raises(InputError) as caught:
        clustered(name, spec)
    assert told in str(caught.value)


def test_a_parameter_that_is_named_often_has_an_end(tmp_path: Path) -> None:
    """3000 times 1 MB took all memory; so would a little less in each of many texts."""
    path = tmp_path / "mine.yml"
    for words, lines, often in (("a" * 1_000_000, 1, 3000), ("a" * 500_000, 400, 2)):
        text = "${w}" * often
        steps = [f'      - file: {{path: /x{i}, content: "{text}"}}\n' for i in range(lines)]
        path.write_text(
            "name: mine\ntitle: t\nparameters:\n"
            f"  w: {{type: words, why: because of it, default: [{words}]}}\n"
            f"steps:\n  - on: real_server\n    do:\n{''.join(steps)}"
        )
        said = answer(
            "from lvsfab import inventory, recipe\n"
            "lab = inventory.load(inventory.find('lab'))\n"
            "recipe.compile_recipe(recipe.load(there), lab, {})",
            path,
        )
        place = r"mine.yml:[0-9]+: steps\[0\].do\[[0-9]+\].file.content"
        assert re.search(f"{place}: too long with its parameters", said)


def test_an_unknown_recipe_names_the_known() -> None:
    with pytest.raises(InputError) as caught:
        recipe.find("tunn")
    assert "dr, nat, tun" in caught.value.tip


def test_the_schema_is_for_editors() -> None:
    assert "steps" in str(recipe.schema())


def test_what_is_wanted_twice_is_wanted_once_or_refused() -> None:
    line = '      - sysctl: {name: net.ipv4.ip_forward, value: "${size}"}\n'
    assert len(mine(RECIPE + line).resources("rs1")) == 1
    with pytest.raises(InputError, match="wanted twice, and not the same"):
        mine(RECIPE + line.replace("${size}", "0"))
