"""The addresses that a client takes to be many clients."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from lvsfab import inventory
from lvsfab.verify import sources

LAB = inventory.load(inventory.find("lab"))


def test_a_labs_client_takes_a_piece_that_nobody_has() -> None:
    piece = sources.free_piece(LAB, "client", 4)
    assert piece == ip_network("172.25.254.192/27")  # the last one holds the router's .254
    flat = inventory.load(inventory.find("4-tun-across-networks"))
    assert sources.free_piece(flat, "client", 4) == ip_network("203.0.113.192/27")


def test_no_piece_where_it_could_be_somebody_elses() -> None:
    assert sources.free_piece(replace(LAB, lab=None), "client", 4) is None
    assert sources.free_piece(LAB, "client", 6) is None
    assert sources.free_piece(LAB, "nobody", 4) is None


def test_each_address_sends_twice_at_least() -> None:
    piece = ip_network("10.0.0.32/27")
    assert len(sources.addresses(piece, 60)) == 30
    assert sources.addresses(piece, 5) == (ip_address("10.0.0.33"), ip_address("10.0.0.34"))
    assert len(sources.addresses(piece, 1)) == 1
