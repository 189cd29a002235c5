# SPDX-License-Identifier: MIT
"""Which Host headers are let in, and where a server may listen. Without a server."""

from __future__ import annotations

import socket

import pytest

from coordinator.http.host_check import HostCheck, host_of
from coordinator.http.server import ListenAddress


async def _unused(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost.:8080", "localhost"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        ("10.0.0.2:80", "10.0.0.2"),
        ("", ""),
    ],
)
def test_the_host_is_found_in_the_header(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize("header", ["localhost:8080", "127.0.0.1", "[::1]:1", "192.168.1.9:80", "llama.home:8080"])
def test_addresses_and_own_names_are_let_in(header: str) -> None:
    assert HostCheck(_unused, ["llama.home"]).allows(header)
    assert HostCheck(_unused).allows(f"{socket.gethostname()}:8080")


@pytest.mark.parametrize("header", ["localhost:8080", "127.0.0.1", "[::1]:1", "llama.home"])
def test_on_this_machine_localhost_and_names_that_were_given_are_let_in(header: str) -> None:
    assert HostCheck(_unused, ["Llama.home."], is_local=True).allows(header)


@pytest.mark.parametrize("header", ["192.168.1.9:80", socket.gethostname(), "llama.home:8080"])
def test_on_this_machine_others_are_not(header: str) -> None:
    assert not HostCheck(_unused, is_local=True).allows(header)


@pytest.mark.parametrize("header", ["", "evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "["])
def test_foreign_names_are_turned_away(header: str) -> None:
    assert not HostCheck(_unused).allows(header)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        (":80", "0.0.0.0", 80, False),
        ("llama.home:80", "llama.home", 80, False),
    ],
)
def test_an_address_to_listen_on_is_understood(text: str, host: str, port: int, is_loopback: bool) -> None:
    address = ListenAddress.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, is_loopback)


@pytest.mark.parametrize("text", ["", "8080", "localhost", "::1:80", "localhost:99999", "localhost:http"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        ListenAddress.parse(text)
