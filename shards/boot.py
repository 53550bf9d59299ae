"""How a child process is told what to be, and what it says to its supervisor.

A child is started as a fresh interpreter with one inherited socket (SOCK_SEQPACKET), its control
socket; its number is the only argument. Messages on it are JSON documents of the types below; file
descriptors travel beside them (SCM_RIGHTS). Nothing is pickled. The socket's end of file is how a
child notices that its parent is gone.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from paxmux.engine.options import Options
from paxmux.engine.secret_file import Keys


class Founding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The membership that the cluster was founded with: the members of instance 0 of every group."""

    cluster: int
    """Cluster id: a hash of the members, their seats and the group count (64 bits)."""
    seats: dict[int, int]
    """Node id -> seat."""


class MemberPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the memberships of all groups together say about a node."""

    seats: list[int]
    """Seats in which it is a member of a group; several while some groups have changed and others not."""
    address: str
    """`host:port` that a membership operation gave it last; empty if none did."""


class StoppedMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state machine that a worker is not to execute."""

    group: int
    smid: int
    reason: str


class WorkerBoot(msgspec.Struct, tag="worker", forbid_unknown_fields=True, kw_only=True):
    """First message to a worker. Descriptors with it, in this order: counters memfd, client ring in
    (node to worker), client ring out, network ring in (router to worker), network ring out,
    own doorbell, node's doorbell, router's doorbell, lease board."""

    options: Options
    worker: int
    generation: int
    groups: list[int]
    node_id: int
    seat: int
    incarnation: int
    founding: Founding
    create_log: bool
    """The log may be missing: this node has not served yet."""
    cleaning: bool
    """Whether anything is forgotten, and room made from it, until the worker is told otherwise."""
    log_sync: dict[int, bool] = {}
    """What `Node.set_log_sync` last said of groups."""
    leases_ms: dict[int, int] = {}
    """What `Node.set_master_lease` last said of groups, of any worker."""
    stopped: list[StoppedMachine] = []
    """State machines in which earlier workers of this life of the node have hung."""
    cpus: list[int]
    peers: dict[int, str]
    """Node id -> `host:port` of the members, as far as they are known, until `SetPeers` says otherwise."""
    direct: str | None
    """Dotted path of the `engine.network.Direct` to send small frames by; None: all go through the router."""
    keys: list[Keys] = []
    """Of the cluster's secrets; none: nothing is authenticated."""
    sys_path: list[str]


class RouterBoot(msgspec.Struct, tag="router", forbid_unknown_fields=True, kw_only=True):
    """First message to a router process. Descriptors: counters memfd (names: `counters.ROUTER`), own
    doorbell."""

    options: Options
    node_id: int
    seat: int
    incarnation: int
    workers: int
    founding: Founding | None
    keys: list[Keys] = []
    """As for a worker."""
    sys_path: list[str]


class MoverBoot(msgspec.Struct, tag="mover", forbid_unknown_fields=True, kw_only=True):
    """First message to the process that moves groups between logs while no worker runs."""

    options: Options
    node_id: int
    seat: int
    founding: Founding
    hosts: list[int]
    """For each group the log that has it."""
    wanted: list[int]
    """For each group the log that is to have it."""
    logs_made: bool
    """Every log of `hosts` was made: one that is missing was lost."""
    sys_path: list[str]


class AttachWorker(msgspec.Struct, tag="attach", forbid_unknown_fields=True, kw_only=True):
    """To the router process: a worker (again) exists. Descriptors: network ring from the worker,
    network ring to the worker, the worker's doorbell."""

    worker: int
    generation: int
    groups: list[int]


class DetachWorker(msgspec.Struct, tag="detach", forbid_unknown_fields=True, kw_only=True):
    """To the router process: this worker is dead; until it is attached again its frames are dropped."""

    worker: int


class SetGroups(msgspec.Struct, tag="set_groups", forbid_unknown_fields=True, kw_only=True):
    """To the router process: this life of a worker hosts these groups from now on."""

    worker: int
    generation: int
    groups: list[int]


class HoldFrames(msgspec.Struct, tag="hold_frames", forbid_unknown_fields=True, kw_only=True):
    """To the router process: the group is between two workers; keep what comes for it."""

    group: int


class ReleaseFrames(msgspec.Struct, tag="release_frames", forbid_unknown_fields=True, kw_only=True):
    """To the router process: this worker has the group that frames are kept for."""

    worker: int


class SetMembers(msgspec.Struct, tag="set_members", forbid_unknown_fields=True, kw_only=True):
    """To the router process: who is a member of any group from now on, this node included if it is."""

    members: dict[int, MemberPlace]
    """By node id."""


