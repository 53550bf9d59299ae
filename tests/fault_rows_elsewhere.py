"""Rows of the table of faults whose tests stand with the part that they test."""

from __future__ import annotations

from typing import Final

from tests.fault_rows import Row

DAMAGE: Final = "tests/test_storage_damage.py"
FAULTS: Final = "tests/test_storage_faults.py"
FILES: Final = "tests/test_storage_files.py"
ROOM: Final = "tests/test_storage_room.py"
INDEX: Final = "tests/test_storage_index.py"
SCRUB: Final = "tests/test_storage_scrub.py"
CLEANER: Final = "tests/test_storage_cleaner.py"
STORAGE_KILL: Final = "tests/test_storage_kill.py"
LMDB: Final = "tests/test_lmdb_faults.py"
LMDB_KILL: Final = "tests/test_lmdb_kill.py"
LMDB_POWER: Final = "tests/test_lmdb_power.py"
IDENTITY: Final = "tests/test_identity.py"
FOUNDING: Final = "tests/test_founding.py"
WORKER: Final = "tests/test_worker.py"

NAMED = "`StorageDamaged` with file and offset; nothing is changed"
DOUBT = "named; the log goes on behind it, and its groups give no vote until all other members vouch for them"
MENDED = "named; what is lost is asked for from other members"
EITHER = f"{MENDED}; if it is the newest one: its groups give no vote until all other members vouch for them"
REFUSED = "`DataDirError` with the file and both owners; nothing is changed"
ANEW = "made anew from the segments"

