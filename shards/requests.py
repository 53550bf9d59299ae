"""What node and worker say to each other through the client rings.

Each ring record is one msgpack document: a `Batch` of requests towards the worker, a `Replies`
batch back. Both are made once per turn, so the cost of a frame is shared by what it carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import msgspec

from paxmux.engine.frame import MAX_BODY_BYTES
from paxmux.shards.msgpack_pieces import PIECE_BYTES, array_head, piece_head

Proposal = tuple[int, int, int, int, bytes, bytes | None]
"""(seq, group, deadline_ns, smid, value, context); the deadline is on `engine.clock`."""


class CallKind(IntEnum):
    """Requests that are no proposals."""

    QUERY = 1
    """Local read: argument is the state machine id, payload the request."""
    NOW_INSTANCE = 2
    """First instance that is not decided; the answer stands in `instance_id`."""
    INSTANCE_VALUE = 3
    """Argument is an instance; the answer is msgpack of list[(value, smid)], in execution order."""
    GROUP_STATUS = 4
    """Group is ignored; the answer is JSON about every group of the worker."""
    LINEARIZABLE_QUERY = 5
    """As `QUERY`, but of a state that has in it everything acknowledged anywhere before the call."""
    SET_CLEANING = 6
    """Argument is 1 or 0: whether the worker forgets, and makes room; group and payload are ignored."""
    SET_LOG_SYNC = 7
    """Argument 1: sync the turns that the group has records in; 0: do not wait for the disk."""
    MASTER_QUERY = 12
    """As `QUERY`, of the group's master; refused by any other node."""
    MASTER = 13
    """In which term this node is master: the answer's `instance_id`. It comes once all below is executed
    here; refused as above."""
    DROP_MASTER = 14
    """Give the lease back; argument is the node that is to be the next master, or 0; refused as above. The
    answer comes before that is decided: this node does not count on its lease from there on."""
    SET_MASTER_LEASE = 15
    """Leases of the group have another length from the next one on, argument in ms; also where the group is
    not hosted."""
    LET_GO = 8
    """Orders, which have no answer; argument is the number of the move. This one: take no part in the group
    from now on, and hand it over. Nothing that concerns the group follows in the ring."""
    TAKE_UP = 9
    """Host the group: one that arrived, or one that was let go and has to stay."""
    MEMBERS = 10
    """The answer is a `membership.Membership` of the group, as it is known here."""
    CHANGE_MEMBERS = 11
    """Payload is a `membership.Membership`: the new members, if those it names by their version are the last
    ones. The answer's `instance_id` is the one that decided it."""


ORDERS = frozenset({CallKind.LET_GO, CallKind.TAKE_UP})
OF_NO_GROUP = frozenset({CallKind.GROUP_STATUS, CallKind.SET_CLEANING, CallKind.SET_MASTER_LEASE})
"""About the whole worker, which need not host the group that they name, if any."""

Call = tuple[int, int, int, int, int, bytes]
"""(seq, kind, group, deadline_ns, argument, payload); the deadline as in a proposal."""


class Batch(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Node to worker."""

    proposals: list[Proposal] = []
    calls: list[Call] = []


Reply = tuple[int, int, int, int, bytes | None]
"""(seq, code, instance_id, batch_index, result); for an error the result is its message in UTF-8. With
`Code.NOT_MASTER` the master's node id, or 0, and its version + 1 stand in the place of instance and index."""


class Replies(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Worker to node. Never dropped: what does not fit the ring waits in the worker."""

    replies: list[Reply] = []


encode = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
decode_replies = msgspec.msgpack.Decoder(Replies).decode

TOGETHER_MAX_BYTES = MAX_BODY_BYTES - (1 << 20)
"""A value, or a pack, and what goes with it to the worker: a ring takes no larger message."""


def encode_pieces(batch: Batch) -> list[bytes]:
    """A batch as `decode_batch` reads it, in pieces: each large value is one."""
    pieces: list[bytes] = []
    run = [array_head(2), array_head(len(batch.proposals))]
    for proposal in batch.proposals:
        seq, group, deadline_ns, smid, value, context = proposal
        size = len(value)
        if size < PIECE_BYTES:
            run.append(encode(proposal))
            continue
        run += (array_head(6), encode(seq), encode(group), encode(deadline_ns), encode(smid))
        run.append(piece_head(size))
        pieces += (b"".join(run), value)
        run = [encode(context)]
    return [*pieces, b"".join((*run, encode(batch.calls)))]


REPLIES_BYTES = 1 << 20
"""A message with more results is cut: a ring has a largest message, and results can be as large."""


def encode_replies(replies: list[Reply]) -> Iterator[bytes]:
    """Messages that carry `replies` in their order; each of at most about `REPLIES_BYTES`, or one reply."""
    data = encode(Replies(replies))
    if len(data) <= REPLIES_BYTES or len(replies) == 1:
        yield data
    else:
        middle = len(replies) // 2
        yield from encode_replies(replies[:middle])
        yield from encode_replies(replies[middle:])
