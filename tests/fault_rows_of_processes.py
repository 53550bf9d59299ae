"""Rows of the table of process faults whose tests stand with the part that they test."""

from __future__ import annotations

from typing import Final

from tests.fault_rows import Row

SUPERVISOR: Final = "tests/test_supervisor.py"
NODE: Final = "tests/test_node.py"
CHILD: Final = "tests/test_child.py"

ROWS: Final[tuple[tuple[Row, str, str], ...]] = tuple(
    (Row(fault, where, outcome), file, test)
    for file, test, fault, where, outcome in (
        (
            SUPERVISOR,
            "test_a_worker_that_cannot_boot_fails_the_first_start_with_its_reason",
            "cannot boot",
            "worker, at the first start of a node",
            "the start fails with its reason (exit code 70); nothing is left",
        ),
        (
            SUPERVISOR,
            "test_later_a_worker_that_cannot_boot_is_tried_again",
            "cannot boot",
            "worker, later",
            "its groups refuse (405) with the reason; tried again, within the crash budget",
        ),
        (
            SUPERVISOR,
            "test_a_router_process_without_its_port_fails_the_start",
            "cannot boot",
            "router process",
            "the start fails with its reason",
        ),
        (
            SUPERVISOR,
            "test_a_worker_that_crashes_at_every_boot_fails_the_first_start_in_the_end",
            "crash loop",
            "worker, at the first start of a node",
            "the start fails with the last reason after `worker.crash_budget` deaths",
        ),
        (
            SUPERVISOR,
            "test_replies_that_make_no_sense_replace_the_worker",
            "what a worker says makes no sense",
            "worker",
            "it is killed and replaced; in flight there: 404",
        ),
        (
            SUPERVISOR,
            "test_a_worker_deaf_to_stop_is_aborted_and_says_where_it_hangs",
            "does not stop when asked",
            "worker, hung",
            "it says where it hangs (SIGABRT), and is killed; the stop is bounded in time",
        ),
        (
            SUPERVISOR,
            "test_stop_is_bounded_though_a_worker_is_stopped",
            "does not stop when asked",
            "worker, stopped",
            "killed; in flight there: 404; other slices are drained; the stop is bounded in time",
        ),
        (
            NODE,
            "test_a_ring_that_stays_full_closes_the_door_until_it_drains",
            "a ring is full",
            "client ring, to a worker that does not keep up",
            "new requests to it get 405 until it has drained; nothing taken in is lost",
        ),
        (
            "tests/test_channel.py",
            "test_full_backlog_drops_only_what_may_be_dropped",
            "a ring is full",
            "network ring",
            "frames are dropped and counted, and the protocol sends them again; nothing else is",
        ),
        (
            "tests/test_router_process.py",
            "test_damaged_rings_are_reported_with_their_generation",
            "a ring's header is damaged",
            "router process",
            "the rings of that worker are detached, the node is told, and replaces the worker",
        ),
        (
            CHILD,
            "test_a_child_dies_with_a_parent_that_is_killed",
            "killed (SIGKILL)",
            "parent of any child, which does not look",
            "the kernel kills the child",
        ),
        (
            "tests/test_node_cluster.py",
            "test_a_killed_worker_recovers_while_the_other_slice_goes_on",
            "killed (SIGKILL)",
            "worker, again and again, of one of three nodes under load",
            "nothing acknowledged is lost, nothing is decided twice; the other slice goes on",
        ),
        (
            "tests/test_node_cluster.py",
            "test_a_blocked_loop_is_named_where_its_votes_suffer",
            "handlers block the embedding server",
            "node",
            "the lag is named in a warning; with an inline router, `router: process` is named as the remedy",
        ),
    )
)
