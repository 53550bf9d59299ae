"""Mistakes in what becomes of damage: lost values, groups in doubt, and how both are cured."""

from __future__ import annotations

from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.doubt import Doubt
from paxmux.engine.paxos.group import Group
from paxmux.plugins.storage import opening
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.recovery import Recovery
from paxmux.plugins.storage.scrub import Scrub
from paxmux.shards import slice as building
from paxmux.shards.log_sync import LogSync
from paxmux.shards.repairs import Repairs
from tests import test_log_sync, test_repair, test_storage_scrub, test_suspect
from tests.mutation_harness import Change, alone, both, one, tested

DOUBT = (
    one(
        "a suspect group votes", "I27",
        Group, "__init__", "self.seated and not self.doubt.active", "self.seated",
    ),
    tested(
        "a majority clears a suspect", "I27",
        Doubt, "judge", "if len(self.answers) < len(g.peers) or",
        "if len(self.answers) + 1 < g.members.majority or",
        test_suspect.test_only_once_all_have_answered_it_promises_the_highest_and_votes,
        "Of a majority one has nearly always heard of the ballot that the lost promise was made for.",
    ),
    one(
        "a suspect is cleared without the others' promises", "I27",
        Acceptor, "clear", "self.promised = max(self.promised, highest)", "pass",
    ),
    tested(
        "a suspect is cleared where others have voted", "I27",
        Doubt, "judge", "if g.instance < self.free_of_all():", "if False:",
        test_suspect.test_it_votes_in_no_instance_that_others_have_voted_in,
        "It takes a lost vote that counted, and a vote in its place before anybody tells what was decided.",
    ),
    one(
        "a suspect vouches for another", "I27",
        Doubt, "on_ask", "if self.suspect is None and g.seated", "if g.seated",
    ),
    tested(
        "an answer to an earlier life counts", "I27",
        Doubt, "on_reply", "or nonce != self.nonce", "",
        test_suspect.test_answers_of_another_life_strangers_and_liars_are_none,
        "It takes two losses of one log, with a question between them whose answer is late.",
    ),
    tested(
        "what is vouched for is not synced", "I27",
        Doubt, "on_ask", "fx.after.peer", "fx.now.peer",
        test_suspect.test_what_is_told_is_durable_where_it_is_told,
        "More than is durable may be told without harm; it only takes longer then.",
    ),
    both(
        "a doubt is forgotten by a restart", "I27",
        Change(opening, "opening_records", "if table.doubt:", "if False:"),
        Change(Flusher, "_step", "table.oldest, table.doubt,", "table.oldest, False,"),
    ),
    one(
        "damage raises no doubt", "I13 I27",
        Recovery, "_lose", "self._doubt = self._doubt or words", "pass",
    ),
    tested(
        "what was not synced is taken for all that was said", "I27",
        LogSync, "begin", "if self.lost:", "if False:",
        alone(test_log_sync.test_the_others_cure_it_for_good),
        "Every simulated turn is synced.",
    ),
    one(
        "a lost accept is voted over", "I26",
        building.GroupMaker, "group", "state.instance + state.lost", "state.instance",
    ),
    tested(
        "an accept behind a lost value is forgotten", "I26",
        Doubt, "advance", "g.acceptor.accepted, g.acceptor.value = self.kept", "pass",
        test_repair.test_an_accept_behind_a_lost_value_is_put_back_when_the_group_gets_there,
        "A disk would have to lose the last decided value but one, and a peer to need the last one's accept.",
    ),
)  # fmt: skip

REPAIR = (
    one(
        "behind damage an old value passes for the decided one", "I26",
        GroupTable, "skip", "state.positions[state.instance & CHUNK_MASK] = 0", "pass",
    ),
    one(
        "nobody asks for what is lost", "I26",
        Repairs, "ask", "fx.now.peer(peer).mend_asks.append((index, first, count))", "pass",
    ),
    tested(
        "a lost value need not fit its neighbours", "I26",
        Repairs, "on_learned", "or not self._fits(index, instance, value)", "",
        test_repair.test_a_value_that_does_not_fit_its_neighbours_is_not_taken,
        "No peer sends another value than the decided one.",
    ),
    tested(
        "the scrub sees no damage", "I26",
        Scrub, "_read", 'self._bad(segment, bad, behind, "no good batch")', "pass",
        alone(test_storage_scrub.test_every_bad_value_is_found_and_told_of_once),
        "What it misses is found by whoever reads it.",
    ),
)  # fmt: skip
