"""Deliberate mistakes, one at a time: each must be found, or a check is missing.

A mutation rewrites one place of a function's source and puts the result in the function's place. It is
found if the simulator fails with one of the first seeds, or the test that it names. The code as it is
passes the same seeds and tests.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.learner import Learner
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.quorum import Members
from paxmux.shards.applier import Applier
from paxmux.shards.serving import Serving
from paxmux.shards.turn import Turn
from paxmux.tools.sim.campaign import Failure, judge
from paxmux.tools.sim.plan import Asked
from tests import test_protocol_rules, test_sim_fairness, test_turn

pytestmark = pytest.mark.slow

SEEDS = 60
"""Each mutation is found within so many seeds, from 1; most are within ten."""
Check = Callable[[], object]


class Mutation(NamedTuple):
    """One mistake: in which function, which text becomes which."""

    name: str
    owner: Any
    function: str
    old: str
    new: str
    check: Check | None = None
    """A test that finds it, where no seed brings about what it takes."""


def rewrite(patch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    """Put the mistake in."""
    function = inspect.getattr_static(mutation.owner, mutation.function)
    original = function.fget if isinstance(function, property) else function
    source = textwrap.dedent(inspect.getsource(original)).removeprefix("@property\n")
    assert source.count(mutation.old) == 1, f"{mutation.function} has no single {mutation.old!r}"
    made: dict[str, Any] = {}
    mutated = compile(source.replace(mutation.old, mutation.new), f"<{mutation.name}>", "exec")
    exec(mutated, original.__globals__, made)
    result = made[mutation.function]
    patch.setattr(mutation.owner, mutation.function, property(result) if function is not original else result)


def found(mutation: Mutation) -> int | None:
    """The first seed that finds it; None if none does."""
    if mutation.check is not None:
        return 0 if fails(mutation.check) else None
    seeds = range(1, SEEDS + 1)
    return next((seed for seed in seeds if isinstance(judge(seed, Asked()), Failure)), None)


def fails(check: Check) -> bool:
    """Any exception is a find: a mistake may also make the code trip over itself."""
    try:
        check()
    except Exception:  # noqa: BLE001 - see above
        return True
    return False


MUTATIONS = (
    # The acceptor
    Mutation("accepts below its promise", Acceptor, "accept", "if ballot < self.promised:", "if False:"),
    Mutation(
        "promises below its promise",
        Acceptor,
        "promise",
        "elif ballot < self.promised:",
        "elif False:",
        check=test_protocol_rules.test_rule_2_a_prepare_below_the_promise_is_told_so,
    ),
    Mutation("a promise is not recorded", Acceptor, "promise", "fx.records.append", "(lambda record: None)"),
    Mutation("an accept is not recorded", Acceptor, "accept", "fx.records.append", "(lambda record: None)"),
    Mutation("an accept is no promise", Acceptor, "accept", "self.promised = self.accepted", "self.accepted"),
    Mutation(
        "the promise ends with its instance", Acceptor, "advance", 'self.value = b""', "self.promised = NULL"
    ),
    Mutation(
        "two values under one ballot",
        Acceptor,
        "accept",
        "NULL if value == self.value else ballot",
        "NULL",
        check=test_protocol_rules.test_rule_3_one_value_for_an_instance_and_ballot_at_the_acceptor,
    ),
    # The proposer
    Mutation(
        "the own vote counts before its sync",
        Proposer,
        "_accept",
        "self._start_round(g.timers.accept_first, now, fx)",
        "self._start_round(g.timers.accept_first, now, fx); self.on_synced(now, fx)",
    ),
    Mutation(
        "Accept before the own promise is synced",
        Proposer,
        "_promised",
        "or self.own_vote_due",
        "",
        check=test_protocol_rules.test_rule_1_no_accept_before_the_own_promise_is_synced,
    ),
    Mutation("what others accepted is ignored", Proposer, "_promised", "if self.best != NULL:", "if False:"),
    Mutation(
        "any accepted value is adopted",
        Proposer,
        "_promised",
        "if accepted > self.best:",
        "if accepted != NULL:",
        check=test_protocol_rules.test_the_value_of_the_highest_accepted_ballot_is_adopted,
    ),
    Mutation(
        "the lowest ballot is adopted",
        Proposer,
        "_promised",
        "if accepted > self.best:",
        "if accepted != NULL and (self.best == NULL or accepted < self.best):",
    ),
    Mutation("half is a majority", Members, "__init__", "// 2 + 1", "// 2 or 1"),
    Mutation("promises of another round count", Proposer, "on_prepare_reply", "and round == self.round", ""),
    Mutation(
        "promises of another instance count",
        Proposer,
        "on_prepare_reply",
        "and instance == self.g.instance",
        "",
        check=test_protocol_rules.test_votes_count_once_for_each_voter_instance_and_ballot,
    ),
    Mutation(
        "votes of another round count",
        Proposer,
        "on_accept_reply",
        "and round == self.round",
        "",
        check=test_protocol_rules.test_accepts_of_another_round_or_instance_are_no_votes,
    ),
    Mutation(
        "votes of another instance count", Proposer, "on_accept_reply", "and instance == self.g.instance", ""
    ),
    Mutation("rejections are votes", Proposer, "on_accept_reply", "if rejected_by != NULL:", "if False:"),
    Mutation(
        "a round is used again after a restart",
        Proposer,
        "_prepare",
        "max(self.round, self.seen[0], g.acceptor.promised[0]) + 1",
        "self.round + 1",
    ),
    Mutation(
        "Prepare leaves before the promise is synced", Proposer, "_prepare", "fx.after.all", "fx.now.all"
    ),
    Mutation(
        "the ballot outlives a foreign decision", Proposer, "advance", "self.held and own_ballot", "self.held"
    ),
    Mutation(
        "a ballot is held without a promise",
        Proposer,
        "open",
        "self.held and g.acceptor.promised == (self.round, g.me)",
        "self.round",
    ),
    Mutation(
        "a resend has another value",
        Proposer,
        "_resend",
        "self.round, self.value)",
        "self.round, g.take_batch(0, fx))",
    ),
    Mutation("pauses do not grow", Proposer, "lose", "self.losses += 1", "pass"),
    Mutation(
        "each foreign decision renews the pause",
        Proposer,
        "advance",
        "elif not bidding and not self.backoff_until:",
        "else:",
        check=lambda: test_sim_fairness.test_a_busy_peer_starves_nobody(1, forward=False),
    ),
    Mutation(
        "nothing is sent twice",
        Proposer,
        "_resend",
        "continue",
        "return",
        check=test_protocol_rules.test_rule_3_a_resend_repeats_the_very_value,
    ),
    Mutation(
        "a value without bytes is none",
        Proposer,
        "_promised",
        "if self.best != NULL:",
        "if values.decode(self.best_value):",
        check=test_protocol_rules.test_a_value_without_entries_is_adopted_like_any_other,
    ),
    Mutation(
        "a claim too high is forgotten",
        Proposer,
        "leaps",
        "self.seen = (limit, 0)",
        "pass",
        check=lambda: test_protocol_rules.test_rule_15_a_node_that_missed_great_leaps_catches_up(1),
    ),
    # Group and learner
    Mutation(
        "Prepare is answered for any instance",
        Group,
        "on_prepare",
        "if instance != self.instance:",
        "if False:",
    ),
    Mutation(
        "Accept is answered for any instance",
        Group,
        "on_accept",
        "if instance != self.instance:",
        "if False:",
        # In the simulator the chain keeps such a value out.
        check=test_protocol_rules.test_rule_5_votes_only_at_the_current_instance,
    ),
    Mutation("promises leave before their sync", Group, "on_prepare", "fx.after.peer", "fx.now.peer"),
    Mutation("votes leave before their sync", Group, "on_accept", "fx.after.peer", "fx.now.peer"),
    Mutation(
        "a notice counts for any ballot",
        Group,
        "on_chosen",
        "and self.acceptor.accepted == (round, sender)",
        "and self.acceptor.value",
    ),
    Mutation(
        "a notice counts for any instance",
        Group,
        "on_chosen",
        "instance == self.instance and",
        "",
        check=test_protocol_rules.test_rule_6_a_notice_of_the_next_instance_is_no_proof_for_this_one,
    ),
    Mutation("a wiped node votes", Group, "__init__", "members.seated(me, seat)", "me in members.seats"),
    Mutation(
        "own proposals are proposed for ever",
        Group,
        "decide",
        "self.own.pop(entry[2], None)",
        "self.own.get(entry[2])",
    ),
    Mutation(
        "the own is known by its bytes",
        Group,
        "decide",
        "if entry[0] == me and entry[1] == incarnation:",
        "if True:",
    ),
    Mutation(
        "only the oldest proposal expires",
        Group,
        "expire",
        "for seq, proposal in self.own.items()",
        "for seq, proposal in list(self.own.items())[:1]",
    ),
    Mutation(
        "an early message is never handled",
        Group,
        "decide",
        "or self.early_prepare or self.early_accept",
        "",
        check=test_protocol_rules.test_rule_5_an_early_message_is_handled_when_its_instance_begins,
    ),
    Mutation(
        "what is learned is not recorded", Learner, "on_learned", "fx.records.append", "(lambda record: None)"
    ),
    Mutation(
        "any decided value is for this instance",
        Learner,
        "on_learned",
        "if instance != g.instance or",
        "if",
        # In the simulator the chain keeps such a value out.
        check=test_protocol_rules.test_a_decided_value_of_another_instance_changes_nothing,
    ),
    Mutation(
        "leftovers stay",
        Learner,
        "_leftover",
        "if not ask_only and g.acceptor.accepted != NULL:",
        "if False:",
    ),
    Mutation(
        "the same peer is asked again",
        Learner,
        "ask",
        "if peer == self.asked_peer",
        "if False",
        check=test_protocol_rules.test_a_question_left_unanswered_goes_to_another_peer_next,
    ),
    # The turn
    Mutation("nothing is synced", Turn, "persist", "self.log.sync()", "pass"),
    Mutation(
        "replies leave with the first messages",
        Turn,
        "send_now",
        "if fx.now:",
        "self.outlet.send(fx.after)\n    if fx.now:",
    ),
    Mutation(
        "each of two rounds in a turn counts",
        Turn,
        "finish",
        "dict.fromkeys(done.synced)",
        "done.synced",
        check=test_turn.test_an_own_vote_counts_once_where_two_rounds_share_a_sync,
    ),
    Mutation(
        "what the own vote decides is lost",
        Turn,
        "finish",
        "done.decided + fx.decided if fx.decided else done.decided",
        "done.decided",
    ),
    Mutation(
        "lagging peers get what is open",
        Serving,
        "_serve",
        "group.instance - stream.next,",
        "group.instance + 1 - stream.next,",
    ),
    Mutation(
        "the mark is one too high",
        Turn,
        "_mark",
        "self.groups[index].instance - 1",
        "self.groups[index].instance",
    ),
    Mutation("a full disk makes it spin", Turn, "_refuse", "if now >= self.mark_at:", "if False:"),
    Mutation(
        "a full disk drops proposals",
        Turn,
        "_refuse",
        "self._fail(proposal[0], Code.OVERLOADED, reason)",
        "pass",
    ),
    Mutation("a replay is never begun", Turn, "start", "if applied < group.instance:", "if False:"),
    Mutation(
        "a closing turn keeps silent",
        Turn,
        "close",
        "self._fail(seq",
        "(lambda *words: None)(seq",
        check=test_turn.test_a_closing_turn_answers_whoever_still_waits,
    ),
    Mutation(
        "it sleeps over an answer",
        Turn,
        "busy",
        "or self.fx.after",
        "",
        check=test_turn.test_a_reply_never_waits_for_the_next_message,
    ),
    # The applier
    Mutation(
        "a replay forgets who waits",
        Applier,
        "replay",
        "self._owned.pop(instance, None)",
        "None",
        check=test_turn.test_a_proposal_decided_during_a_replay_is_answered_once_it_is_executed,
    ),
    Mutation(
        "a replay executes one too many",
        Applier,
        "replay",
        "self.next = instance + 1",
        "self.next = max(self.next, instance)",
    ),
    Mutation("it executes out of order", Applier, "apply", "if instance <= self.next:", "if True:"),
    Mutation("a restart executes all again", Applier, "__init__", "_first_instance(machine)", "0"),
    Mutation(
        "commit comes before the values",
        Applier,
        "_execute",
        "touched.add(smid)",
        "touched.add(smid); machine.commit(instance)",
    ),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "_"))
def test_a_mistake_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(monkeypatch, mutation)
    assert found(mutation) is not None, "no check finds it"


@pytest.mark.parametrize("first", range(1, SEEDS + 1, 15))
def test_the_simulator_finds_nothing_in_the_code_as_it_is(first: int) -> None:
    for seed in range(first, first + 15):
        assert not isinstance(judge(seed, Asked()), Failure)


def test_the_named_tests_find_nothing_in_the_code_as_it_is() -> None:
    checks = [mutation.check for mutation in MUTATIONS if mutation.check is not None]
    assert len(checks) >= 10
    for check in checks:
        check()
