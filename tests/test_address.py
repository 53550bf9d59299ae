"""Addresses and node ids: the packing of the reference, and every text that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine.address import (
    MAX_NODE_ID,
    Member,
    node_text,
    pack_node_id,
    parse_member,
    unpack_node_id,
)
from paxmux.engine.errors import ConfigError


def test_packing_is_that_of_the_reference() -> None:
    assert pack_node_id("10.123.102.77", 8001) == 5577280471424835393
    assert unpack_node_id(5577280471424835393) == ("10.123.102.77", 8001)
    assert node_text(5577280471424835393) == "10.123.102.77:8001"
    assert parse_member("10.123.102.77:8001") == Member(5577280471424835393, "10.123.102.77", 8001)


@given(st.ip_addresses(v=4), st.integers(1, 65_535))
def test_every_packed_address_of_a_host_comes_back(ip: object, port: int) -> None:
    node_id = pack_node_id(str(ip), port)
    assert unpack_node_id(node_id) in {(str(ip), port), None}
    assert 1 <= node_id <= MAX_NODE_ID


@given(st.text(max_size=40))
def test_any_text_is_a_member_or_a_config_error(text: str) -> None:
    try:
        member = parse_member(text)
    except ConfigError:
        return
    assert parse_member(f"{member.node_id}@{member.address}") == member


def test_an_id_that_packs_no_address_is_written_as_a_number() -> None:
    assert node_text(0) == "0"
    assert node_text(7) == "7"
    assert node_text(MAX_NODE_ID) == str(MAX_NODE_ID)
    assert node_text(2**64 + 1) == str(2**64 + 1)
    assert node_text(pack_node_id("0.1.2.3", 80)) == str(pack_node_id("0.1.2.3", 80))


@pytest.mark.parametrize(
    ("text", "member", "address"),
    [
        ("7@10.0.0.1:80", Member(7, "10.0.0.1", 80), "10.0.0.1:80"),
        ("7@DB-1.Example:65535", Member(7, "db-1.example", 65_535), "db-1.example:65535"),
        ("7@[0:0::1]:1", Member(7, "::1", 1), "[::1]:1"),
        (f"{MAX_NODE_ID}@a_b:9", Member(MAX_NODE_ID, "a_b", 9), "a_b:9"),
    ],
)
def test_an_explicit_id_allows_every_kind_of_host(text: str, member: Member, address: str) -> None:
    assert parse_member(text) == member
    assert member.address == address


def test_an_id_may_be_told_beside_the_text() -> None:
    assert parse_member("db:80", node_id=7) == Member(7, "db", 80)
    assert parse_member("7@db:80", node_id=7) == Member(7, "db", 80)
    with pytest.raises(ConfigError, match="expected the node id 8, got '7@db:80'"):
        parse_member("7@db:80", node_id=8)
    with pytest.raises(ConfigError, match=r"node id of 1 \.\. 2\^64-1, got 0"):
        parse_member("db:80", node_id=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "`host:port`"),
        ("10.0.0.1", "`host:port`"),
        (":80", "`host:port`"),
        ("10.0.0.1:", "a port of 1"),
        ("10.0.0.1:0", "a port of 1"),
        ("10.0.0.1:65536", "a port of 1"),
        ("10.0.0.1:-1", "a port of 1"),
        ("10.0.0.1:080", "a port of 1"),
        ("10.0.0.1:8x", "a port of 1"),
        ("10.0.0.1:" + "9" * 5000, "a port of 1"),
        ("10.0.0.1:\u0661", "a port of 1"),
        ("10.0.0.256:80", "four numbers"),
        ("10.0.0:80", "four numbers"),
        ("010.0.0.1:80", "four numbers"),
        ("0.0.0.0:80", "can reach"),
        ("224.0.0.1:80", "can reach"),
        ("255.255.255.255:80", "can reach"),
        ("7@[::]:80", "can reach"),
        ("db:80", "explicit id"),
        ("[::1]:80", "explicit id"),
        ("7@::1:80", "in brackets"),
        ("7@[::1:80", "in brackets"),
        ("7@[zz]:80", "in the brackets"),
        ("0@db:80", "before the `@`"),
        ("x@db:80", "before the `@`"),
        ("@db:80", "before the `@`"),
        (f"{MAX_NODE_ID + 1}@db:80", "before the `@`"),
        ("9" * 5000 + "@db:80", "before the `@`"),
        ("7@d b:80", "host name"),
        ("7@-db:80", "host name"),
        ("7@db..x:80", "host name"),
    ],
)
def test_what_is_no_address_is_refused_in_words(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"^expected") as caught:
        parse_member(text)
    assert expected in str(caught.value)
    assert repr(text) in str(caught.value)


def test_only_ipv4_and_a_port_can_be_packed() -> None:
    with pytest.raises(ConfigError, match="expected an IPv4 address"):
        pack_node_id("::1", 80)
    with pytest.raises(ConfigError, match="expected a port"):
        pack_node_id("10.0.0.1", 0)
