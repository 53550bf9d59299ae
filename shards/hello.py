"""The hello: how a node says who it is, and how that is read from somebody not yet trusted.

A hello travels alone in a frame of kind HELLO with cluster 0, since it is what a cluster is founded
by. Its frame keeps the header of wire version 1, and `wire`, `disk` and `node_id` keep their names,
in every version to come: so a node of another version is refused by name and not by silence.

Decides only whether the bytes are a hello; what follows from it is decided in shards/founding.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from paxmux.engine.address import node_text, parse_member
from paxmux.engine.errors import ConfigError
from paxmux.engine.frame import VERSION, WIDE_VERSION, FrameKind, pack_frame, version_for
from paxmux.engine.frame_header import FrameError, Header
from paxmux.shards.boot import Founding
from paxmux.shards.cluster import is_sound, is_u64
from paxmux.shards.identity import FORMAT

MAX_HELLO_BYTES = 64 * 1024
ADDRESSES_MAX = 64
"""Addresses of others in one hello."""
MAX_ADDRESS_CHARS = 320
"""No address is longer."""

Role = Literal["member", "follower", "joining"]
"""`member`: it votes, or founds. `follower`: it never will. `joining`: not yet, or not in this seat."""


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a node knows about itself."""

    wire: int
    """Version of the frames that it speaks."""
    disk: int
    """Version of its data directory."""
    node_id: int
    seat: int
    incarnation: int
    groups: int
    address: str
    """`host:port` at which it wants to be dialled."""
    role: Role
    rejoin: bool
    """It wants a seat in the place of the one that its node id had; see the option of this name."""
    members: list[int]
    """Node ids of the configured members, ascending."""
    addresses: dict[int, str]
    """Where it dials members, as a hint for whoever does not know better."""
    founding: Founding | None
    """What it has recorded durably."""
    active: bool
    """It knows that its founding is recorded by all members."""
    ask: bool
    """It wants a hello back. An answer never asks, so two nodes cannot keep each other busy."""


class _AnyVersion(msgspec.Struct):
    wire: int
    disk: int
    node_id: int


class OtherVersion(FrameError):
    """A hello of a node that speaks another version."""

    def __init__(self, node_id: int, detail: str) -> None:
        super().__init__("version", detail)
        self.node_id = node_id
        self.detail = detail


_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder(_AnyVersion).decode
_decode = msgspec.json.Decoder(Hello).decode


def pack_hello(hello: Hello, dest: int) -> bytes:
    """The whole frame."""
    return pack_frame(
        FrameKind.HELLO,
        _encode(hello),
        cluster=0,
        sender=hello.node_id,
        seat=hello.seat,
        incarnation=hello.incarnation,
        dest=dest,
        groups=0,
    )


def parse_hello(header: Header, body: bytes | memoryview) -> Hello:
    """Read and check the body of a checked frame of kind HELLO.

    Raises:
        FrameError: it is no hello; the reason is "hello".
        OtherVersion: it is one, of another wire or disk version.
    """
    if len(body) > MAX_HELLO_BYTES:
        raise _bad(f"{len(body)} bytes, at most {MAX_HELLO_BYTES} allowed")
    if header.cluster != 0 or header.groups != 0:
        raise _bad("it names a cluster or groups")
    try:
        versions = _decode_any(body)
        if versions.wire not in (VERSION, WIDE_VERSION) or versions.disk != FORMAT:
            if versions.node_id != header.sender:
                raise _bad("body and header name different nodes")
            raise OtherVersion(
                versions.node_id,
                f"node {node_text(versions.node_id)} speaks wire version {versions.wire} and disk version "
                f"{versions.disk}, this node {VERSION} or {WIDE_VERSION} and {FORMAT}",
            )
        hello = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad(str(error)) from None
    if (hello.node_id, hello.seat, hello.incarnation) != (header.sender, header.seat, header.incarnation):
        raise _bad("body and header name different nodes")
    if not (is_u64(hello.node_id) and is_u64(hello.seat) and is_u64(hello.incarnation)):
        raise _bad("an id out of range")
    if not all(map(is_u64, hello.members)) or hello.members != sorted(set(hello.members)):
        raise _bad("members out of range or order")
    if hello.wire != version_for(hello.groups):
        raise _bad("a wire version that goes with another number of groups")
    if hello.founding is None:
        if hello.active:
            raise _bad("active without a founding")
        if hello.role == "member" and hello.node_id not in hello.members:
            raise _bad("the sender is not among its members")
    elif not is_sound(hello.founding, hello.groups):
        raise _bad("the founding contradicts itself")
    elif not hello.active and hello.node_id not in hello.founding.seats:
        raise _bad("the sender is not in a founding that is not complete")
    if hello.rejoin and hello.role != "joining":
        raise _bad("who has a seat asks for one")
    if len(hello.addresses) > ADDRESSES_MAX or not all(map(is_u64, hello.addresses)):
        raise _bad("addresses of too many nodes, or of none")
    for node, address in (*hello.addresses.items(), (hello.node_id, hello.address)):
        _check_address(node, address)
    return hello


def _check_address(node: int, address: str) -> None:
    if len(address) > MAX_ADDRESS_CHARS or "@" in address:
        raise _bad("an address that is none")
    try:
        parse_member(address, node)
    except ConfigError as error:
        raise _bad(str(error)) from None


def _bad(detail: str) -> FrameError:
    return FrameError("hello", detail)
