"""Mistakes in the order of a turn, in what it serves, and in the log under it."""

from __future__ import annotations

from paxmux.engine import frame
from paxmux.plugins.storage import record
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.recovery import Recovery
from paxmux.plugins.storage.segmented import SegmentedLog
from paxmux.shards.backlog import Backlog
from paxmux.shards.retention import Retention
from paxmux.shards.serving import Serving
from paxmux.shards.turn import Turn
from tests.mutation_harness import Change, both, one

TURN = (
    one("nothing is synced", "I6", Turn, "persist", "self.log.sync()", "pass"),
    one(
        "replies leave with the first messages", "I6",
        Turn, "send_now", "if fx.now:", "self.outlet.send(fx.after)\n    if fx.now:",
    ),
    one(
        "what is decided is executed before the sync", "I6",
        Turn, "step", "self._hold_notices(fx.now, now, fx.decided, urgent=fx.eager)",
        "self._hold_notices(fx.now, now, fx.decided, urgent=fx.eager); "
        "self._apply(fx.decided, now); fx.decided = []",
    ),
    one(
        "a failed sync passes for a good one", "I6 I13",
        Turn, "persist", "self.log.sync()",
        "try:\n            self.log.sync()\n        except Exception:\n            pass",
    ),
    one("marks are written for ever", "I25", Turn, "_marks", "self.mark_at = NEVER", "self.mark_at = 0"),
    one(
        "what the own vote decides is lost", "I19",
        Turn, "finish", "done.decided + fx.decided if fx.decided else done.decided", "done.decided",
    ),
    one(
        "the mark is one too high", "I9",
        Retention, "marks", "end - 1", "end",
    ),
    one("a full disk makes it spin", "I25", Turn, "_refuse", "if now >= self.mark_at:", "if False:"),
    one(
        "a full disk drops proposals", "I22",
        Turn, "_refuse", "self._fail(proposal[0], Code.OVERLOADED, reason)", "pass",
    ),
    one("nobody is told that his deadline passed", "I22", Turn, "finish", "self._give_up(done)", "pass"),
    one("a replay is never begun", "I19", Backlog, "begin", "if applier.next < group.instance:", "if False:"),
    one("a closing turn keeps silent", "I22", Turn, "close", "self._fail(seq", "(lambda *words: None)(seq"),
    one("a frame is believed without its CRC", "I16", frame, "parse_route", "== crc\n", "> -1\n"),
)  # fmt: skip

SERVING = (
    one(
        "lagging peers get what is open", "I9",
        Serving, "_serve", "group.instance - stream.next,", "group.instance + 1 - stream.next,",
    ),
    one(
        "a stream leaves one out", "I24",
        Serving, "_serve", "stream.sent(stream.next + len(found), size)",
        "stream.sent(stream.next + len(found) + 1, size)",
    ),
    one("a window never moves", "I24", Serving, "take", "stream.acknowledge(first)", "pass"),
    one("nobody is served", "I24", Serving, "take", "self._waiting[key] = None", "pass"),
)  # fmt: skip

LOG = (
    one(
        "the log does not sync", "I13",
        SegmentedLog, "sync", "if self._synced == self._position:", "if True:",
    ),
    one("the CRC of a batch is not checked", "I13", record, "decode_header", "!= crc:", "== -1:"),
    one("the CRC of a record is not checked", "I13", record, "decode_records", "!= crc:", "== -1:"),
    both(
        "of a torn batch the good records stay", "I13",
        Change(
            record, "decode_records",
            "mixed ^ (at + here)) != crc:\n            return None",
            "mixed ^ (at + here)) != crc:\n            break",
        ),
        Change(record, "decode_records", "if here == limit else None", ""),
    ),
    one(
        "damage is taken for a torn tail", "I13",
        Recovery, "_behind_gap", "if limit < here or", "if True or",
    ),
    both(
        "proof behind the end is not looked for", "I13",
        Change(
            Recovery, "_limit",
            "limit = max(limit, self._rest(segment, offset).proven if segment is not None else 0)", "pass",
        ),
        Change(
            Recovery, "_limit",
            "max([limit, *[self._rest(each, HEADER_BYTES).proven for each in later]])", "limit",
        ),
    ),
    one(
        "what survived is not written again", "I13",
        Recovery, "_settle_end",
        "self._rewrite(segment, max(HEADER_BYTES, self._proven - position(number, 0)), offset)",
        "pass",
    ),
    one(
        "an accept is no promise after a restart", "I4 I5",
        GroupTable, "note", "if round_ > state.promised_round or (",
        "if kind < ACCEPT and round_ > state.promised_round or kind < ACCEPT and (",
    ),
    one(
        "what is learned is a promise after a restart", "I4",
        GroupTable, "note", "if kind <= ACCEPT:\n", "if kind <= LEARNED:\n",
    ),
    one(
        "a mark is a promise after a restart", "I10",
        GroupTable, "note", "if kind <= ACCEPT:\n", "if kind <= ACCEPT or kind == DECIDED:\n",
    ),
    one(
        "the first promise counts after a restart", "I4",
        GroupTable, "note", "round_ > state.promised_round or", "not state.promised_round or",
    ),
    one(
        "an accepted value is recovered into the next instance", "I9 I10",
        GroupTable, "note",
        "= instance + 1\n                state.accepted_round = state.accepted_node = state.accepted_at = 0",
        "= instance + 1",
    ),
    one(
        "a decided instance is open again after a restart", "I10",
        GroupTable, "note", "state.instance = instance + 1", "state.instance = instance",
    ),
    one(
        "what is accepted is forgotten by a restart", "I7",
        GroupTable, "note", "state.accepted_at = at", "state.accepted_at = 0",
    ),
    one(
        "the newest values are not in the index", "I13",
        Flusher, "_collect", "if state.number >= 0:", "if False:",
    ),
    one(
        "an index forgets hard states", "I4 I13",
        Flusher, "_step", "chunks, states, target,", "chunks, (), target,",
    ),
)  # fmt: skip
