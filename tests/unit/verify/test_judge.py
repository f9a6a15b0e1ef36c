"""The judge on recorded runs, good and bad, and on good ones with one fact changed: each failure
that one client can see is named, with its host and its cure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsfab.model import Cluster, Protocol, Scheduler
from lvsfab.verify.verdict import Check, Status
from tests.unit.verify.recorded import DATA, Run, check, cluster, edit, fail, load, risen, verdict

GOOD = ("nat", "dr", "tun")


@pytest.mark.parametrize("method", GOOD)
def test_a_good_run_is_proved_by_every_check(method: str) -> None:
    found = verdict(load(f"{method}-good"), cluster(method))
    assert [c for c in found.checks if c.status is not Status.PASS] == []
    assert found.passed
    assert found.cause is None
    assert found.answered == found.requests == 60
    for row in found.rows:
        assert row.expected == row.answered
        assert row.conns == row.logged


@pytest.mark.parametrize("name", sorted(p.stem for p in DATA.glob("*.json")))
def test_each_request_has_one_outcome(name: str) -> None:
    found = verdict(load(name), cluster(name.partition("-")[0]))
    assert sum(found.outcomes.values()) == found.requests
    assert found.outcomes.get("answered", 0) == found.answered


@pytest.mark.parametrize("method", GOOD)
@pytest.mark.parametrize("other", GOOD)
def test_a_run_of_one_method_never_proves_another(method: str, other: str) -> None:
    if method != other:
        assert not verdict(load(f"{method}-good"), cluster(other)).passed


@pytest.mark.parametrize(
    ("name", "method", "id_", "blamed", "words"),
    [
        ("dr-arp-unsuppressed", "dr", "arp", "rs1", ["(rs1)", "(director)"]),
        (
            "tun-rp-filter",
            "tun",
            "server:rs3",
            "rs3",
            ["TcpExtIPReversePathFilter +", "tunl0 is 1"],
        ),
        ("tun-device-down", "tun", "server:rs3", "rs3", ["tunl0 is down on rs3"]),
        ("nat-gateway-elsewhere", "nat", "server:rs2", "rs2", ["192.168.10.254 (router)"]),
        ("nat-no-forwarding", "nat", "forwarding", "director", ["net.ipv4.ip_forward is 0"]),
    ],
)
def test_recorded_failures(name: str, method: str, id_: str, blamed: str, words: list[str]) -> None:
    found = verdict(load(name), cluster(method))
    assert found.status is Status.FAIL
    assert found.cause is not None
    assert found.cause.id == id_
    assert found.cause.blamed == (blamed,)
    assert found.cause.advice
    for word in words:
        assert word in found.cause.fact


@pytest.mark.parametrize(
    ("name", "method", "innocent"),
    [
        ("tun-rp-filter", "tun", ["rs1", "rs2"]),
        ("nat-gateway-elsewhere", "nat", ["rs1"]),
        ("tun-device-down", "tun", ["rs1", "rs2"]),
    ],
)
def test_innocent_servers_are_not_blamed(name: str, method: str, innocent: list[str]) -> None:
    found = verdict(load(name), cluster(method))
    for server in innocent:
        assert check(found, f"server:{server}").status is Status.PASS


def test_a_server_that_asks_in_the_vips_name_is_named() -> None:
    run = load("dr-good")
    links = run["after"]["rs2"]["links"][1]
    mac = next(m[1] for m in re.finditer(r": eth0[@:].*?link/ether (\S+)", links))
    edit(
        run,
        "router",
        "arp",
        lambda text: (
            text + f"22:49:16.1 eth2  B   ifindex 5 {mac} ethertype ARP (0x0806), length 48: "
            "Request who-has 192.168.10.254 tell 192.168.10.100, length 28\n"
        ),
        "after",
    )
    found = verdict(run, cluster("dr"))
    assert found.cause is not None
    assert (found.cause.id, found.cause.blamed) == ("arp-announce", ("rs2",))
    assert "arp_announce=2" in found.cause.advice


def test_a_vip_missing_on_a_server() -> None:
    run = load("dr-good")
    fail(run, "rs2")
    for phase in ("before", "after"):
        run[phase]["rs2"]["route:vip"][1] = "192.168.10.100 dev eth0 src 192.168.10.2 uid 0\n"
    cause = verdict(run, cluster("dr")).cause
    assert cause is not None
    assert cause.id == "server:rs2"
    assert "does not take 192.168.10.100 for its own" in cause.fact
    assert "address add 192.168.10.100/32" in cause.advice


def test_ipip_missing_on_a_server() -> None:
    run = load("tun-good")
    fail(run, "rs2")
    edit(run, "rs2", "links", lambda text: re.sub(r"\d+: tunl0.*\n", "", text))
    edit(run, "rs2", "dev", lambda text: re.sub(r" *tunl0:.*\n", "", text))
    cause = verdict(run, cluster("tun")).cause
    assert cause is not None
    assert cause.id == "server:rs2"
    assert "has no tunl0" in cause.fact
    assert "modprobe ipip" in cause.advice


def test_a_tunnel_with_another_far_end() -> None:
    run = load("tun-good")
    fail(run, "rs1")
    edit(run, "rs1", "links", lambda text: text.replace("remote any", "remote 192.168.10.77"))
    cause = verdict(run, cluster("tun")).cause
    assert cause is not None
    assert "from 192.168.10.77 alone" in cause.fact


def test_rp_filter_of_all_is_seen_behind_a_device_at_0() -> None:
    run = load("tun-good")
    fail(run, "rs1")
    edit(run, "rs1", "netstat", risen("TcpExt.IPReversePathFilter", 60), "after")
    edit(run, "rs1", "conf", lambda t: re.sub(r"(conf/all/rp_filter):\d", r"\1:1", t))
    edit(run, "rs1", "conf", lambda t: re.sub(r"(conf/tunl0/rp_filter):\d", r"\1:0", t))
    cause = verdict(run, cluster("tun")).cause
    assert cause is not None
    assert "conf.all 1, conf.tunl0 0" in cause.fact
    assert cause.advice.endswith("net.ipv4.conf.all.rp_filter=2")


def test_an_inner_tunnel_address_for_a_real_server() -> None:
    run = load("tun-good")
    fail(run, "rs3")
    for phase in ("before", "after"):
        run[phase]["director"]["route:rip:rs3"][1] = "198.51.100.22 dev tunl0 src 10.0.0.1 uid 0\n"
    cause = verdict(run, cluster("tun")).cause
    assert cause is not None
    assert (cause.id, cause.blamed) == ("routes", ("director",))
    assert "leads into tunl0" in cause.fact


def test_uploads_that_hang_in_the_tunnel() -> None:
    run = load("tun-good")
    text = run["batch"]["transfers"][1]
    big = next(line for line in text.splitlines() if line.startswith("up 1048576"))
    code, _, port, _ = big.split()[2:]
    run["batch"]["transfers"][1] = text.replace(big, f"up 1048576 {code} 28 {port} 2800")
    for server in ("rs1", "rs2", "rs3"):
        run["after"]["director"][f"ping:{server}"][0] = 1
    found = verdict(run, cluster("tun"))
    assert found.cause is not None
    assert found.cause.id == "sizes"
    assert len(found.cause.blamed) == 1
    assert "clamp the MSS" in found.cause.advice
    assert "uploads up to 1048576 bytes passed" not in found.cause.fact or "timed out" in (
        found.cause.fact
    )


def test_redirects_of_the_director() -> None:
    run = load("nat-good")
    edit(run, "director", "netstat", risen("Icmp.OutRedirects", 5), "after")
    edit(run, "director", "conf", lambda t: re.sub(r"(all/send_redirects):0", r"\1:1", t))
    cause = verdict(run, cluster("nat")).cause
    assert cause is not None
    assert cause.id == "forwarding"
    assert "5 ICMP redirects" in cause.fact
    assert "net.ipv4.conf.all.send_redirects=0" in cause.advice


def test_no_vip_on_the_director_comes_before_all_else() -> None:
    run = load("nat-no-forwarding")
    edit(run, "director", "addresses", lambda text: re.sub(r".* 10\.1\.1\.100/32 .*\n", "", text))
    cause = verdict(run, cluster("nat")).cause
    assert cause is not None
    assert (cause.id, cause.blamed) == ("vip", ("director",))


def table_with(run: Run, wanted: Cluster, old: str, new: str) -> Check:
    """The check of a table in which the director's rules say something else."""
    edit(run, "director", "rules", lambda text: text.replace(old, new))
    return check(verdict(run, wanted), "table")


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("dr", "-s rr", "-s rr -p 60", "persistence 60, not none"),
        ("dr", "-s rr", "-s sh", "scheduler sh, not rr"),
        ("dr", "-s rr", "-s rr -b flag-3", "flags flag-3, not none"),
        ("dr", "10.1:80 -g -w 1", "10.1:80 -g -w 10", "rs1 has weight 10, not 1"),
        ("dr", "10.1:80 -g -w 1", "10.1:80 -g -w 0", "rs1 has weight 0, not 1"),
        ("dr", "10.2:80 -g", "10.2:80 -m", "rs2 has method nat, not dr"),
        ("dr", "10.2:80 -g", "10.22:80 -g", "rs2 (192.168.10.2 port 80) is missing"),
        ("dr", "10.1:80              0          0", "10.1:80  2  0", "rs1 has upper 2, not none"),
        ("dr", "10.1:80              0          0", "10.1:80  0  1", "rs1 has lower 1, not none"),
        (
            "tun",
            "22:80 -i -w 1 --tun-type ipip",
            "22:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
            "rs3 has tun type gue, not ipip; rs3 has tun port 6080, not none",
        ),
        (
            "tun",
            "22:80 -i -w 1 --tun-type ipip",
            "22:80 -i -w 1 --tun-type gre --tun-csum",
            "rs3 has tun type gre, not ipip; rs3 has tun checksum yes, not no",
        ),
    ],
)
def test_a_table_that_has_more_than_the_recipe(name: str, old: str, new: str, words: str) -> None:
    found = table_with(load(f"{name}-good"), cluster(name), old, new)
    assert (found.status, found.fact) == (Status.FAIL, words)
    assert found.blamed == ("director",)


