"""keepalived's configuration from inventory and recipe, what is refused, how the file changes."""

from __future__ import annotations

import pytest

from lvsfab import recipe, sources
from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory
from lvsfab.plan import stray_addresses
from lvsfab.recipe import Compiled
from lvsfab.states.base import Context, Others, Resource
from lvsfab.states.keepalived import PATH, KeepalivedConfig
from tests.unit.states.state_helpers import journalled, said

OLD = KeepalivedConfig(content="old\n", mode="0644", owner="root", group="root")
NEW = KeepalivedConfig(content="new\n")
CONTEXT = Context(Inventory("unit", {}), Host("h"), {})
ABSENT = KeepalivedConfig(present=False)


def compiled(system: str, mode: str, **sets: str) -> Compiled:
    inventory = sources.load(system)
    return recipe.compile_recipe(recipe.load(recipe.find(mode)), inventory, sets)


def config(found: Compiled, host: str) -> str:
    (one,) = [r for r in found.resources(host) if r.type is KeepalivedConfig]
    assert isinstance(one.state, KeepalivedConfig)
    return one.state.content or ""


def nat(**sets: str) -> Compiled:
    return compiled("3-nat-keepalived", "nat", **sets)


def dr(**sets: str) -> Compiled:
    return compiled("5-dr-one-public-address", "dr", **sets)


def test_the_third_tutorials_configuration() -> None:
    text = config(nat(), "lb2")
    assert (
        text
        == """\
# lvsfab, recipe nat
global_defs {
    router_id lb2
    vrrp_garp_master_refresh 60
}
vrrp_sync_group lvsfab {
    group { outside inside }
}
vrrp_instance outside {
    state BACKUP
    interface bond1
    virtual_router_id 222
    priority 90
    advert_int 1
    nopreempt
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        203.0.113.100/32 dev bond1
    }
}
vrrp_instance inside {
    state BACKUP
    interface bond0
    virtual_router_id 223
    priority 90
    advert_int 1
    nopreempt
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        10.71.12.1/32 dev bond0
    }
}
virtual_server 203.0.113.100 15000 {
    delay_loop 6
    lb_algo rr
    lb_kind NAT
    protocol TCP
    real_server 10.71.12.69 15000 {
        weight 100
        TCP_CHECK {
            connect_timeout 3
            retry 3
            delay_before_retry 3
            connect_port 15000
        }
    }
    real_server 10.71.12.76 15000 {
        weight 100
        TCP_CHECK {
            connect_timeout 3
            retry 3
            delay_before_retry 3
            connect_port 15000
        }
    }
}
"""
    )


def test_a_configuration_with_a_password_is_roots_alone() -> None:
    def mode(found: Compiled, host: str) -> str | None:
        (one,) = [r for r in found.resources(host) if r.type is KeepalivedConfig]
        return getattr(one.state, "mode", None)

    assert mode(nat(), "lb1") == mode(nat(), "lb2") == "0600"
    assert mode(nat(vrrp_password=""), "lb1") is None  # as it is there, else 0644
    own = KeepalivedConfig.build({"content": "auth_pass x\n"}, CONTEXT)
    assert [getattr(r.state, "mode", "") for r in own] == ["0600"]
    own = KeepalivedConfig.build({"content": "auth_pass x\n", "mode": "0640"}, CONTEXT)
    assert [getattr(r.state, "mode", "") for r in own] == ["0640"]


def test_the_fifth_tutorials_configuration() -> None:
    text = config(dr(), "director")
    for line in ("state MASTER", "lb_kind DR", "inhibit_on_failure", "connect_timeout 5"):
        assert f" {line}\n" in text
    assert "nopreempt" not in text
    assert "vrrp_sync_group" not in text


def test_a_drained_server_has_weight_0() -> None:
    text = config(nat(), "lb2")
    whole = KeepalivedConfig(content=text)
    drained = whole.drained({"10.71.12.76", "203.0.113.100"})
    assert drained is not None
    was, is_ = text.splitlines(), (drained.content or "").splitlines()
    at = was.index("    real_server 10.71.12.76 15000 {") + 1
    assert (was[at], is_[at]) == ("        weight 100", "        weight 0")
    assert [*was[:at], *was[at + 1 :]] == [*is_[:at], *is_[at + 1 :]]
    assert drained.drained({"10.71.12.76"}) is None
    assert whole.drained({"10.71.12.7"}) is None
    assert ABSENT.drained({"10.71.12.76"}) is None


