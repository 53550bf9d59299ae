"""Whether data directories are whole, and agree with each other.

It says what it finds as it finds it, up to a bound for each directory: one broken link of a chain can
mean a million. The verdict counts all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from paxmux.engine.errors import DataDirError
from paxmux.tools.log.compare import Checksums, Comparison, Difference
from paxmux.tools.log.directory import DataDirectory, read_directory
from paxmux.tools.log.fault import Fault, chain_text
from paxmux.tools.log.group import Value
from paxmux.tools.log.read import Counts, LogReading
from paxmux.tools.log.walk import Damage, Removed, Tail

MAX_SAID: Final = 100
"""Findings of one directory that are said one by one."""

Say = Callable[[str], None]
At = Callable[[Counts], None]


@dataclass
class Verdict:
    """On one directory."""

    path: Path
    counts: Counts = field(default_factory=Counts)
    groups: int = 0
    damage: int = 0
    faults: int = 0
    missing: int = 0
    """Decided instances whose value should be there."""
    tail_bytes: int = 0
    findings: list[str] = field(default_factory=list)
    """The first `MAX_SAID` in words."""
    comparison: Comparison | None = None
    """With the first directory; None for that one."""

    @property
    def good(self) -> bool:
        """Nothing is wrong with it, and it agrees with the first one."""
        differences = self.comparison.differences if self.comparison is not None else {}
        return not (self.damage or self.faults or self.missing or differences)

    def say(self, words: str, say: Say) -> None:
        """Note a finding, and say it unless there are too many."""
        if len(self.findings) < MAX_SAID:
            self.findings.append(words)
            say(words)


def verify(first: Path, others: Sequence[Path], say: Say, begin: Callable[[str], At]) -> list[Verdict]:
    """Verify directories, and compare the others with the first one.

    Args:
        first: a data directory.
        others: of other replicas.
        say: gets findings, in words.
        begin: called with a line as each directory begins; gives what is then called with counts.

    Raises:
        DataDirError: one cannot be read, or is of another cluster.
    """
    directories = [read_directory(path) for path in (first, *others)]
    for directory in directories[1:]:
        if directory.cluster != directories[0].cluster:
            raise DataDirError(
                f"{directory.path} belongs to {_cluster_text(directory)},"
                f" {first} to {_cluster_text(directories[0])}"
            )
    checksums = Checksums()
    verdicts = [_verify(directories[0], checksums.add if others else None, None, say, begin)]
    for directory in directories[1:]:
        comparison = Comparison(checksums)
        verdicts.append(_verify(directory, comparison.take, comparison, say, begin))
        for _, difference in sorted(comparison.differences.items()):
            say(difference_text(first, directory.path, difference))
    return verdicts


def verdict_text(verdict: Verdict) -> str:
    """The summary of one directory, in one line."""
    counts, comparison = verdict.counts, verdict.comparison
    parts = [
        f"{_of(counts.logs, 'log')}, {_of(counts.segments, 'segment')}, {_of(counts.records, 'record')},"
        f" {_of(counts.values, 'decided value')} of {_of(verdict.groups, 'group')}"
    ]
    if verdict.tail_bytes:
        parts.append(f"a tail of {verdict.tail_bytes} bytes")
    if counts.unchecked:
        parts.append(f"{counts.unchecked} chains not checkable")
    if comparison is not None:
        parts.append(f"{comparison.compared:,} values compared")
    wrong = {
        "damaged places": verdict.damage,
        "faults": verdict.faults,
        "missing values": verdict.missing,
        "groups that differ": len(comparison.differences) if comparison is not None else 0,
    }
    parts += [f"{count} {what}" for what, count in wrong.items() if count]
    return f"{'ok' if verdict.good else 'BAD'}: {verdict.path}: {'; '.join(parts)}"


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """The same for JSON, with what was found."""
    counts, comparison = verdict.counts, verdict.comparison
    report: dict[str, Any] = {
        "data_dir": str(verdict.path),
        "good": verdict.good,
        "groups": verdict.groups,
        **vars(counts),
        "tail_bytes": verdict.tail_bytes,
        "damage": verdict.damage,
        "faults": verdict.faults,
        "missing": verdict.missing,
        "findings": verdict.findings,
    }
    if comparison is not None:
        report["against"] = {
            "compared": comparison.compared,
            "only_here": comparison.only_here,
            "differences": [
                {
                    "group": each.group,
                    "instance": each.instance,
                    "ours": chain_text(each.ours),
                    "theirs": chain_text(each.theirs),
                }
                for _, each in sorted(comparison.differences.items())
            ],
        }
    return report


def difference_text(first: Path, other: Path, difference: Difference) -> str:
    """In one line."""
    group, instance, ours, theirs = difference
    return (
        f"difference: group {group}, instance {instance}:"
        f" {first} has checksum {chain_text(ours)}, {other} has {chain_text(theirs)}"
    )


def _verify(
    directory: DataDirectory,
    each: Callable[[list[Value]], None] | None,
    comparison: Comparison | None,
    say: Say,
    begin: Callable[[str], At],
) -> Verdict:
    verdict = Verdict(directory.path, comparison=comparison)
    at = begin(f"verify {directory.path}")
    for log in directory.logs:
        number = log.identity.log
        reading = LogReading(log, verdict.counts)
        for finding in reading.read(each, at=at):
            match finding:
                case Damage(text):
                    verdict.damage += 1
                    verdict.say(f"damage: {text}", say)
                case Fault():
                    verdict.faults += 1
                    verdict.say(f"fault: log {number}, {finding.text()}", say)
                case Tail(_, _, length):
                    verdict.tail_bytes += length
                case Removed(first, last):
                    say(f"note: segments {first} .. {last} of log {number} were removed meanwhile")
        groups = reading.groups.groups
        verdict.groups += len(groups)
        for group in groups.values():
            if group.missing:
                verdict.missing += group.missing
                verdict.say(
                    f"missing: log {number}, group {group.index}: {group.missing} decided values", say
                )
    return verdict


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _cluster_text(directory: DataDirectory) -> str:
    return f"cluster {directory.cluster:016x}" if directory.cluster is not None else "no cluster yet"
