"""What every log must do: the tests of `paxmux.engine.storage.Log`, run over each implementation.

A subclass says how a log is opened, and what a crash does to it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import EMPTY_STATE, NULL_BALLOT, SYSTEM_MAX_BYTES, HardState, Log, Record
from tests.storage_model import (
    ACCEPT,
    CLEARED,
    DECIDED,
    FORGOTTEN,
    LEARNED,
    PROMISE,
    RELEASED,
    SUSPECT,
    SYSTEM,
    Model,
    feed,
    hard_states,
    workload,
)


class LogContract:
    """Subclasses implement the three methods that raise."""

    def open(self, path: Path, before: Log | None = None) -> Log:
        """A log at `path`, not recovered yet; `before` is the closed or crashed log that was there."""
        raise NotImplementedError

    def crash(self, log: Log) -> None:
        """Leave `log` as a power cut may leave it."""
        raise NotImplementedError

    def break_disk(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on each write and sync of `log` fails."""
        raise NotImplementedError

    def fresh(self, path: Path) -> Log:
        log = self.open(path / "log")
        assert log.recover() == {}
        return log

    def again(self, path: Path, log: Log, *, clean: bool) -> tuple[Log, dict[int, HardState]]:
        log.close(clean=clean)
        log = self.open(path / "log", log)
        return log, log.recover()

    @pytest.mark.parametrize("clean", [True, False])
    def test_what_was_synced_is_recovered(self, tmp_path: Path, clean: bool) -> None:
        """Weakness B18 of the reference."""
        log, model = self.fresh(tmp_path), Model()
        feed(log, [workload(1, i) for i in range(40)], model)
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == hard_states(model.records())
        model.check(log)
        log.close(clean=True)

    def test_a_crash_leaves_a_prefix_with_all_that_was_synced(self, tmp_path: Path) -> None:
        log, model = self.fresh(tmp_path), Model()
        for cycle in range(4):
            feed(log, [workload(2, cycle * 20 + i) for i in range(10)], model)
            feed(log, [workload(2, cycle * 20 + 10 + i) for i in range(10)], model, sync=False)
            self.crash(log)
            log = self.open(tmp_path / "log", log)
            model.survived(log, log.recover())
        log.close(clean=True)

    def test_what_was_recovered_survives_the_next_crash(self, tmp_path: Path) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [workload(3, i) for i in range(5)], model, sync=False)
        log, states = self.again(tmp_path, log, clean=False)
        kept = model.survived(log, states)
        self.crash(log)
        log = self.open(tmp_path / "log", log)
        assert model.survived(log, log.recover()) == kept
        log.close(clean=True)

    def test_what_was_flushed_outlives_the_process(self, tmp_path: Path) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [workload(6, i) for i in range(10)], model, sync=False)
        log.flush()
        log.flush()
        log, states = self.again(tmp_path, log, clean=False)
        assert states == hard_states(model.records())
        model.check(log)
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    def test_the_promise_never_goes_backwards(self, tmp_path: Path, clean: bool) -> None:
        log = self.fresh(tmp_path)
        log.append([(PROMISE, 0, 5, 9, 2, b""), (ACCEPT, 0, 5, 9, 2, b"mine")])
        log.append([(LEARNED, 0, 5, 3, 1, b"theirs"), (DECIDED, 0, 8, 0, 0, b"")])
        log.append([(PROMISE, 0, 9, 4, 7, b""), (ACCEPT, 0, 9, 8, 3, b"later")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == {0: HardState(9, (9, 2), (8, 3), b"later")}
        log.append([(LEARNED, 0, 9, 1, 1, b"chosen")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == {0: HardState(10, (9, 2), NULL_BALLOT, b"")}
        log.close(clean=True)

    def test_a_promise_alone_is_a_hard_state(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(PROMISE, 3, 0, 1, 2, b"")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states == {3: HardState(0, (1, 2), NULL_BALLOT, b"")}
        log.close(clean=True)

    def test_ballots_are_ordered_by_round_then_node(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(PROMISE, 0, 1, 5, 9, b""), (PROMISE, 0, 1, 6, 1, b""), (PROMISE, 0, 1, 5, 10, b"")])
        log.append([(PROMISE, 1, 1, 5, 9, b""), (PROMISE, 1, 1, 5, 10, b""), (PROMISE, 1, 1, 5, 2, b"")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert {group: state.promised for group, state in states.items()} == {0: (6, 1), 1: (5, 10)}
        log.close(clean=True)

    def test_a_decided_hint_moves_the_current_instance_and_keeps_the_value(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 0, 4, 1, 1, b"v"), (DECIDED, 0, 3, 0, 0, b"")])
        log.sync()
        assert log.read(0, 4) == (1, 1, b"v")
        log, states = self.again(tmp_path, log, clean=False)
        assert states == {0: HardState(4, (1, 1), (1, 1), b"v")}
        log.append([(DECIDED, 0, 4, 0, 0, b"")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states == {0: HardState(5, (1, 1), NULL_BALLOT, b"")}
        assert log.read(0, 4) == (1, 1, b"v")
        log.close(clean=True)

    @pytest.mark.parametrize("reopened", [False, True])
    def test_the_last_value_record_of_an_instance_counts(self, tmp_path: Path, reopened: bool) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 0, 7, 1, 1, b"first"), (ACCEPT, 1, 7, 1, 1, b"first")])
        log.append([(ACCEPT, 0, 7, 2, 2, b"second"), (ACCEPT, 0, 1000, 3, 2, b"far")])
        log.append([(LEARNED, 1, 7, 1, 3, b"learned"), (LEARNED, 1, 2, 1, 1, b"late")])
        log.sync()
        if reopened:
            log, _ = self.again(tmp_path, log, clean=True)
        assert log.read(0, 7) == (2, 2, b"second")
        assert log.read(0, 1000) == (3, 2, b"far")
        assert log.read(1, 7) == (1, 3, b"learned")
        assert log.read(1, 2) == (1, 1, b"late")
        log.append([(LEARNED, 0, 7, 9, 9, b"third")])
        assert log.read(0, 7) == (9, 9, b"third")
        log.close(clean=True)

    def test_what_is_not_there_is_none(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 0, 7, 1, 1, b"v"), (PROMISE, 0, 8, 2, 1, b""), (DECIDED, 0, 9, 0, 0, b"")])
        for group, instance in ((0, 0), (0, 6), (0, 8), (0, 9), (0, 10), (0, 10**9), (0, 2**63 - 1), (1, 7)):
            assert log.read(group, instance) is None
        log.close(clean=True)

    def test_unsynced_records_can_be_read(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 0, 0, 1, 1, b"v")])
        assert log.read(0, 0) == (1, 1, b"v")
        log.close(clean=False)

    def test_ranges_stop_at_gaps_counts_and_bytes(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 2, i, 1, 1, b"x" * 10) for i in range(300) if i != 250])
        log.sync()

        def instances(first: int, max_count: int, max_bytes: int) -> list[int]:
            return [found[0] for found in log.read_range(2, first, max_count, max_bytes)]

        assert instances(0, 1000, 10**6) == list(range(250))
        assert instances(250, 10, 10**6) == []
        assert instances(251, 1000, 10**6) == list(range(251, 300))
        assert instances(100, 3, 10**6) == [100, 101, 102]
        assert instances(0, 10, 35) == [0, 1, 2]
        assert instances(0, 10, 30) == [0, 1, 2]
        assert instances(0, 10, 1) == [0]
        assert instances(0, 0, 10**6) == []
        assert log.read_range(2, 251, 1, 10**6) == [(251, 1, 1, b"x" * 10)]
        assert log.read_range(9, 0, 10, 10**6) == []
        log.close(clean=True)

    def test_groups_are_independent_up_to_the_highest(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        groups = (0, 1, 255, 65_535)
        log.append([(ACCEPT, group, group, group + 1, 2**64 - 1, b"%d" % group) for group in groups])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        for group in groups:
            ballot = (group + 1, 2**64 - 1)
            assert states[group] == HardState(group, ballot, ballot, b"%d" % group)
        log.close(clean=True)

    def test_the_largest_numbers_are_kept(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        top, most = 2**63 - 1, 2**64 - 1
        log.append([(ACCEPT, 0, top, most, most, b"v"), (LEARNED, 1, top, most, most, b"w")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=True)
        assert states[0] == HardState(top, (most, most), (most, most), b"v")
        assert states[1] == HardState(top + 1, NULL_BALLOT, NULL_BALLOT, b"")
        assert log.read(1, top) == (most, most, b"w")
        log.close(clean=True)

    @pytest.mark.parametrize("kind", [0, 10, 64, 65, 255])
    def test_a_record_that_no_log_can_hold_is_refused_and_does_no_harm(
        self, tmp_path: Path, kind: int
    ) -> None:
        log = self.fresh(tmp_path)
        with pytest.raises(ValueError, match="cannot be stored"):
            log.append([(ACCEPT, 0, 0, 1, 1, b"v"), (kind, 0, 1, 1, 1, b"")])
        with pytest.raises(ValueError, match="cannot be stored"):
            log.append([(ACCEPT, 0, 0, 1, 1, b"v"), (ACCEPT, 0, 2**63, 1, 1, b"")])
        assert log.read(0, 0) is None
        log.append([(ACCEPT, 0, 3, 1, 1, b"v")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states == {0: HardState(3, (1, 1), (1, 1), b"v")}
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    def test_what_is_forgotten_is_not_there(self, tmp_path: Path, clean: bool) -> None:
        log, model = self.fresh(tmp_path), Model()
        batches = [[(ACCEPT, group, i, 1, 1, b"%d" % i) for group in (0, 1)] for i in range(300)]
        feed(log, [*batches, [(FORGOTTEN, 0, 280, 0, 0, b"")]], model)
        for reopened in (False, True):
            if reopened:
                log, states = self.again(tmp_path, log, clean=clean)
                assert states == hard_states(model.records())
            assert (log.first(0), log.first(1), log.first(2)) == (280, 0, 0)
            assert log.read(0, 279) is None
            assert log.read_range(0, 0, 10, 100) == log.read_range(0, 279, 10, 100) == []
            assert [found[0] for found in log.read_range(0, 280, 100, 1000)] == list(range(280, 300))
            assert log.read(1, 0) == (1, 1, b"0")
        # An older statement takes nothing back, and a value that comes late is forgotten at once.
        feed(log, [[(FORGOTTEN, 0, 5, 0, 0, b""), (LEARNED, 0, 7, 1, 1, b"late")]], model)
        assert log.first(0) == 280
        assert log.read(0, 7) is None
        log.close(clean=True)

    def test_forgetting_is_no_vote_and_moves_no_instance(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.append(
            [(FORGOTTEN, 4, 50, 0, 0, b""), (LEARNED, 4, 50, 1, 1, b"v"), (FORGOTTEN, 5, 9, 0, 0, b"")]
        )
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states[4] == HardState(51, NULL_BALLOT, NULL_BALLOT, b"")
        assert states.get(5, EMPTY_STATE) == EMPTY_STATE
        assert (log.first(4), log.first(5), log.read(4, 50)) == (50, 9, (1, 1, b"v"))
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    @pytest.mark.parametrize("stored", [True, False])
    def test_a_released_group_was_never_there(self, tmp_path: Path, clean: bool, stored: bool) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [[(ACCEPT, group, i, 3, 1, b"old") for group in (0, 1)] for i in range(400)], model)
        feed(log, [[(FORGOTTEN, 1, 390, 0, 0, b"")]], model)
        if stored:
            log, _ = self.again(tmp_path, log, clean=True)
        feed(log, [[(RELEASED, 1, 0, 0, 0, b""), (RELEASED, 9, 0, 0, 0, b"")]], model)
        assert (log.first(1), log.read(1, 395)) == (0, None)
        log, states = self.again(tmp_path, log, clean=clean)
        assert set(states) == {0}
        assert log.read(1, 395) is None
        # It may come back, with its history from another log.
        feed(log, [[(LEARNED, 1, i, 4, 2, b"new") for i in range(100, 402)]], model)
        feed(log, [[(PROMISE, 1, 402, 7, 2, b"")]], model)
        for _ in range(200):
            if log.housekeep() is None:
                break
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == hard_states(model.records())
        assert states[1] == HardState(402, (7, 2), NULL_BALLOT, b"")
        assert log.read(1, 99) is None
        assert [each[1:] for each in log.read_range(1, 100, 500, 10**6)] == [(4, 2, b"new")] * 302
        model.check(log)
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    @pytest.mark.parametrize("upkeep", [True, False])
    def test_a_group_is_suspect_until_it_is_cleared(self, tmp_path: Path, clean: bool, upkeep: bool) -> None:
        log = self.fresh(tmp_path)
        log.append([(ACCEPT, 1, 0, 3, 1, b"v")])
        log.append([(SUSPECT, group, 0, 0, 0, b"") for group in (1, 2, 3)])
        log.sync()
        for _ in range(2):
            for _ in range(20 * upkeep):
                log.housekeep()
            log, states = self.again(tmp_path, log, clean=clean)
            assert [states[group].suspect for group in (1, 2, 3)] == [True] * 3
            assert states[1][:4] == (0, (3, 1), (3, 1), b"v"), "it says nothing else"
            assert log.doubt() is None, "of no other group"
        log.append([(CLEARED, 1, 0, 9, 2, b""), (PROMISE, 2, 0, 4, 2, b""), (RELEASED, 3, 0, 0, 0, b"")])
        log.sync()
        for _ in range(20 * upkeep):
            log.housekeep()
        log, states = self.again(tmp_path, log, clean=clean)
        assert states[1] == HardState(0, (9, 2), (3, 1), b"v")
        assert states[2].suspect, "a promise is no end of it"
        assert 3 not in states
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    def test_the_last_state_of_inner_machines_counts(self, tmp_path: Path, clean: bool) -> None:
        log, model = self.fresh(tmp_path), Model()
        assert log.system(1) == (0, b"")
        batches: list[list[Record]] = [
            [(SYSTEM, 1, 9, 0, 0, b"high"), (ACCEPT, 1, 3, 2, 1, b"v"), (SYSTEM, 2, 5, 0, 0, b"alone")],
            [(SYSTEM, 1, 4, 0, 0, b"last"), (PROMISE, 3, 0, 1, 1, b"")],
        ]
        feed(log, batches, model)
        assert [log.system(group) for group in (1, 2, 3)] == [(4, b"last"), (5, b"alone"), (0, b"")]
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == hard_states(model.records())
        assert states[1] == HardState(3, (2, 1), (2, 1), b"v", system=b"last", system_from=4)
        assert states[2] == HardState(0, NULL_BALLOT, NULL_BALLOT, b"", system=b"alone", system_from=5)
        assert log.read(1, 9) is log.read(1, 4) is None, "it is no value"
        assert [log.system(group) for group in (1, 2, 3)] == [(4, b"last"), (5, b"alone"), (0, b"")]
        log.close(clean=True)

    def test_a_state_of_inner_machines_outlives_everything_but_a_release(self, tmp_path: Path) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [[(SYSTEM, group, 1, 0, 0, b"kept %d" % group) for group in (0, 1)]], model)
        log, _ = self.again(tmp_path, log, clean=True)
        feed(log, [[(ACCEPT, group, i, 1, 1, b"v") for group in (0, 1)] for i in range(300)], model)
        feed(log, [[(FORGOTTEN, 0, 299, 0, 0, b""), (RELEASED, 1, 0, 0, 0, b"")]], model)
        for _ in range(20):
            log.housekeep()
        assert (log.system(0), log.system(1)) == ((1, b"kept 0"), (0, b""))
        log, states = self.again(tmp_path, log, clean=False)
        assert states == hard_states(model.records())
        assert states[0].system == b"kept 0"
        # Another life of the group begins without it.
        feed(log, [[(PROMISE, 1, 7, 1, 1, b"")]], model)
        assert log.system(1) == (0, b"")
        log, states = self.again(tmp_path, log, clean=True)
        assert states == hard_states(model.records())
        assert states[1].system == b""
        back: list[Record] = [(SYSTEM, 1, 8, 0, 0, b"back"), (PROMISE, 1, 8, 2, 1, b"")]
        feed(log, [[(RELEASED, 1, 0, 0, 0, b""), *back]], model)
        log, states = self.again(tmp_path, log, clean=False)
        assert states == hard_states(model.records())
        assert log.system(1) == (8, b"back")
        log.close(clean=True)

    @pytest.mark.parametrize("clean", [True, False])
    def test_that_a_state_of_inner_machines_may_be_lost_is_remembered(
        self, tmp_path: Path, clean: bool
    ) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [[(SYSTEM, 1, 4, 0, 0, b"old"), (PROMISE, 1, 9, 2, 1, b"")]], model)
        feed(log, [[(SYSTEM, 1, 4, 1, 0, b"old")]], model)
        for _ in range(2):
            assert log.system(1) is None
            log, states = self.again(tmp_path, log, clean=clean)
            assert states == hard_states(model.records())
            assert states[1][4:] == (False, False, b"old", 4, True)
        feed(log, [[(CLEARED, 1, 9, 3, 1, b"")]], model)
        assert log.system(1) is None, "that promises are known says nothing of it"
        feed(log, [[(SYSTEM, 1, 9, 0, 0, b"new")]], model)
        assert log.system(1) == (9, b"new")
        log, states = self.again(tmp_path, log, clean=clean)
        assert states == hard_states(model.records())
        log.close(clean=True)

    def test_a_state_of_inner_machines_that_is_too_large_is_refused(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        most = bytes(SYSTEM_MAX_BYTES)
        with pytest.raises(ValueError, match="cannot be stored"):
            log.append([(ACCEPT, 0, 0, 1, 1, b"v"), (SYSTEM, 0, 1, 0, 0, most + b"x")])
        assert (log.read(0, 0), log.system(0)) == (None, (0, b""))
        log.append([(SYSTEM, 0, 1, 0, 0, most)])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states[0].system == most
        log.close(clean=True)

    def test_cleaning_can_be_stopped(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        log.set_cleaning(False)
        log.append([(ACCEPT, 0, 0, 1, 1, b"v")])
        log.sync()
        log.housekeep()
        log.set_cleaning(True)
        assert log.read(0, 0) == (1, 1, b"v")
        assert log.stats()["removed_segments"] == 0
        log.close(clean=True)

    def test_empty_and_large_values(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        large = bytes(range(256)) * 4096
        log.append([(ACCEPT, 0, 0, 1, 1, b""), (ACCEPT, 1, 0, 1, 1, large), (ACCEPT, 2, 0, 1, 1, b"z")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states[0] == HardState(0, (1, 1), (1, 1), b"")
        assert states[1].value == large
        assert log.read(1, 0) == (1, 1, large)
        assert log.read(2, 0) == (1, 1, b"z")
        log.close(clean=True)

    def test_counters(self, tmp_path: Path) -> None:
        log = self.fresh(tmp_path)
        before = log.stats()
        log.append([])
        log.sync()
        assert log.stats() == before
        log.append([(ACCEPT, 0, 0, 1, 1, b"v" * 100), (ACCEPT, 1, 0, 1, 1, b"v" * 100)])
        log.append([(ACCEPT, 0, 1, 1, 1, b"v" * 100)])
        log.sync()
        log.sync()
        after = log.stats()
        assert after["appends"] == before["appends"] + 2
        assert after["records"] == before["records"] + 3
        assert after["syncs"] == before["syncs"] + 1
        assert after["bytes_written"] >= before["bytes_written"] + 300
        log.close(clean=True)

    def test_housekeeping_comes_to_an_end(self, tmp_path: Path) -> None:
        log, model = self.fresh(tmp_path), Model()
        for i in range(300):
            feed(log, [workload(4, i)], model)
            pause = log.housekeep()
            assert pause is None or pause >= 0.0
        log, states = self.again(tmp_path, log, clean=True)
        assert states == hard_states(model.records())
        model.check(log)
        assert log.housekeep() is None
        log.close(clean=True)

    def test_the_first_failure_is_the_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log, model = self.fresh(tmp_path), Model()
        feed(log, [workload(5, i) for i in range(10)], model)
        assert log.healthy() is None
        with monkeypatch.context() as patched:
            self.break_disk(log, patched)
            with pytest.raises(StorageFailed):
                feed(log, [workload(5, 10)])
        # The disk is well again; the log must not be.
        for call in (
            lambda: log.append([(PROMISE, 0, 99, 99, 9, b"")]),
            log.sync,
            log.flush,
            lambda: log.read(0, 0),
            lambda: log.read_range(0, 0, 1, 1),
            log.housekeep,
        ):
            with pytest.raises(StorageFailed):
                call()
        assert log.healthy() is not None
        model.batches.append(workload(5, 10))
        log.close(clean=True)
        log = self.open(tmp_path / "log", log)
        model.survived(log, log.recover())
        log.close(clean=True)

    def test_nothing_works_before_recover_and_after_close(self, tmp_path: Path) -> None:
        log = self.open(tmp_path / "log")
        with pytest.raises(StorageFailed):
            log.append([(PROMISE, 0, 0, 1, 1, b"")])
        assert log.healthy() is not None
        log.recover()
        with pytest.raises(StorageFailed):
            log.recover()
        log.close(clean=True)
        with pytest.raises(StorageFailed):
            log.sync()
        log.close(clean=True)
        assert log.stats()["appends"] == 0

    def test_a_log_has_one_owner(self, tmp_path: Path) -> None:
        """Weakness L17 of the reference."""
        log = self.fresh(tmp_path)
        with pytest.raises(DataDirError, match="in use"):
            self.open(tmp_path / "log", log)
        log.append([(PROMISE, 0, 0, 1, 1, b"")])
        log.sync()
        log, states = self.again(tmp_path, log, clean=False)
        assert states[0].promised == (1, 1)
        log.close(clean=True)