def test_what_parameters_say() -> None:
    text = config(nat(preempt="yes", connection_sync="yes", persistence="60"), "lb1")
    assert "nopreempt" not in text
    assert text.count("state MASTER") == 2
    assert "    lvs_sync_daemon bond0 inside id 222\n" in text
    assert "    persistence_timeout 60\n" in text
    assert "state BACKUP" in config(nat(preempt="yes"), "lb2")
    assert "weight 0\n" in config(nat(weights="web1:0"), "lb1")


def lab(mode: str, **sets: str) -> str:
    return config(compiled("lab", mode, balancer="keepalived", **sets), "director")


def service(text: str) -> str:
    return text[text.index("virtual_server ") :]


def test_a_sorry_server_waits_in_the_table() -> None:
    text = config(nat(sorry="web2"), "lb1")
    assert "    sorry_server 10.71.12.76 15000\n    sorry_server_inhibit\n" in text
    assert "real_server 10.71.12.76" not in text
    assert "real_server 10.71.12.69 15000" in text


def test_several_ports_are_a_mark_with_a_check_of_each() -> None:
    found = nat(ports="15001")
    assert (
        service(config(found, "lb1")).partition("    real_server 10.71.12.76")[0]
        == """\
virtual_server fwmark 19542 {
    delay_loop 6
    lb_algo rr
    lb_kind NAT
    real_server 10.71.12.69 0 {
        weight 100
        TCP_CHECK {
            connect_timeout 3
            retry 3
            delay_before_retry 3
            connect_port 15000
        }
        TCP_CHECK {
            connect_timeout 3
            retry 3
            delay_before_retry 3
            connect_port 15001
        }
    }
"""
    )
    kinds = [r.type.kind for r in found.resources("lb2")]
    assert kinds.index("sebool") < kinds.index("service")
    assert kinds.index("nft") < kinds.index("keepalived")  # packets are marked by either director


@pytest.mark.parametrize(
    ("mode", "sets", "lines"),
    [
        ("tun", {}, ["lb_kind TUN", "protocol TCP"]),
        ("tun", {"tunnel": "gue"}, ["lb_kind TUN type gue port 6080 nocsum"]),
        ("tun", {"tunnel": "gre"}, ["lb_kind TUN type gre nocsum"]),
        ("dr", {"upper": "9", "lower": "3"}, ["    uthreshold 9", "    lthreshold 3"]),
        (
            "nat",
            {"protocol": "udp"},
            ["protocol UDP", "    UDP_CHECK {", "        connect_port 80"],
        ),
        ("dr", {"protocol": "udp", "ops": "yes"}, ["protocol UDP", "ops", "    PING_CHECK {"]),
        ("dr", {"scheduler": "sh", "scheduler_flags": "sh-port"}, ["lb_algo sh", "sh-port"]),
        (
            "dr",
            {"persistence": "60", "netmask": "24"},
            ["persistence_timeout 60", "persistence_granularity 255.255.255.0"],
        ),
        (
            "dr",
            {"vip": "fd00:10::100", "ports": "443"},
            ["ip_family inet6", "    fd00:10::100/128 dev eth1 preferred_lft 0"],
        ),
    ],
)
def test_whatever_ipvsadm_can_be_told(mode: str, sets: dict[str, str], lines: list[str]) -> None:
    text = lab(mode, **sets)
    for line in lines:
        assert f"    {line}\n" in text


def test_what_a_service_is_not_asked_to_have_is_not_said() -> None:
    text = lab("dr")
    for word in ("ops", "threshold", "sorry", "fwmark", "ip_family", "type", "persistence"):
        assert word not in text
    assert "connect_port" not in lab("dr", protocol="udp")  # a ping has none
    assert "protocol" not in lab("dr", ports="443")  # keepalived refuses it beside a mark