WHOLE = "-s sh -p 300 -M 255.255.255.0 -b sh-fallback,sh-port"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (WHOLE, ""),
        ("-s sh -p 300 -b sh-fallback,sh-port", "netmask none, not 255.255.255.0"),
        (
            "-s sh -p 300 -M 255.255.0.0 -b sh-fallback,sh-port",
            "netmask 255.255.0.0, not 255.255.255.0",
        ),
        (
            "-s sh -b sh-fallback,sh-port",
            "persistence none, not 300; netmask none, not 255.255.255.0",
        ),
        ("-s sh -p 360 -M 255.255.255.0 -b sh-fallback,sh-port", "persistence 360, not 300"),
        ("-s sh -p 300 -M 255.255.255.0", "flags none, not sh-fallback,sh-port"),
        (
            "-s sh -p 300 -M 255.255.255.0 -b sh-port",
            "flags sh-port, not sh-fallback,sh-port",
        ),
    ],
)
def test_a_service_that_has_less_than_the_recipe(said: str, words: str) -> None:
    wanted = cluster("dr")
    service = replace(wanted.service, scheduler=Scheduler.SH, flags=("sh-port", "sh-fallback"))
    wanted = replace(wanted, service=replace(service, persistence=300, netmask="24"))
    found = table_with(load("dr-good"), wanted, "-s rr", said)
    assert (found.status is Status.FAIL, found.fact if words else "") == (bool(words), words)


