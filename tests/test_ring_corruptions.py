"""Some thousands of random corruptions of rings; `tests.ring_corruptions` makes a million."""

from __future__ import annotations

from collections import Counter

from tests.fault_rows import fault
from tests.ring_corruptions import corrupt
from tests.ring_damage import KINDS

COUNT = 6000
SEED = 1


@fault(
    "random corruptions of a ring's header and records",
    "ring",
    "`RingCorrupt`, or what is read is what was written; no wild read, no death, no memory without bound",
)
@fault("a ring's memory is made smaller", "ring", "refused by the kernel: its size is sealed")
def test_some_thousand_corruptions() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for _, found in corrupt(SEED, COUNT, 1):
        assert not found.wrong, found.wrong[0]
        counts += found.counts
    assert counts.total() == COUNT
    for kind in KINDS:
        by = {outcome: count for (each, outcome), count in counts.items() if each == kind}
        if kind == "truncated memory":
            assert set(by) == {"refused"}, by
        else:
            assert min(by["detected"], by["harmless"]) > COUNT // 400, (kind, by)
