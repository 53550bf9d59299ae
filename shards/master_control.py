"""Masters over the control socket: what the command line asks, and what it is answered.

Decides only how a request looks. A node can give away its own leases alone; of those that were asked for in
one request, each comes to an end of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from paxmux.engine.errors import ConfigError, InvalidRequest, PaxmuxError
from paxmux.engine.groups import parse_groups
from paxmux.shards.control import Handler
from paxmux.shards.deadline import deadline_ns
from paxmux.shards.masters import Masters

ACT_S = 20.0


class MasterControl:
    """Of one node. Used in its event loop only."""

    def __init__(self, masters: Masters, groups: int, require_serving: Callable[[], None]) -> None:
        """`require_serving` raises NodeStopped where the node cannot be asked now."""
        self._masters = masters
        self._count = groups
        self._require_serving = require_serving

    def operations(self) -> dict[str, Handler]:
        """By name, for `ControlServer`."""
        return {
            "masters": self._on_masters,
            "master_drop": self._on_drop,
            "master_transfer": self._on_transfer,
            "master_balance": self._on_balance,
        }

    async def _on_masters(self, request: dict[str, Any]) -> dict[str, Any]:
        """`groups` -> what is known of the master of each."""
        self._require_serving()
        groups = self._groups(request)
        return {"node": self._masters.me, "groups": [self._masters.picture(group) for group in groups]}

    async def _on_drop(self, request: dict[str, Any]) -> dict[str, Any]:
        """`groups` -> what became of each."""
        until_ns = deadline_ns(ACT_S)

        async def drop(group: int) -> None:
            await self._masters.drop(group, 0, until_ns)

        return await self._each(self._own(request), drop)

    async def _on_transfer(self, request: dict[str, Any]) -> dict[str, Any]:
        """`groups`, `to` (a node id) -> what became of each, and who is master then."""
        heir, until_ns = request.get("to"), deadline_ns(ACT_S)
        if type(heir) is not int:
            raise InvalidRequest(f'expected a node id as "to", got {heir!r}')

        async def transfer(group: int) -> int:
            return await self._masters.transfer(group, heir, until_ns)

        return await self._each(self._own(request), transfer)

    async def _on_balance(self, _request: dict[str, Any]) -> dict[str, Any]:
        """What went where, since this node had more than its share."""
        self._require_serving()
        heirs, until_ns = self._masters.surplus(), deadline_ns(ACT_S)

        async def transfer(group: int) -> int:
            return await self._masters.transfer(group, heirs[group], until_ns)

        return await self._each(list(heirs), transfer)

    async def _each(
        self, groups: Sequence[int], act: Callable[[int], Awaitable[int | None]]
    ) -> dict[str, Any]:
        done = await asyncio.gather(*(act(group) for group in groups), return_exceptions=True)
        rows, errors = [], []
        for group, outcome in zip(groups, done, strict=True):
            if isinstance(outcome, PaxmuxError):
                errors.append({"group": group, "code": int(outcome.code), "error": str(outcome)})
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                rows.append({"group": group, "master": outcome})
        return {"done": rows, "errors": errors}

    def _own(self, request: dict[str, Any]) -> list[int]:
        """The groups of the request; of `all`, those that this node is master of."""
        self._require_serving()
        groups = self._groups(request)
        if request.get("groups") == "all":
            groups = [group for group in groups if self._masters.held(group).node == self._masters.me]
        return groups

    def _groups(self, request: dict[str, Any]) -> list[int]:
        text = request.get("groups")
        if not isinstance(text, str):
            raise InvalidRequest(f'expected groups such as "all" or "0-3,7" as "groups", got {text!r}')
        try:
            return list(parse_groups(text, self._count))
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error
