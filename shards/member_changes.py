"""Changes of the members of this node's groups: one operation for each group, in many groups together.

Decides what is done again by itself: where the members have changed since they were looked at (-502), the
wish is looked at anew, and asked for again only if it still makes sense. An unknown outcome (404) is never
repeated here; the same call again is safe, since a wish that holds already is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from paxmux.engine.address import MAX_NODE_ID, parse_member
from paxmux.engine.errors import (
    ConfigError,
    GroupsFailed,
    InvalidRequest,
    MembershipChanged,
    PaxmuxError,
)
from paxmux.shards import membership
from paxmux.shards.heard import Heard
from paxmux.shards.member_intents import Add, Intent, Move, Remove, Replace
from paxmux.shards.membership import Member, Membership
from paxmux.shards.memberships import Memberships
from paxmux.shards.requests import CallKind, Reply

UNDER_WAY: Final = 32
"""Groups whose members are changed at the same time."""
AGAIN_S: Final = 0.02

Ask = Callable[[CallKind, int, bytes, int], Awaitable[Reply]]
"""(kind, group, payload, deadline_ns): ask the worker of a group; raises what its reply says."""
Listen = Callable[[], Awaitable[Mapping[int, Heard]]]
"""Who has said hello to this node, by node id."""


class MemberChanges:
    """Of one node. Used in its event loop only."""

    def __init__(self, ask: Ask, listen: Listen, memberships: Memberships) -> None:
        self._ask = ask
        self._listen = listen
        self._memberships = memberships

    async def read(self, group: int, deadline_ns: int) -> Membership:
        """The members of a group as its worker knows them."""
        reply = await self._ask(CallKind.MEMBERS, group, b"", deadline_ns)
        return membership.decode(reply[4] or b"")

    async def adding(self, text: str | int) -> Add:
        """The wish to add a node: its id, or `[id@]host:port`. Raises InvalidRequest."""
        return Add(await self._resolve(text))

    def removing(self, text: str | int) -> Remove:
        """The wish to remove one. Raises InvalidRequest."""
        return Remove(_parse(text)[0])

    async def changing(self, old: str | int, new: str | int) -> Replace | Move:
        """The wish to put one in the place of another; or to give one, which is told twice, the seat that it
        has now, or another address. Raises InvalidRequest."""
        node_id, address = _parse(new)
        if node_id != _parse(old)[0]:
            return Replace(_parse(old)[0], await self._resolve(new))
        heard = (await self._listen()).get(node_id)
        # Who is not heard may have moved: then it keeps its seat.
        return Move(node_id, heard.seat if heard else 0, address or (heard.address if heard else ""))

    async def carry_out(
        self, groups: Sequence[int], intent: Intent, deadline_ns: int, *, strict: bool
    ) -> list[int]:
        """Do it in all of these groups.

        Args:
            groups: indices.
            intent: the wish.
            deadline_ns: for all of them.
            strict: a group where it holds already is an error.

        Returns:
            The groups that were changed; in the others it held already.

        Raises:
            GroupsFailed: in some it could not be done. If in all of them, for the same reason, that.
        """
        places = asyncio.Semaphore(UNDER_WAY)

        async def one(group: int) -> bool | PaxmuxError:
            async with places:
                try:
                    return await self._one(group, intent, deadline_ns, strict=strict)
                except PaxmuxError as error:
                    return error

        outcomes = await asyncio.gather(*map(one, groups))
        errors = {
            group: outcome
            for group, outcome in zip(groups, outcomes, strict=True)
            if isinstance(outcome, PaxmuxError)
        }
        changed = [group for group, outcome in zip(groups, outcomes, strict=True) if outcome is True]
        if not errors:
            return changed
        if len(errors) == len(groups) and len(set(map(type, errors.values()))) == 1:
            raise errors[groups[0]]
        held = [group for group, outcome in zip(groups, outcomes, strict=True) if outcome is False]
        raise GroupsFailed(errors, changed, held)

    async def _one(self, group: int, intent: Intent, deadline_ns: int, *, strict: bool) -> bool:
        """Whether it was changed."""
        while True:
            now = await self.read(group, deadline_ns)
            made = intent.applied(now.members)
            if made is None:
                if strict:
                    raise intent.holds()
                return False
            wanted = membership.encode(Membership(now.cluster, now.version, made))
            try:
                await self._ask(CallKind.CHANGE_MEMBERS, group, wanted, deadline_ns)
            except MembershipChanged:
                # Another operation came first; it may have done the same.
                strict = False
                await asyncio.sleep(AGAIN_S)
            else:
                return True

    async def _resolve(self, text: str | int) -> Member:
        node_id, address = _parse(text)
        heard = (await self._listen()).get(node_id)
        if heard is None:
            return Member(node_id, 0, address)
        return Member(node_id, heard.seat, address or heard.address)


def _parse(text: Any) -> tuple[int, str]:
    """(node id, address or nothing) of what a caller names a node by."""
    if type(text) is int or (isinstance(text, str) and text.isascii() and text.isdigit()):
        node_id = int(text)
        if not 1 <= node_id <= MAX_NODE_ID:
            raise InvalidRequest(f"expected a node id of 1 .. 2^64-1, got {text!r}")
        return node_id, ""
    if not isinstance(text, str):
        raise InvalidRequest(f"expected a node id, or `[id@]host:port`, got {text!r}")
    try:
        member = parse_member(text)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    return member.node_id, member.address
