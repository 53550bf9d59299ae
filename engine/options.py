"""Every option of a node: one declaration that gives defaults, units, types and docs.

`Options(...)` in code and `Options.from_yaml(path)` have the same fields. `engine/config.py` turns
YAML into these and explains what is wrong with it; `Options.validate` is the one place that knows
which combinations make sense.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from paxmux.engine.address import Member, parse_member


class MachineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One state machine class and the groups that have an instance of it."""

    class_: str = msgspec.field(name="class")
    """Importable in the workers: `package.module:Class`."""
    groups: str = "all"
    """`all`, or indices and ranges: `0-9,20`."""
    args: dict[str, Any] = {}
    """Keyword arguments for the constructor, after `group`."""


class LayoutOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which worker hosts which group."""

    workers: int | Literal["auto"] = "auto"
    """Number of worker processes; `auto`: one per CPU that this process may use, at most one per group."""
    strategy: Literal["spread", "range", "explicit"] = "spread"
    """`spread`: group g on worker g mod W. `range`: equal runs of neighbours. `explicit`: as in `groups`."""
    groups: dict[int, str] = {}
    """Only for `explicit`: worker -> its groups (`0-49,99`). Each group on exactly one worker."""
    pin: dict[int, list[int]] = {}
    """Worker -> CPUs that it is bound to. Workers not named here float."""


class NetworkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The wire."""

    plugin: str = "paxmux.plugins.network.udp_tcp:UdpTcp"
    udp_max_bytes: int = 4096
    """Frames larger than this go by TCP. 0: everything by TCP. At most 65,000."""
    queue_max_bytes: int = 64 * 1024 * 1024
    """TCP send queue of one peer; frames beyond it are dropped."""
    reconnect_first_ms: int = 50
    reconnect_max_ms: int = 2000
    secret_file: str | None = None
    """File with the secret of the cluster, the same at each member, for this user alone (0600): who does not
    know it is not heard. `paxmux secret new FILE` makes one. It is read again when it changes."""
    insecure: bool = False
    """Serve beyond this machine without a secret: whoever reaches the port can take part in the cluster."""


class TimerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Timers of the protocol, in milliseconds. Resends, phases, pauses and leftovers double, up to
    `phase_max_ms`, while nothing moves."""

    resend_first_ms: int = 100
    """An unanswered Prepare or Accept is sent again to whoever has not answered."""
    prepare_first_ms: int = 2000
    """Give up a Prepare and start a higher ballot; not before twice the time that the last rounds took."""
    accept_first_ms: int = 1000
    """Give up an Accept and start a higher ballot, likewise."""
    phase_max_ms: int = 8000
    backoff_min_ms: int = 10
    """After a ballot is lost the next one starts within a random time of min..max, doubled with each loss."""
    backoff_max_ms: int = 40
    ask_ms: int = 2500
    """Each group tells a peer where it stands at this interval, plus at random up to two fifths."""
    ask_retry_ms: int = 200
    """A question for decided values is repeated, to another peer, after this time."""
    notice_ms: int = 2
    """How long the notice of a decision may wait for the next Accept to travel with; 0: not at all. The
    proposer has its answer already; the others execute that much later."""
    leftover_ms: int = 500
    """An accepted value not known to be decided for so long makes its acceptor ask, then complete it."""


class ProposalOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens to a proposal until it is decided."""

    forward: bool = True
    """A node that does not hold a group's ballot hands its proposals to the one that does, instead of
    outbidding it. The result still comes from the node's own execution."""
    forward_ms: int = 200
    """A proposal that was handed on and is not decided after so long is proposed by its own node. Doubles
    while that brings nothing."""
    batch_count: int = 512
    """`batch_propose`: so many values of a group do not wait for more."""
    batch_delay_ms: int = 0
    """How long the first of them waits for others; 0: only for those that are proposed at the same moment."""
    max_waiting: int = -1
    """How many proposals of a group may wait beside the one that is being decided; more are refused with 405.
    -1: no bound of its own. `Node.set_max_waiting` sets it for single groups."""
    wait_time_threshold_ms: int = 0
    """While proposals of a group take longer than this on average, a growing share of them is refused with
    405, up to 98 percent. 0: none is. `Node.set_wait_time_threshold` sets it for single groups."""
    attempts: int = 0
    """How many instances may go to another value before a proposal ends with a conflict (14); the
    reference has 3. 0: it is proposed again until its deadline. Needs `forward: false`."""


class MasterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which groups this node wants to be master of, and for how long at a time."""

    groups: str = "none"
    """`none`, `all`, or indices and ranges: `0-9,20`. Normally the same on every node."""
    lease_ms: int = 10_000
    """Who is master is so for that long, and renews it four times meanwhile: after the death of a master a
    new one comes about that much later. `Node.set_master_lease` sets it for single groups."""
    drift_ppm: int = 10_000
    """By how many millionths the clocks of two members may run at different rates. The master counts on its
    lease for that much less than the others wait for its end."""


class LimitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of queues and sizes."""

    max_value_bytes: int = 10_485_760
    """Largest value, result or query answer."""
    max_pending: int = 65_536
    """Requests of this node that have no answer yet; more are refused with 405."""
    max_pending_bytes: int = 256 * 1024 * 1024
    """Bytes of those requests."""
    queue_delay_ms: int = 30
    """Where ever more requests to a worker are under way, and they take longer than this on average (or three
    times what one takes that waits for no other, if that is longer), no more are let in than it does in this
    time. The others are refused at once (405), those of the busiest groups first. 0: they wait."""
    memory_percent: int = 97
    """With more than so many percent of the machine's memory in use, by whomever, requests are refused (405).
    100: they are not."""
    batch_max_count: int = 512
    """Values that one instance decides together."""
    batch_max_bytes: int = 1_048_576
    """Bytes of those values; a single larger one goes alone."""
    ring_bytes: int = 4 * 1024 * 1024
    """Each shared-memory ring; a power of two."""
    ring_backlog_bytes: int = 64 * 1024 * 1024
    """What waits in front of a full ring before the queue's policy applies."""
    catch_up_max_bytes: int = 1_048_576
    """Decided values in one answer to a node that lags."""


class StorageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The log."""

    plugin: str = "paxmux.plugins.storage.segment:SegmentLog"
    segment_bytes: int = 64 * 1024 * 1024
    keep_instances: int = 1_000_000
    """Decided instances that each group keeps for peers that lag, beyond what all of its state machines have
    stored durably (`applied_instance_id`). What a machine would have to execute again is always kept."""
    keep_for_members: bool = True
    """Keep as well what a member of the group has not got yet, however long it stays away."""
    keep_bytes: int = 0
    """With more than about so many bytes of values in a worker's log, its groups keep less than the two
    options above say. 0: no bound."""
    max_bytes: int = 0
    """A worker's log takes no more than so many bytes: before it would, proposals and votes are refused
    (405), as on a full disk. 0: no limit but the disk's."""
    clean_bytes_per_s: int = 256 * 1024 * 1024
    """Old segments are removed, and what is still needed of them is moved, at no more than this rate."""
    scrub_bytes_per_s: int = 1024 * 1024
    """Old segments are read again and again, at no more than this rate, and every byte of them is checked:
    what is found damaged is asked for from other members. 0: they are not."""
    sync: bool = True
    """What a turn appends is on the disk before anything that rests on it leaves. false gives that up: a
    power cut or a crash of the system can make this node forget what it promised and accepted, which can
    undo what the cluster acknowledged; the groups then never vote again in this seat. The death of a
    process alone loses nothing. `Node.set_log_sync` switches single groups."""
    sync_skip_count: int = 0
    """With `sync`: so many turns in a row may skip their sync. Above 0 the same is given up as by
    `sync: false`, only for less time."""
    sync_interval_ms: int = 1000
    """Where syncs are skipped: how long it takes at most, but for one turn, until what was skipped is
    synced after all."""


class WorkerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Supervision of workers."""

    restart_first_ms: int = 100
    """Back-off before a dead worker is started again; doubles up to the maximum."""
    restart_max_ms: int = 5000
    crash_budget: int = 10
    """Deaths within `crash_window_s` after which a worker stays down until the node restarts."""
    crash_window_s: int = 60
    hang_warn_ms: int = 5000
    """A worker whose loop has not turned for so long is named in a warning, with its phase."""
    hang_kill_ms: int = 15_000
    """A worker, or router process, that stands still for so long is killed and replaced. A state machine that
    was still busy with the same value then is stopped (15) in the successor. 0: never."""
    slow_warn_ms: int = 200
    """State machines that take longer than this in one turn are named in a warning and in the status.
    0: never."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a node needs to know."""

    node: str
    """This node's own `host:port`. The node id packs IPv4 and port unless `node_id` is given."""
    members: list[str]
    """`host:port` of all members, this node's included unless it joins or follows; an entry may be
    `id@host:port`. Seeds the first start only: afterwards the stored membership counts and a difference is
    reported."""
    data_dir: str
    node_id: int | None = None
    """Explicit 64-bit id; required where the host is no IPv4 literal."""
    groups: int = 1
    """Number of Paxos groups, 1 .. 1024. Fixed when the cluster is founded."""
    bootstrap: bool = False
    """Create the data directory if it is missing. Otherwise `paxmux init` must have made it."""
    join: bool = False
    """This node comes to a cluster that is founded already: it founds none, learns, and votes in a group once
    a membership operation has seated it there. Without effect once it belongs to the cluster."""
    follower: bool = False
    """This node never votes: it learns what is decided, and nothing more. It founds no cluster either."""
    follow: list[str] = []
    """Only for a follower: those of `members` that it learns from, as they stand there. Empty: all."""
    rejoin: Literal["manual", "auto"] = "manual"
    """What becomes of a member that has lost its data directory, and comes back with a new one under its old
    id. `manual`: it learns, until `paxmux member change` seats it anew. `auto`: it asks for that by itself,
    and members that are set to `auto` too do it, once the old directory is not heard any more."""
    router: Literal["inline", "process"] = "inline"
    """`inline`: in the embedding event loop. `process`: in a process of its own, for servers whose
    handlers block."""
    layout: LayoutOptions = LayoutOptions()
    state_machines: list[MachineOptions] = []
    network: NetworkOptions = NetworkOptions()
    timers: TimerOptions = TimerOptions()
    proposals: ProposalOptions = ProposalOptions()
    master: MasterOptions = MasterOptions()
    limits: LimitOptions = LimitOptions()
    storage: StorageOptions = StorageOptions()
    worker: WorkerOptions = WorkerOptions()

    @classmethod
    def from_yaml(cls, path: str | Path) -> Options:
        """Read and check a YAML file. A relative `data_dir` or `network.secret_file` is relative to the
        folder of the file.

        Raises:
            ConfigError: a line for each problem; it names file, line, key and what was expected.
        """
        from paxmux.engine.config import load

        return load(Path(path))

    def validate(self) -> None:
        """Check options made in code by the rules that a file must keep. `Node` calls it.

        Raises:
            ConfigError: a line for each problem; it names the key and what was expected.
        """
        from paxmux.engine.config import validate

        validate(self)

    def own_member(self) -> Member:
        """This node's id and address; ConfigError if `node` is no address."""
        return parse_member(self.node, self.node_id)

    @property
    def founds(self) -> bool:
        """Whether this node may be one of those that found the cluster."""
        return not (self.join or self.follower)

    def seed_members(self) -> tuple[Member, ...]:
        """Ids and addresses of all members, in the order of the options; ConfigError as above."""
        return tuple(parse_member(text) for text in self.members)