ELSEWHERE: Final[tuple[tuple[Row, str, str], ...]] = tuple(
    (Row(fault, where, outcome), file, test)
    for file, test, fault, where, outcome in (
        (
            STORAGE_KILL,
            "test_kill_at_any_moment",
            "kill -9 at random moments",
            "log",
            "nothing acknowledged is lost; starts again",
        ),
        (
            LMDB_KILL,
            "test_kill_before_every_call_that_writes",
            "kill -9 at every call that changes the disk",
            "LmdbLog",
            "nothing acknowledged is lost; starts again",
        ),
        (
            LMDB_POWER,
            "test_power_cut_after_every_call",
            "torn and reordered unsynced writes",
            "LmdbLog",
            "nothing acknowledged is lost",
        ),
        (
            FAULTS,
            "test_power_fails_at_any_call_also_during_recovery",
            "torn and reordered unsynced writes",
            "log, many lives, also in recovery",
            "a torn tail is cut; nothing acknowledged is lost",
        ),
        (
            DAMAGE,
            "test_a_tail_torn_at_any_byte_is_cut",
            "torn and reordered unsynced writes",
            "log: the last batch, torn at each byte",
            "cut",
        ),
        (
            DAMAGE,
            "test_a_segment_whose_start_is_torn_is_made_anew",
            "torn and reordered unsynced writes",
            "log: the start of a segment",
            "the segment is made anew",
        ),
        (
            DAMAGE,
            "test_any_bad_byte_before_the_proven_end_is_a_gap",
            "flipped bits",
            "log: each byte before the proven end, in the newest segment",
            DOUBT,
        ),
        (
            DAMAGE,
            "test_a_segment_opened_behind_damage_says_all_promises_again",
            "flipped bits",
            "log: older segments",
            MENDED,
        ),
        (
            SCRUB,
            "test_every_bad_value_is_found_and_told_of_once",
            "flipped bits",
            "log: a value that nobody reads",
            f"found by the scrub, {MENDED}",
        ),
        (
            DAMAGE,
            "test_a_tail_with_any_byte_wrong_is_cut",
            "flipped bits",
            "log: each byte behind it",
            "cut as a torn tail",
        ),
        (
            DAMAGE,
            "test_a_bad_value_is_never_served",
            "flipped bits",
            "log: a value that is read",
            f"`StorageDamaged` of that read; {MENDED}",
        ),
        (
            FILES,
            "test_a_header_with_any_byte_wrong_costs_nothing",
            "flipped bits",
            "log: each byte of a segment's header",
            "nothing is lost; `DataDirError` where it makes a newer version",
        ),
        (
            DAMAGE,
            "test_a_damaged_mark_is_damage",
            "flipped bits",
            "mark of a clean stop: each byte",
            "`StorageDamaged` with the file",
        ),
        (INDEX, "test_a_bad_index_is_made_anew", "flipped bits", "index: entries", ANEW),
        (
            INDEX,
            "test_an_entry_that_vanished_or_is_an_older_one_is_noticed",
            "flipped bits",
            "index: pages, so that entries vanish or are older ones",
            f"noticed when opened or read; {ANEW}",
        ),
        (
            INDEX,
            "test_an_index_that_is_open_when_two_processes_die_is_verified",
            "flipped bits",
            "index: pages that kill who maps them",
            f"verified after the second death; {ANEW}",
        ),
        (
            IDENTITY,
            "test_every_changed_byte_and_every_cut_is_damage",
            "flipped bits",
            "identity: each byte",
            "`DataDirError` with the file; never a new seat",
        ),
        (
            LMDB,
            "test_no_single_fault_goes_unnoticed",
            "flipped bits",
            "LmdbLog",
            "`StorageDamaged`, or all is there",
        ),
        (DAMAGE, "test_a_lost_segment_costs_values_or_a_doubt", "missing file", "log: a segment", EITHER),
        (DAMAGE, "test_all_segments_missing_is_damage", "missing file", "log: every segment", NAMED),
        (
            CLEANER,
            "test_a_segment_that_is_needed_is_missed",
            "missing file",
            "log: the oldest segment that is needed",
            MENDED,
        ),
        (
            WORKER,
            "test_a_log_that_was_lost_is_not_begun_anew",
            "missing file",
            "log: all of it",
            "the worker does not boot, and says what it may not do",
        ),
        (INDEX, "test_a_bad_index_is_made_anew", "missing file", "index", ANEW),
        (
            IDENTITY,
            "test_logs_without_an_identity_are_never_given_a_new_seat",
            "missing file",
            "identity",
            "`DataDirError`; never a new seat",
        ),
        (LMDB, "test_a_log_that_must_exist_is_never_made", "missing file", "LmdbLog", "`StorageDamaged`"),
        (DAMAGE, "test_a_lost_segment_costs_values_or_a_doubt", "truncated file", "log: a segment", EITHER),
        (INDEX, "test_a_bad_index_is_made_anew", "truncated file", "index", ANEW),
        (
            IDENTITY,
            "test_every_changed_byte_and_every_cut_is_damage",
            "truncated file",
            "identity",
            "`DataDirError` with the file; never a new seat",
        ),
        (
            LMDB,
            "test_a_file_that_is_cut_short_is_damaged_and_kills_nobody",
            "truncated file",
            "LmdbLog",
            "`StorageDamaged` with the file",
        ),
        (
            FILES,
            "test_a_segment_under_another_number_is_not_read",
            "duplicated or swapped file",
            "log: the reserved segment",
            "`StorageDamaged` with the file's name; nothing is changed",
        ),
        (
            FILES,
            "test_files_of_another_owner_are_refused_by_name",
            "foreign file",
            "log: of another cluster, node, seat or worker",
            REFUSED,
        ),
        (
            DAMAGE,
            "test_the_mark_of_another_log_is_damage",
            "foreign file",
            "mark of a clean stop",
            "`StorageDamaged` with the file",
        ),
        (INDEX, "test_a_bad_index_is_made_anew", "foreign file", "index", ANEW),
        (LMDB, "test_a_foreign_log_is_refused_and_not_touched", "foreign file", "LmdbLog", REFUSED),
        (
            LMDB,
            "test_each_plugin_refuses_the_log_of_the_other",
            "foreign file",
            "the log of another plugin",
            "`DataDirError` with the plugin's name",
        ),
        (
            FILES,
            "test_a_newer_format_is_refused",
            "file of a newer version",
            "log",
            "`DataDirError` with the file and both versions",
        ),
        (
            IDENTITY,
            "test_a_newer_format_is_named",
            "file of a newer version",
            "identity",
            "`DataDirError` with the file and both versions",
        ),
        (
            LMDB,
            "test_a_newer_format_is_refused",
            "file of a newer version",
            "LmdbLog",
            "`DataDirError` with the file and both versions",
        ),
        (
            ROOM,
            "test_no_room_is_said_ahead_and_goes_away",
            "ENOSPC and EIO at each call: next segment",
            "log: no room for long",
            "`healthy()` says so until there is room",
        ),
        (
            FAULTS,
            "test_what_a_failed_sync_left_in_the_page_cache_is_written_again",
            "ENOSPC and EIO at each call: append, sync",
            "log: what a failed sync left behind",
            "written and synced again at the next start",
        ),
        (
            CLEANER,
            "test_a_removal_that_fails_is_tried_again",
            "ENOSPC and EIO at each call: cleaner",
            "log: removing a segment",
            "tried again",
        ),
        (
            LMDB,
            "test_a_failed_commit_is_the_last_though_lmdb_would_go_on",
            "ENOSPC and EIO at each call: append, sync",
            "LmdbLog: each call of a commit",
            "`StorageFailed`, for good; the worker ends",
        ),
        (
            LMDB,
            "test_a_file_system_that_is_really_full_loses_nothing",
            "full file system under load",
            "LmdbLog",
            "said ahead; then not taken in; nothing is lost",
        ),
        (
            STORAGE_KILL,
            "test_a_living_writer_is_named_and_a_killed_one_leaves_the_log_free",
            "second process on the same directory",
            "log",
            "`DataDirError` with the pid of the first",
        ),
        (
            IDENTITY,
            "test_a_second_node_is_refused_and_names_the_first",
            "second process on the same directory",
            "identity",
            "`DataDirError` with the pid of the first",
        ),
        (
            INDEX,
            "test_a_full_map_is_made_larger",
            "LMDB map full",
            "index",
            "made larger, tried again, without a stop",
        ),
        (
            LMDB,
            "test_the_map_grows_without_a_pause",
            "LMDB map full",
            "LmdbLog",
            "made larger within the same call",
        ),
        (
            IDENTITY,
            "test_another_node_or_group_count_is_named",
            "data directory of another node or cluster",
            "identity: of another node",
            "`DataDirError` with both",
        ),
        (
            FILES,
            "test_files_of_another_owner_are_refused_by_name",
            "data directory of another node or cluster",
            "log: of another node or cluster",
            REFUSED,
        ),
        (
            IDENTITY,
            "test_a_switch_that_was_cut_off_is_completed_at_the_next_start",
            "duplicated or swapped file",
            "identity: its own of before a change of layout",
            "`DataDirError`: groups have left the logs that it names",
        ),
        (
            IDENTITY,
            "test_a_switch_that_was_cut_off_is_completed_at_the_next_start",
            "flipped bits",
            "epoch of the layout",
            "`DataDirError` with the file",
        ),
        (
            FOUNDING,
            "test_other_groups_versions_members_and_clusters_are_refused_by_name",
            "data directory of another node or cluster",
            "identity: of another cluster",
            "the peers and the node refuse each other by name",
        ),
    )
)