@pytest.mark.parametrize(
    ("upper", "lower", "said", "words"),
    [
        (20, 10, "20  10", ""),
        (20, 10, "0  0", "upper none, not 20; rs2 has lower none, not 10"),
        (20, 10, "20  1", "lower 1, not 10"),
        (20, 0, "200  0", "upper 200, not 20"),
    ],
)
def test_thresholds_are_the_recipes(upper: int, lower: int, said: str, words: str) -> None:
    wanted = cluster("dr")
    first, second = wanted.real_servers
    wanted = replace(wanted, real_servers=(first, replace(second, upper=upper, lower=lower)))
    run = load("dr-good")
    if said == "0  0":
        found = check(verdict(run, wanted), "table")
    else:
        found = table_with(run, wanted, "10.2:80              0          0 ", f"10.2:80  {said} ")
    assert (found.status is Status.FAIL) == bool(words)
    assert found.fact.endswith(words)


def test_a_lost_tunnel_type_and_lost_ops() -> None:
    gue = replace(cluster("tun"), tunnel="gue")  # both end at tunl0
    found = check(verdict(load("tun-good"), gue), "table")
    assert found.status is Status.FAIL
    assert "rs1 has tun type ipip, not gue; rs1 has tun port none, not 6080" in found.fact
    wanted = cluster("dr")
    wanted = replace(wanted, service=replace(wanted.service, protocol=Protocol.UDP, ops=True))
    run = load("dr-good")
    for phase in ("before", "after"):
        for record in ("table", "rules", "stats"):
            said = run[phase]["director"][record]
            said[1] = said[1].replace("TCP", "UDP").replace("-t ", "-u ")
    assert check(verdict(run, wanted), "table").fact == "ops no, not yes"
    edit(run, "director", "rules", lambda text: text.replace("-s rr", "-s rr -o"))
    assert check(verdict(run, wanted), "table").status is Status.PASS