class SetPeers(msgspec.Struct, tag="set_peers", forbid_unknown_fields=True, kw_only=True):
    """To a worker: where the members are from now on."""

    peers: dict[int, str]
    """Node id -> `host:port`."""


class SetKeys(msgspec.Struct, tag="set_keys", forbid_unknown_fields=True, kw_only=True):
    """To workers and the router process: the file of secrets has changed. The first one seals, all are
    accepted."""

    keys: list[Keys]


class MoveOut(msgspec.Struct, tag="move_out", forbid_unknown_fields=True, kw_only=True):
    """To the worker that has a group: send its values to another one. Descriptor: an end of a pair of
    stream sockets."""

    group: int
    move: int


class MoveIn(msgspec.Struct, tag="move_in", forbid_unknown_fields=True, kw_only=True):
    """To the worker that is to have the group: take its values in. Descriptor: the other end."""

    group: int
    move: int


class MoveEnd(msgspec.Struct, tag="move_end", forbid_unknown_fields=True, kw_only=True):
    """To either of them: nothing becomes of this move."""

    group: int
    move: int


class MoveDone(msgspec.Struct, tag="move_done", forbid_unknown_fields=True, kw_only=True):
    """To the worker that let the group go: the other one has it for good. It comes before whatever the next
    move says, since that comes through the same socket."""

    group: int


class MoveTold(msgspec.Struct, tag="move_told", forbid_unknown_fields=True, kw_only=True):
    """From a worker: how a move is going.

    `near`: the other worker may let go. `complete`: everything of the group is durable here. `hosted`: this
    worker takes part in the group. `broken`: nothing can become of this move. `ended`: the answer to
    `MoveEnd` of the worker that was to have the group: it has none of its machines open."""

    group: int
    move: int
    what: Literal["near", "complete", "hosted", "broken", "ended"]
    reason: str = ""


class MembersTold(msgspec.Struct, tag="members_told", forbid_unknown_fields=True, kw_only=True):
    """From a worker: who the members of some groups are that it hosts, as far as it knows."""

    members: dict[int, tuple[int, str]]
    """Node id -> (seat, address)."""
    versions: dict[int, int]
    """Of each of these groups, the version of its membership."""


class StatusAsk(msgspec.Struct, tag="status_ask", forbid_unknown_fields=True, kw_only=True):
    """To the router process: answer with a `StatusReply` of the same number."""

    ask: int


class Stop(msgspec.Struct, tag="stop", forbid_unknown_fields=True, kw_only=True):
    """To a child: stop cleanly within `drain_s` seconds."""

    drain_s: float


class Ready(msgspec.Struct, tag="ready", forbid_unknown_fields=True, kw_only=True):
    """From a child: it serves."""


class Founded(msgspec.Struct, tag="founded", forbid_unknown_fields=True, kw_only=True):
    """From the router process: the cluster's founding is durable at this node and known at all."""

    founding: Founding


class PeersTold(msgspec.Struct, tag="peers_told", forbid_unknown_fields=True, kw_only=True):
    """From the router process: where the members are dialled from now on."""

    peers: dict[int, str]
    """Node id -> `host:port`."""


class StatusReply(msgspec.Struct, tag="status_reply", forbid_unknown_fields=True, kw_only=True):
    """From the router process: what `Router.status` says."""

    ask: int
    status: dict[str, Any]


class Copied(msgspec.Struct, tag="copied", forbid_unknown_fields=True, kw_only=True):
    """From a mover: how far it is. The groups that are done have everything in their new logs, synced."""

    groups: int
    """To move."""
    groups_done: int
    values: int
    """Copied in this life of the process."""
    bytes: int
    """Of those values."""
    complete: bool
    """All groups are done, and all logs closed: the last word of a mover."""


class RingBroken(msgspec.Struct, tag="ring_broken", forbid_unknown_fields=True, kw_only=True):
    """From the router process: the network rings of this life of a worker make no sense; they were
    detached, and the worker must be replaced."""

    worker: int
    generation: int
    reason: str


class Failed(msgspec.Struct, tag="failed", forbid_unknown_fields=True, kw_only=True):
    """From a child, last word before a non-zero exit: why, in words for the operator."""

    reason: str
    kind: Literal["cannot_boot", "storage", "hung"]
    """`hung`: said for it by its supervisor."""


Boot = WorkerBoot | RouterBoot | MoverBoot
ToChild = (
    Boot
    | AttachWorker
    | DetachWorker
    | SetGroups
    | HoldFrames
    | ReleaseFrames
    | SetMembers
    | SetPeers
    | SetKeys
    | MoveOut
    | MoveIn
    | MoveEnd
    | MoveDone
    | StatusAsk
    | Stop
)
FromChild = Ready | Founded | PeersTold | Copied | RingBroken | StatusReply | MoveTold | MembersTold | Failed