def test_the_gateway_of_the_servers_moves_with_the_vip() -> None:
    routes = [r for r in nat().resources("web1") if r.type.kind == "route"]
    assert [getattr(r.state, "via", "") for r in routes] == ["10.71.12.1"]
    assert not [r for r in nat().resources("lb1") if r.type.kind in ("address", "real_server")]


def test_the_router_forwards_the_public_port() -> None:
    (table,) = [r for r in dr().resources("router") if r.type.kind == "nft"]
    text = str(getattr(table.state, "content", ""))
    assert "ip daddr 211.83.113.119 tcp dport { 80 } dnat to 192.168.1.169\n" in text
    assert str(getattr(dr().cluster, "asked", "")) == "211.83.113.119"


@pytest.mark.parametrize(
    ("sets", "wrong"),
    [
        ({"balancer": "ipvsadm"}, "several need keepalived"),
        ({"gateway": "192.0.2.1"}, "must be in a network of lb1"),
        ({"gateway": "10.71.12.2"}, "not its own"),
        ({"vrrp_password": "longer than 8"}, "at most 8"),
        ({"vrrp_password": "x\n}"}, "one line"),
        ({"vip_on": "bond0"}, "on the device in its network alone"),
        ({"gateway": "fd00::1"}, "no way back for the answers of 203.0.113.100"),
        ({"weights": "web1:0", "sorry": "web2"}, "takes drained ones out"),
    ],
)
def test_what_is_refused(sets: dict[str, str], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        nat(**sets)


def test_a_public_address_is_the_routers() -> None:
    with pytest.raises(InputError, match="must be an address of the one router"):
        dr(public="211.83.113.10")


def test_vrrp_of_ipv6_has_no_password() -> None:
    with pytest.raises(InputError, match="knows no password"):
        lab("dr", vip="fd00:10::100", vrrp_password="x")  # noqa: S106


def test_a_public_address_forwards_every_port_of_the_service_and_no_other() -> None:
    (table,) = [r for r in dr(ports="443").resources("router") if r.type.kind == "nft"]
    text = str(getattr(table.state, "content", ""))
    assert "ip daddr 211.83.113.119 tcp dport { 80, 443 } dnat to 192.168.1.169\n" in text
    with pytest.raises(InputError, match="the router's own SSH too"):
        dr(port="0", persistence="60")


def test_it_is_checked_before_it_is_put_in_place() -> None:
    assert said(OLD, OLD, KeepalivedConfig, PATH) == []
    (line,) = said(OLD, NEW, KeepalivedConfig, PATH)
    assert line.startswith(f"keepalived_put {PATH} 0644 root root text ")
    assert "keepalived_refuses" in _helper("keepalived_put").partition("put_file")[0]
    assert "keepalived -t -f" in _helper("keepalived_refuses")
    (line,) = said(NEW, ABSENT, KeepalivedConfig, PATH)
    assert line == f"keepalived_drop {PATH}"


def _helper(name: str) -> str:
    from lvsfab.states import keepalived  # the shell text alone is looked at

    return (
        keepalived.HELPERS.partition(f"{name}() {{")[2]
        .partition("\n}\n")[0]
        .replace("as put_file", "")
    )


def test_absent_as_wanted_and_not_taken_up() -> None:
    output = "stat 644 root root 0 0 4\nbmV3Cg==\n"
    good = KeepalivedConfig.parse(PATH, output)
    assert good is not None
    assert NEW.changes(good) == ()
    pending = KeepalivedConfig.parse(PATH, f"pending\n{output}")
    assert pending is not None
    assert [c.field for c in NEW.changes(pending)] == ["taken up by the daemon"]
    assert journalled(pending) == pending
    absent = KeepalivedConfig.parse(PATH, "absent\n")
    assert absent is not None
    assert [c.want for c in NEW.changes(absent)] == ["yes"]


def test_the_vip_that_vrrp_put_there_is_no_stray() -> None:
    wanted = [Resource(KeepalivedConfig, PATH, NEW)]
    others = Others(addresses=(("192.168.1.169", "eth0"),))
    assert stray_addresses({"192.168.1.169"}, wanted, [], others) == ()
    assert stray_addresses({"192.168.1.169"}, [], [], others)