def test_no_such_service_in_the_table() -> None:
    run = load("dr-good")
    edit(run, "director", "table", lambda text: text.replace("100:80 rr", "100:8080 rr"))
    cause = verdict(run, cluster("dr")).cause
    assert cause is not None
    assert "no service tcp 192.168.10.100 port 80" in cause.fact


def test_rules_that_no_recipe_could_have_made() -> None:
    found = table_with(load("dr-good"), cluster("dr"), "-s rr", "-s rr -o")
    assert found.status is Status.FAIL
    assert "cannot be a recipe's" in found.fact
    assert "ops (one packet) is for UDP" in found.fact


def test_rules_that_cannot_be_read_prove_no_table() -> None:
    run = load("dr-good")
    for phase in ("before", "after"):
        del run[phase]["director"]["rules"]
    found = check(verdict(run, cluster("dr")), "table")
    assert found.status is Status.UNCHECKED


def test_keep_alive_is_named() -> None:
    run = load("dr-good")
    run["batch"]["batch"][1] = run["batch"]["batch"][1].replace(" 200 0 1\trs1", " 200 0 0\trs1")
    found = verdict(run, cluster("dr"))
    assert check(found, "connections").status is Status.FAIL
    assert "keep-alive" in check(found, "connections").advice


@pytest.mark.parametrize("status", [3, 4])
def test_no_ip_vs_or_no_ipvsadm(status: int) -> None:
    run = load("dr-good")
    said = {3: "ip_vs is not loaded (kernel 6.1)", 4: "ipvsadm is not installed"}[status]
    for phase in ("before", "after"):
        run[phase]["director"]["table"] = [status, said]
        run[phase]["director"]["stats"] = [3, ""]
    cause = verdict(run, cluster("dr")).cause
    assert cause is not None
    assert cause.id == "table"
    assert said in cause.fact


