"""Mistakes that no seed of CI finds: the test that does, and why the simulator does not."""

from __future__ import annotations

from functools import partial

from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.forwarder import Forwarder
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.learner import Learner
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.reader import Reader
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.recovery import Recovery
from paxmux.plugins.storage.segmented import SegmentedLog
from paxmux.shards.intake import Intake
from paxmux.shards.serving import Stream
from paxmux.shards.turn import Turn
from tests import (
    test_forward_reigns,
    test_forwarding,
    test_inquiry,
    test_protocol_rules,
    test_reader,
    test_sim_fairness,
    test_storage_damage,
    test_storage_faults,
    test_storage_files,
    test_storage_index,
    test_turn,
)
from tests.mutation_harness import alone, tested

FOREIGN = test_inquiry.test_rule_16_a_message_from_another_history_is_dropped_and_asked_about

TESTED = (
    tested(
        "two values under one ballot", "I2",
        Acceptor, "accept", "NULL if value == self.value else ballot", "NULL",
        test_protocol_rules.test_rule_3_one_value_for_an_instance_and_ballot_at_the_acceptor,
        "No node that is not broken sends a second value under its ballot.",
    ),
    tested(
        "each of two rounds in a turn counts", "I6",
        Turn, "finish", "dict.fromkeys(done.synced)", "done.synced",
        test_turn.test_an_own_vote_counts_once_where_two_rounds_share_a_sync,
        "It takes a cluster of one whose phase times out in the very turn in which its promise is synced.",
    ),
    tested(
        "rejections are not heard", "I23",
        Proposer, "_rejected", "if round != self.round or", "if True or",
        test_protocol_rules.test_rejects_by_a_majority_end_the_round_and_back_off,
        "It only takes longer: the phase times out, and the next ballot is higher.",
    ),
    tested(
        "a ballot is held over a rejection", "I8",
        Proposer, "_rejected", "self.held = False", "pass",
        partial(
            test_protocol_rules.test_rule_3_a_lost_ballot_is_followed_by_a_full_prepare_above_everything_seen,
            test_protocol_rules.lose_by_late_report,
        ),
        "It costs a round: whoever rejected it rejects the next Accept as well.",
    ),
    tested(
        "each foreign decision renews the pause", "I23",
        Proposer, "advance", "elif not bidding and not self.backoff_until:", "else:",
        partial(test_sim_fairness.test_a_busy_peer_starves_nobody, 1, forward=False),
        "A plan has no load that is both steady and one node's alone.",
    ),
    tested(
        "a claim too high is forgotten", "I16",
        Proposer, "leaps", "self.seen = (limit, 0)", "pass",
        partial(test_protocol_rules.test_rule_15_a_node_that_missed_great_leaps_catches_up, 1),
        "No run makes 2^32 rounds.",
    ),
    tested(
        "any round is believed", "I16",
        Proposer, "leaps", "if round > limit:", "if False:",
        test_protocol_rules.test_rule_15_rounds_far_above_the_known_ones_are_dropped,
        "The nodes of a simulated cluster do not lie.",
    ),
    tested(
        "a forward may tell of anybody's proposals", "I17",
        Forwarder, "on_forward", "origin != sender or", "",
        partial(
            test_forwarding.test_rule_15_a_forward_in_which_anything_is_wrong_is_dropped_whole,
            [test_forwarding.entry(test_forwarding.C, 4)],
        ),
        "The nodes of a simulated cluster do not lie.",
    ),
    tested(
        "the same peer is asked again", "I24",
        Learner, "ask", "if peer == self.asked_peer", "if False",
        test_protocol_rules.test_a_question_left_unanswered_goes_to_another_peer_next,
        "It only takes longer: another peer's message brings the next question.",
    ),
    tested(
        "answers under other members count", "I21",
        Reader, "on_top_reply", "and since == round.members.since", "",
        test_reader.test_an_answer_under_other_members_is_none_and_makes_the_reader_ask_again,
        "The members of a simulated cluster do not change.",
    ),
    tested(
        "notices wait where somebody waits for them", "I23",
        Group, "decide", "fx.eager = fx.eager or (foreign and own_ballot)", "pass",
        test_forwarding.test_the_notice_does_not_wait_where_somebody_waits_for_it,
        "It only takes longer: a notice waits a few milliseconds.",
    ),
    tested(
        "whoever lost his seat is believed", "I12",
        Intake, "_body", "seats.get(sender) == seat:\n            group.on_prepare(",
        "seats:\n            group.on_prepare(",
        partial(test_turn.test_a_wrong_seat_may_ask_and_teach, 13),
        "Who has lost his seat sends nothing of the kind.",
    ),
    tested(
        "Accept before the own promise is synced", "I6",
        Proposer, "_promised", "or self.own_vote_due", "",
        test_protocol_rules.test_rule_1_no_accept_before_the_own_promise_is_synced,
        "The Prepare leaves after that sync, so no answer to it can be earlier.",
    ),
    tested(
        "promises of another instance count", "I3",
        Proposer, "on_prepare_reply", "and instance == self.g.instance", "",
        test_protocol_rules.test_votes_count_once_for_each_voter_instance_and_ballot,
        "Each Prepare has a round of its own, so the comparison of rounds sees it too.",
    ),
    tested(
        "nothing is sent twice", "I23",
        Proposer, "_resend", "continue", "return",
        test_protocol_rules.test_rule_3_a_resend_repeats_the_very_value,
        "It only takes longer: the phase times out, and the next ballot goes to everybody.",
    ),
    tested(
        "what is left over is not completed under a full Prepare", "I7 I23",
        Proposer, "complete", "self.held = False", "pass",
        test_reader.test_a_full_prepare_also_where_the_ballot_is_held,
        "It only takes longer: the ballot is lost sooner or later, and Prepare follows.",
    ),
    tested(
        "an early message is never handled", "I23",
        Group, "decide", "or self.early_prepare or self.early_accept", "",
        test_protocol_rules.test_rule_5_an_early_message_is_handled_when_its_instance_begins,
        "It only takes longer: the message is sent again.",
    ),
    tested(
        "a value of another history is learned", "I11",
        Learner, "on_learned", "if values.chain_in(value) != g.chain and g.chain:", "if False:",
        partial(FOREIGN, "learned"),
        "Logs serve what is chosen; where the receiver's memory is wrong, what it learns sets it right.",
    ),
    tested(
        "a value of another history is adopted", "I11",
        Proposer, "on_prepare_reply", "accepted != NULL and values.chain_in(value) != self.g.chain", "False",
        partial(FOREIGN, "promise"),
        "Nobody accepts it when it is proposed again: that line of defence is found by itself.",
    ),
    tested(
        "a forward is not taken, and nobody is told", "I23",
        Forwarder, "on_forward", "self.taken[sender] = fresh", "pass",
        test_forwarding.test_the_holder_proposes_what_it_is_handed_with_its_own,
        "It only takes longer: its origin bids when its patience ends.",
    ),
    tested(
        "what reads wait for is never completed", "I22",
        Reader, "on_timer", "if round.target() == self.g.instance:", "if False:",
        test_reader.test_a_leftover_is_completed_after_an_accept_timeout,
        "Whoever accepted a value completes it, too, unless he is down until the reads expire.",
    ),
    tested(
        "nobody asks for what a read waits for", "I22",
        Reader, "_again", "g.learner.ask(g.rng.choice(ahead), now, fx)", "pass",
        test_reader.test_a_late_notice_is_asked_for,
        "It only takes longer: the next message of whoever is ahead makes it ask.",
    ),
    tested(
        "bytes under way are never taken off", "I24",
        Stream, "acknowledge", "self.flight_bytes -= self.flight.popleft()[1]", "self.flight.popleft()",
        test_turn.test_the_window_is_one_of_bytes_too,
        "It only takes longer: the next question begins another stream.",
    ),
    tested(
        "a torn tail is not overwritten", "I13",
        Recovery, "_settle_end", "self._zero(segment, offset, rest.end)", "pass",
        alone(test_storage_faults.test_old_bytes_of_a_cut_tail_never_come_back),
        "Old bytes pass for a batch only where a new one ends at the very byte where they begin.",
    ),
    tested(
        "the index skips what it has not", "I13",
        Flusher, "_step", "finished = done == len(self._queue)", "finished = True",
        alone(test_storage_index.test_slices_are_bounded_and_a_round_ends),
        "No run has more to store at once than one slice holds.",
    ),
    tested(
        "a notice counts for any instance", "I9",
        Group, "on_chosen", "instance == self.instance and", "",
        test_protocol_rules.test_rule_6_a_notice_of_the_next_instance_is_no_proof_for_this_one,
        "It says the truth: who goes on under one ballot has decided the instance before under it.",
    ),
    tested(
        "a new segment forgets hard states", "I4 I13",
        SegmentedLog, "_opening", "self._reader)", "self._reader)[:1]",
        alone(test_storage_files.test_the_hard_state_is_in_the_newest_segment),
        "Few segments are removed: what the newest does not say an older one does.",
    ),
    tested(
        "a notice counts for any node's ballot of its round", "I9",
        Group, "on_chosen", "self.acceptor.accepted == (round, sender)", "self.acceptor.accepted[0] == round",
        test_protocol_rules.test_rule_6_a_notice_counts_only_for_the_very_ballot_accepted,
        "It takes two nodes with one round, and a notice to whoever accepted the other one's value.",
    ),
    tested(
        "rounds are numbered from the incarnation on", "I21",
        Reader, "__init__", "group.rng.getrandbits(64)", "group.incarnation",
        test_reader.test_answers_match_the_life_of_the_worker,
        "It takes an answer on its way while the worker dies, comes back and asks again.",
    ),
    tested(
        "forwards of one ahead are taken", "I18",
        Forwarder, "on_forward", "or born > g.instance or", "or",
        test_forwarding.test_rule_9_a_node_that_lags_behind_the_origin_takes_nothing,
        "Whoever leads notes what it learns on its way up as well.",
    ),
    tested(
        "what the index proves is forgotten", "I13",
        Recovery, "__init__", "max(index.proven, place.mark or 0, proven)", "0",
        alone(test_storage_damage.test_the_index_proves_more_than_it_covers),
        "It takes a bad bit in the very last batch, after the index was written and before a restart.",
    ),
    tested(
        "it sleeps over an answer", "I25",
        Turn, "busy", "or fx.after", "",
        test_turn.test_a_reply_never_waits_for_the_next_message,
        "It takes an early Prepare that is refused, in an instance that the own vote decided.",
    ),
    tested(
        "what it knew before another led still counts", "I18",
        Forwarder, "begin", "self.marks.clear()", "pass",
        partial(test_forward_reigns.test_rule_9_what_was_decided_while_another_led_is_not_taken, True),
        "It takes a forward that arrives after a whole reign of another node.",
    ),
    tested(
        "what was decided while another led counts as known", "I18",
        Forwarder, "begin", "self.known_from = self.g.instance", "pass",
        partial(test_forward_reigns.test_rule_9_what_was_decided_while_another_led_is_not_taken, False),
        "It takes a forward that arrives after a whole reign of another node.",
    ),
    tested(
        "pauses do not grow", "I23",
        Proposer, "lose", "self.losses += 1", "pass",
        test_protocol_rules.test_each_loss_doubles_the_pause_and_each_decision_takes_one_back,
        "Seed 1 does (nobody spins), but takes the better part of a minute for it.",
    ),
)  # fmt: skip
