"""A life of one data directory: made twice over, opened, its founding and its logs recorded.

Said in the same way as `tests.log_life`, and disturbed at each of its calls in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import DataDir, create, open_data_dir, read_identity
from tests.disk_calls import Calls

NODE = 7
GROUPS = 3
HOSTS = (0, 1, 0)
"""The log of each group, at first"""
MOVED = (1, 1, 0)
"""and in the end."""
OTHERS = {8: 80, 9: 90}


class Said(NamedTuple):
    """What was said by the time the process died. Steps are those of `record`, from 1 on."""

    seats: tuple[int, ...] = ()
    """Of the directories that are made."""
    tried: int = 0
    kept: int = 0
    outcome: str = ""


class IdentityLife:
    """The life, up to its end or its first failure."""

    def __init__(self, path: Path, calls: Calls, say: Callable[[Said], None]) -> None:
        self._path = path
        self._calls = calls
        self._say = say
        self._said = Said()

    def live(self) -> None:
        """Live; the last word says how it ended, if it ended by itself."""
        try:
            made = create(self._path, NODE, GROUPS)
            self._tell(seats=(made.seat,))
            with opened(self._path, bootstrap=False) as data_dir:
                self._record(data_dir)
            with opened(self._path, bootstrap=False):
                pass
            with opened(self._path / "another", bootstrap=True) as data_dir:
                self._tell(seats=(made.seat, data_dir.identity.seat))
            self._tell(outcome="whole")
        except DataDirError as error:
            self._tell(outcome=f"refused: {error}")
        except StorageFailed as error:
            self._tell(outcome=f"failed: {error}")

    def _record(self, data_dir: DataDir) -> None:
        founding = make_founding({NODE: data_dir.identity.seat, **OTHERS}, GROUPS)
        steps: tuple[Callable[[], None], ...] = (
            lambda: data_dir.record(founding, active=False),
            lambda: data_dir.record(founding, active=True),
            data_dir.record_logs,
            lambda: data_dir.switch(MOVED),
        )
        for number, step in enumerate(steps, 1):
            self._tell(tried=number)
            step()
            self._tell(kept=number)

    def _tell(self, **news: tuple[int, ...] | int | str) -> None:
        self._said = self._said._replace(**news)  # type: ignore[arg-type]
        self._say(self._said)


def opened(path: Path, *, bootstrap: bool) -> DataDir:
    return open_data_dir(path, node_id=NODE, groups=GROUPS, hosts=HOSTS, bootstrap=bootstrap)


def check_survivor(path: Path, said: Said) -> int:
    """Both directories have what was acknowledged, or can be made; how many steps the first one has."""
    step = 0
    for number, directory in enumerate((path, path / "another")):
        made = number < len(said.seats)
        if made:
            assert read_identity(directory).seat == said.seats[number]
        with opened(directory, bootstrap=not made) as data_dir:
            found = data_dir.identity
        assert (found.node_id, found.groups, found.epoch) == (NODE, GROUPS, int(found.hosts == MOVED))
        assert found.hosts in (HOSTS, MOVED)
        if number == 0:
            step = (found.founding is not None) + found.active + found.logs + found.epoch
            assert found.founding in (None, make_founding({NODE: found.seat, **OTHERS}, GROUPS))
            assert said.kept <= step <= said.tried
        assert read_identity(directory) == found
    return step
