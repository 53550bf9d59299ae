"""Membership over the control socket: what the command line asks, and what it is answered.

Decides only how a request looks. Every operation is safe to repeat: groups where it holds already are done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paxmux.engine.errors import ConfigError, GroupsFailed, InvalidRequest, PaxmuxError
from paxmux.engine.groups import parse_groups
from paxmux.shards.control import Handler
from paxmux.shards.deadline import deadline_ns
from paxmux.shards.member_changes import MemberChanges
from paxmux.shards.member_intents import Intent
from paxmux.shards.memberships import Memberships

READ_S = 5.0


class MemberControl:
    """Of one node. Used in its event loop only."""

    def __init__(
        self,
        changes: MemberChanges,
        memberships: Memberships,
        groups: int,
        require_serving: Callable[[], None],
    ) -> None:
        """`require_serving` raises NodeStopped where the node cannot be asked now."""
        self._changes = changes
        self._memberships = memberships
        self._count = groups
        self._require_serving = require_serving

    def operations(self) -> dict[str, Handler]:
        """By name, for `ControlServer`."""
        return {"members": self._on_members, "change_members": self._on_change}

    async def _on_members(self, request: dict[str, Any]) -> dict[str, Any]:
        """`groups` -> for each of them its version, and its members."""
        self._require_serving()
        rows = []
        for group in self._groups(request):
            said = await self._changes.read(group, deadline_ns(READ_S))
            members = [
                {
                    "node_id": member.node_id,
                    "name": member.name,
                    "seat": f"{member.seat:#018x}",
                    "address": member.address or None,
                    "silent_ms": said.silent_ms.get(member.node_id),
                }
                for member in self._memberships.listed(said.members)
            ]
            rows.append({"group": group, "version": said.version, "members": members})
        return {"count": self._count, "groups": rows}

    async def _on_change(self, request: dict[str, Any]) -> dict[str, Any]:
        """`what` (add, remove, change), `node`, `new`, `groups`, `timeout_s` -> what became of each group."""
        self._require_serving()
        groups, intent = self._groups(request), await self._intent(request)
        timeout_s = request.get("timeout_s")
        if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool):
            raise InvalidRequest(f'expected a number of seconds as "timeout_s", got {timeout_s!r}')
        try:
            changed = await self._changes.carry_out(groups, intent, deadline_ns(timeout_s), strict=False)
            errors: dict[int, PaxmuxError] = {}
        except GroupsFailed as failed:
            changed, errors = failed.changed, failed.errors
        except PaxmuxError as error:
            changed, errors = [], dict.fromkeys(groups, error)
        return {
            "changed": changed,
            "unchanged": [group for group in groups if group not in changed and group not in errors],
            "errors": [
                {"group": group, "code": int(error.code), "error": str(error), "retryable": error.retryable}
                for group, error in sorted(errors.items())
            ],
        }

    async def _intent(self, request: dict[str, Any]) -> Intent:
        node, new = request.get("node"), request.get("new")
        match request.get("what"):
            case "add":
                return await self._changes.adding(node)  # type: ignore[arg-type]
            case "remove":
                return self._changes.removing(node)  # type: ignore[arg-type]
            case "change":
                return await self._changes.changing(node, new)  # type: ignore[arg-type]
            case what:
                raise InvalidRequest(f'expected add, remove or change as "what", got {what!r}')

    def _groups(self, request: dict[str, Any]) -> list[int]:
        text = request.get("groups")
        if not isinstance(text, str):
            raise InvalidRequest(f'expected groups such as "all" or "0-3,7" as "groups", got {text!r}')
        try:
            return list(parse_groups(text, self._count))
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error
