"""Whether the file of secrets has changed, and who is told.

Decides when the file is looked at, and that the router knows before the workers: what they seal by new keys
comes back from nobody, but what others seal by them is to be accepted as early as can be. A file that cannot
be taken changes nothing but the status, and is warned of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from paxmux.engine.secret_file import Keys, SecretFile
from paxmux.shards.boot import SetKeys
from paxmux.shards.post import Post
from paxmux.shards.router_host import RouterHost

LOOK_EVERY_S: Final = 0.5

_log: Final = logging.getLogger("paxmux")


class KeyWatch:
    """Of one node, in its event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, file: SecretFile, router: RouterHost, posts: Sequence[Post]
    ) -> None:
        """`posts`: those of all workers; there may be more later."""
        self._loop = loop
        self._file = file
        self._router = router
        self._posts = posts
        self._keys: tuple[Keys, ...] = file.keys
        self._router_told = True
        self._told: dict[int, tuple[int, tuple[Keys, ...]]] = {}
        """Worker -> the life of it that was told, and what. Those that boot have the keys of that moment."""
        self._timer: asyncio.TimerHandle | None = None
        self._problem: str | None = None

    def start(self) -> None:
        """Look from here on."""
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        file = self._file
        if file.look():
            if file.problem is not None:
                _log.warning("the secrets stay as they are: %s", file.problem)
            elif self._keys == file.keys:
                _log.info("%s is as it should be again", file.path)
        if file.keys != self._keys:
            self._keys, self._router_told = file.keys, False
            _log.warning("the secrets have changed: %s", _shown(file.keys))
        if not self._router_told:
            self._router_told = self._router.set_keys(self._keys)
        if self._router_told:
            self._tell_workers()

    def _tell_workers(self) -> None:
        for post in self._posts:
            now = (post.generation, self._keys)
            if self._told.get(post.worker) != now and post.send(SetKeys(keys=list(self._keys))):
                self._told[post.worker] = now


def key_picture(file: SecretFile | None) -> dict[str, Any]:
    """What the status says of the secrets: never one of them."""
    if file is None:
        return {"authenticated": False, "fingerprints": [], "problem": None}
    return {
        "authenticated": True,
        "fingerprints": [keys.fingerprint for keys in file.keys],
        "problem": file.problem,
    }


def _shown(keys: Sequence[Keys]) -> str:
    sealing, *others = (one.fingerprint for one in keys)
    return f"{sealing} seals" + "".join(f", {other} is accepted as well" for other in others)
