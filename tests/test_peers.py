"""Who may talk to a node, and where each is dialled: what is known from where, and what comes first."""

from __future__ import annotations

from typing import Any

from paxmux.shards.boot import MemberPlace
from paxmux.shards.cluster import make_founding
from paxmux.shards.founding import Founder
from paxmux.shards.hello import ADDRESSES_MAX, Hello
from paxmux.shards.peers import GUEST_S, GUESTS_MAX, NEXT_ADDRESS_S, Peers

ME, A, B, C = 1, 2, 3, 4
SEATS = {ME: 11, A: 12, B: 13}
SEEDS = {ME: "me:1", A: "a.example:1", B: "b.example:1"}


def hello(node: int, seat: int, address: str, addresses: dict[int, str] | None = None) -> Hello:
    founder = Founder(
        node_id=node,
        seat=seat,
        incarnation=5,
        groups=1,
        members=(ME,),
        founding=make_founding(SEATS, 1),
        active=True,
        address=address,
        founds=False,
    )
    return founder.hello(ask=False, addresses=addresses)


def founded(seeds: dict[int, str] | None = None) -> Peers:
    peers = Peers(ME, SEEDS if seeds is None else seeds)
    peers.set_founding(make_founding(SEATS, 1))
    return peers


def place(*seats: int, address: str = "") -> MemberPlace:
    return MemberPlace(seats=list(seats), address=address)


def said(peers: Peers, node: int, seat: int, address: str, *, connected: bool = False, **more: Any) -> None:
    peers.greeted(hello(node, seat, address, **more), 0.0, connected=connected)


def test_first_the_options_and_the_founders_count() -> None:
    peers = Peers(ME, {ME: "me:1", A: "a.example:1", C: "c.example:1"})
    assert peers.members == {A, C}
    assert peers.addresses() == {A: "a.example:1", C: "c.example:1"}
    members = peers.members
    peers.set_founding(make_founding(SEATS, 1))
    assert members == {A, B, C}, "always the same set: whoever checks frames by it need not ask again"
    assert peers.addresses() == {A: "a.example:1", C: "c.example:1"}, "of B no address is known"
    assert peers.members_unlike() == ([B], [C])


def test_what_a_member_says_of_itself_counts_in_its_seat_and_where_nothing_works() -> None:
    peers = founded()
    said(peers, A, 12, "a.new:1", connected=True)
    assert peers.addresses()[A] == "a.example:1", "what works is left alone"
    said(peers, A, 12, "a.new:2")
    assert peers.addresses()[A] == "a.new:2"
    said(peers, B, 99, "b.wiped:1")
    assert peers.addresses()[B] == "b.example:1", "another data directory is not the member's"
    now = 0.0
    tried = []
    for _ in range(5):
        tried.append(peers.addresses()[B])
        peers.look(now, {A: True})
        now += NEXT_ADDRESS_S
    assert tried == ["b.example:1", "b.example:1", "b.wiped:1", "b.example:1", "b.wiped:1"]
    assert peers.addresses()[A] == "a.new:2"
    peers.look(now, {A: True, B: True})
    at = peers.addresses()[B]
    for _ in range(5):
        now += NEXT_ADDRESS_S
        peers.look(now, {A: True, B: True})
    assert peers.addresses()[B] == at


def test_an_operation_says_otherwise_until_the_member_speaks_again() -> None:
    peers = founded()
    said(peers, A, 12, "a.new:1")
    peers.set_members({ME: place(11), A: place(12, address="a.operated:1"), B: place(13)})
    assert peers.addresses() == {A: "a.operated:1", B: "b.example:1"}
    peers.set_members({ME: place(11), A: place(12, address="a.operated:1"), B: place(14, 13)})
    assert peers.is_seated(B, 13)
    assert peers.is_seated(B, 14)
    said(peers, A, 12, "a.newer:1")
    assert peers.addresses()[A] == "a.newer:1"
    peers.set_members({ME: place(11), A: place(12, address="a.operated:1")})
    assert peers.addresses()[A] == "a.newer:1", "told again, it is no news"
    assert peers.members == {A, B}, "B is in the options"
    assert not peers.is_seated(B, 13)
    said(peers, B, 13, "b.gone:1", addresses={A: "a.rumour:1"})
    assert peers.addresses() == {A: "a.newer:1", B: "b.example:1"}
    assert peers.members_unlike() == ([], [B])
    peers.set_members({ME: place(11), A: place(12, address="a.operated:2")})
    assert peers.addresses()[A] == "a.operated:2"


def test_others_tell_of_members_whom_the_options_do_not_name() -> None:
    peers = founded({ME: "me:1", A: "a.example:1"})
    said(
        peers,
        A,
        12,
        "a.example:1",
        connected=True,
        addresses={ME: "x:1", A: "x:1", B: "b.told:1", C: "c.told:1"},
    )
    assert peers.addresses() == {A: "a.example:1", B: "b.told:1"}, "C is no member"
    peers.set_members({A: place(12), C: place(14)})
    assert peers.addresses() == {A: "a.example:1"}
    said(peers, A, 12, "a.example:1", connected=True, addresses={C: "c.told:1"})
    assert peers.addresses() == {A: "a.example:1", C: "c.told:1"}
    said(peers, A, 99, "a.liar:1", addresses={C: "c.lie:1"})
    assert peers.addresses()[C] == "c.told:1", "only a member in its seat is believed"
    assert peers.hints() == {A: "a.example:1", C: "c.told:1"}
    many = Peers(ME, {node: f"n{node}:1" for node in range(2, 100)})
    assert len(many.hints()) == ADDRESSES_MAX


def test_guests_are_few_and_forgotten() -> None:
    peers = founded()
    for node in range(100, 100 + GUESTS_MAX):
        assert peers.admit(hello(node, node, f"guest{node}:1"), 0.0)
    assert not peers.admit(hello(99, 99, "late:1"), 0.0)
    assert peers.addresses()[100] == "guest100:1"
    assert 100 not in peers.addresses_of_members()
    peers.greeted(hello(100, 100, "moved:1"), GUEST_S / 2, connected=True)
    assert peers.addresses()[100] == "moved:1"
    peers.guests[101].heard_at = GUEST_S / 2
    gone = peers.look(GUEST_S, {})
    assert len(gone) == GUESTS_MAX - 2
    assert set(peers.guests) == {100, 101}
    assert peers.admit(hello(99, 99, "late:1"), GUEST_S)


def test_a_guest_becomes_a_member_and_a_member_a_stranger() -> None:
    peers = founded()
    peers.admit(hello(C, 14, "c.example:1"), 0.0)
    peers.set_members({ME: place(11), A: place(12), C: place(14)})
    assert (peers.members, peers.guests) == ({A, B, C}, {})
    assert peers.addresses()[C] == "c.example:1"
    assert peers.look(10 * GUEST_S, {}) == []
    peers.set_members({ME: place(11), A: place(12)})
    assert peers.members == {A, B}
    assert C not in peers.addresses()
    peers.set_members({ME: place(11), A: place(12), C: place(14)})
    assert C not in peers.addresses(), "what it once said is forgotten"
