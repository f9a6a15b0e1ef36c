"""The addresses that a client takes to be many clients."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from lvsfab import inventory
from lvsfab.model import Scheduler, VirtualService
from lvsfab.verify import sources

LAB = inventory.load(inventory.find("lab"))
KEPT = VirtualService(ip_address("10.1.1.100"), 80, persistence=300)
HASHED = replace(KEPT, persistence=None, scheduler=Scheduler.SH)


def test_a_labs_client_takes_pieces_that_nobody_has() -> None:
    # the last one holds the router's .254
    last = tuple(ip_network(f"172.25.254.{start}/28") for start in (224, 208, 192))
    assert sources.free_pieces(LAB, "client", KEPT) == last
    flat = inventory.load(inventory.find("4-tun-across-networks"))
    assert sources.free_pieces(flat, "client", KEPT)[0] == ip_network("203.0.113.224/28")


def test_some_200_where_clients_spread() -> None:
    pieces = sources.free_pieces(LAB, "client", HASHED)
    assert len(pieces) == len(set(pieces)) == 13
    own = {face.ip for host in LAB.hosts.values() for i in host.interfaces for face in i.addresses}
    assert not [address for address in own for piece in pieces if address in piece]
    number = sources.requests_for(HASHED, pieces, 60)
    assert number == 13 * 14 + 30
    assert len(sources.addresses(HASHED, pieces, number)) == 13 * 14
    assert sources.requests_for(HASHED, pieces, 1000) == 1000
    assert len(sources.addresses(HASHED, pieces, 1000)) == 13 * 14
    # no more requests where there are no more addresses, or where no law needs them
    assert sources.requests_for(HASHED, (), 60) == 60
    assert sources.requests_for(HASHED, [ip_network("10.0.0.0/29")], 60) == 60
    assert sources.requests_for(KEPT, pieces, 60) == 60
    by_port = replace(HASHED, flags=("sh-port",))
    assert sources.requests_for(by_port, pieces, 60) == 60


def test_no_piece_where_it_could_be_somebody_elses() -> None:
    assert sources.free_pieces(replace(LAB, lab=None), "client", KEPT) == ()
    six = replace(KEPT, vip=ip_address("fd00:1::100"))
    assert sources.free_pieces(LAB, "client", six) == ()
    assert sources.free_pieces(LAB, "nobody", KEPT) == ()


def test_each_address_sends_twice_at_least() -> None:
    pool = [ip_network("10.0.0.32/27"), ip_network("10.0.0.64/27")]
    assert len(sources.addresses(KEPT, pool, 60)) == 30
    assert sources.addresses(KEPT, pool, 5) == (ip_address("10.0.0.33"), ip_address("10.0.0.34"))
    assert len(sources.addresses(KEPT, pool, 1)) == 1
    assert sources.addresses(KEPT, (), 60) == ()