def test_nobody_listens() -> None:
    run = load("dr-good")
    fail(run, "rs1")
    edit(run, "rs1", "listen", lambda text: text.replace(":0050\n", ":0051\n"))
    cause = verdict(run, cluster("dr")).cause
    assert cause is not None
    assert "nobody listens on 192.168.10.100 port 80 on rs1" in cause.fact


def test_replies_through_the_director_in_dr() -> None:
    run = load("dr-good")
    links = run["after"]["director"]["links"][1]
    mac = re.findall(r"link/ether (\S+)", links)[-1]
    edit(
        run,
        "router",
        "replies",
        lambda text: re.sub(r"(ifindex \d+) \S+ ethertype", rf"\1 {mac} ethertype", text),
        "after",
    )
    found = verdict(run, cluster("dr"))
    assert check(found, "replies").status is Status.FAIL
    assert check(found, "replies").blamed == ("director",)


def test_other_peoples_connections_are_said_and_prove_nothing() -> None:
    run = load("nat-good")

    def more(text: str) -> str:
        return re.sub(r"(10\.1\.1\.100:80 +)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 7}", text)

    edit(run, "director", "stats", more, "after")
    found = verdict(run, cluster("nat"))
    assert found.status is Status.UNCHECKED
    assert "7 of them not ours" in check(found, "arrive").fact
    assert check(found, "scheduler").status is Status.UNCHECKED


def test_no_observer_is_unchecked_not_passed() -> None:
    found = verdict(load("dr-good"), replace(cluster("dr"), observers=()))
    assert check(found, "arp").status is Status.UNCHECKED
    assert check(found, "replies").status is Status.PASS
    assert "no reply passed no observer" in check(found, "replies").fact
    assert found.status is Status.UNCHECKED
    assert not found.passed


def test_ports_whose_connections_live_on_are_not_counted_against_anyone() -> None:
    run = load("dr-good")
    ports = re.findall(r"\d+", run["batch"]["batch"][1].split("from", 1)[1].split("\n", 1)[0])
    old = "".join(f"port {port} FIN_WAIT\n" for port in ports[10:14])
    run["before"]["director"]["connections"] = [0, old]

    def fewer(text: str) -> str:
        text = re.sub(r"(10\.100:80 +)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 4}", text)
        return re.sub(r"(168\.10\.[12]:80 +)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 2}", text)

    edit(run, "director", "stats", fewer, "after")
    found = verdict(run, cluster("dr"))
    assert check(found, "arrive").status is Status.PASS
    assert check(found, "counts").status is Status.PASS
    assert "4 more came from ports" in check(found, "counts").fact
    assert check(found, "scheduler").status is Status.PASS
    assert [(row.expected, row.answered) for row in found.rows] == [(30, 30), (30, 30)]


def one_line_more(run: Run, server: str) -> None:
    edit(run, server, "log", lambda text: f"{int(text) + 1}\n", "after")


def test_a_request_past_the_director_shows_in_the_servers_log() -> None:
    run = load("dr-good")
    one_line_more(run, "rs1")
    found = check(verdict(run, cluster("dr")), "counts")
    assert (found.status, found.blamed) == (Status.FAIL, ("rs1",))


def test_what_was_open_before_may_end_with_a_line_of_its_own() -> None:
    """A long answer of a drained server ends while verify looks."""
    run = load("dr-good")
    one_line_more(run, "rs1")
    old, new = "10.1:80              Route   1      0 ", "10.1:80              Route   1      1 "
    edit(run, "director", "table", lambda text: text.replace(old, new), "before")
    assert check(verdict(run, cluster("dr")), "counts").status is Status.PASS
    one_line_more(run, "rs1")
    assert check(verdict(run, cluster("dr")), "counts").status is Status.FAIL


def test_counters_that_were_behind_prove_no_counts() -> None:
    run = load("dr-good")
    run["after"]["director"]["late"] = [0, "yes\n"]
    assert check(verdict(run, cluster("dr")), "counts").status is Status.UNCHECKED
    run["after"]["director"]["late"] = [0, "no\n"]
    assert check(verdict(run, cluster("dr")), "counts").status is Status.PASS


def test_a_port_that_other_addresses_used_too_names_no_other_server() -> None:
    """Of a former run with many addresses: their connections are in the table for two minutes."""
    run = load("dr-good")
    others = tuple(map(ip_address, ("172.25.254.193", "172.25.254.194")))

    def also(text: str) -> str:
        mine = [line for line in text.splitlines() if line.startswith("entry")]
        theirs = [line.replace("10.2:80", "10.1:80") for line in mine]
        first, last = (
            [line.replace("172.25.254.67:", f"{other}:") for line in theirs] for other in others
        )
        return "\n".join((*first, text.strip(), *last)) + "\n"

    edit(run, "director", "connections", also, "after")
    found = check(verdict(run, cluster("dr"), sources=others), "counts")
    assert found.status is Status.PASS, found.fact


def test_persistence_holds_a_connection_whose_port_is_used_again() -> None:
    run = load("dr-good")
    ports = re.findall(r"\d+", run["batch"]["batch"][1].split("from", 1)[1].split("\n", 1)[0])
    run["before"]["director"]["connections"] = [0, f"port {ports[10]} FIN_WAIT\n"]
    for phase in ("before", "after"):
        run[phase]["director"]["conf"][1] += "/proc/sys/net/ipv4/vs/conn_reuse_mode:2\n"
    alone = cluster("dr")
    assert "came from ports" not in check(verdict(run, alone), "counts").fact
    kept = replace(alone, service=replace(alone.service, persistence=60))
    # it may or may not have been counted: what was counted is right either way
    found = check(verdict(run, kept), "counts")
    assert found.status is Status.PASS, found.fact
    assert "more came from ports" in found.fact


def test_where_nothing_was_sent_probes_alone_prove_servers() -> None:
    """Every server is at its threshold: only a firewall mark's own service lets a request in."""
    run = load("dr-good")
    run["before"]["director"]["marks"] = [0, "how nft\n"]
    good = run["batch"].pop("batch")[1]
    first = next(line for line in good.splitlines() if "rs1 reached" in line)
    only = re.sub(r"kind \d+ \d+", "kind 0 1", first)
    answer = f"sent 1 0\norder 0\nfrom 61000\n{only}\nend\ntime 1 2\n"
    run["batch"]["probe:rs1"] = [0, answer]
    run["batch"]["probe:rs2"] = [0, answer.replace("200 0 1\trs1", "000 7 1\t")]
    found = verdict(run, cluster("dr"))
    assert check(found, "server:rs1").status is Status.PASS
    assert check(found, "server:rs2").status is Status.FAIL
    assert check(found, "answers").status is Status.UNCHECKED
    assert check(found, "scheduler").status is Status.UNCHECKED


def test_a_port_used_again_need_not_name_the_server_of_its_new_connection() -> None:
    """The entry of the former connection may be listed still."""
    run = load("dr-good")
    port = run["batch"]["transfers"][1].splitlines()[0].split()[4]

    def other(text: str) -> str:
        return re.sub(
            rf"(:{port} .*10\.)([12]):80\n", lambda m: f"{m[1]}{3 - int(m[2])}:80\n", text
        )

    edit(run, "director", "connections", other, "after")
    found = check(verdict(run, cluster("dr")), "counts")
    assert found.status is Status.FAIL
    run["before"]["director"]["connections"] = [0, f"port {port} FIN_WAIT\n"]
    for phase in ("before", "after"):
        run[phase]["director"]["conf"][1] += "/proc/sys/net/ipv4/vs/conn_reuse_mode:2\n"
    found = check(verdict(run, cluster("dr")), "counts")
    assert found.status is Status.PASS, found.fact
