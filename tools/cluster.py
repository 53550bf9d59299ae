"""A cluster of real nodes on this machine, each a process of its own, in one folder.

Decides folder, configs and ports. `FOLDER/node1.yaml` is what `paxmux serve` would run as well,
`FOLDER/node1` the data directory, `FOLDER/node1.log` what the node and its workers logged,
`FOLDER/secret` their secret, if they have one.
However the block of `async with` ends, no process of the cluster is left.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.secret_file import new_secret_file
from paxmux.tools import processes
from paxmux.tools.node_handle import NodeHandle, OnEvent
from paxmux.tools.ports import HOST, PortClaims

START_S = 60.0
DRAIN_S = 5.0


class Host(NamedTuple):
    """Where a node is, if not at a free port of this machine's loopback."""

    address: str
    command: tuple[str, ...]
    """What begins the command line of a process there, such as `nsenter ... --`."""


class Cluster:
    """Use it with `async with`; nodes are numbered from 0, and named node1, node2, …"""

    def __init__(
        self,
        folder: Path,
        *,
        workers: Sequence[int],
        groups: int,
        machines: Sequence[str],
        router: str = "inline",
        options: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        environment: dict[str, str] | None = None,
        secret: bool = False,
        hosts: Sequence[Host] = (),
    ) -> None:
        """
        Args:
            folder: exists, and has no node in it.
            workers: worker processes of each node; so many nodes are made.
            groups: number of groups.
            machines: state machines by dotted path; each group has one of each.
            router: `inline` or `process`.
            options: further top-level keys of the configs.
            on_event: called with what nodes say unasked.
            environment: of the nodes and their workers, beside this process's own.
            secret: the nodes authenticate each other; `FOLDER/secret` is the file.
            hosts: of each node; none: free ports of 127.0.0.1.
        """
        self.folder = folder
        self.groups = groups
        self.workers = tuple(workers)
        self.mark = secrets.token_hex(16)
        """Every process of the cluster carries it; see tools/processes.py."""
        self._machines = tuple(machines)
        self._router = router
        self._options = options or {}
        self._on_event = on_event
        self._environment = environment or {}
        self.secret_file = folder / "secret" if secret else None
        self._hosts = tuple(hosts)
        self._claims = PortClaims()
        self.members: list[str] = []
        """Addresses of the nodes, once they are started."""
        self.nodes: list[NodeHandle] = []
        self._placed = 0

    async def __aenter__(self) -> Cluster:
        """Start all nodes; returns once each of them serves.

        Raises:
            PaxmuxError: one does not; the message has its reason.
        """
        try:
            self._write_configs()
            await asyncio.gather(*(node.start() for node in self.nodes))
            await asyncio.gather(*(node.ready(START_S) for node in self.nodes))
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Stop all nodes that run, cleanly.

        Raises:
            PaxmuxError: one did not end with exit code 0.
        """
        running = [node for node in self.nodes if node.pid is not None]
        codes = await asyncio.gather(*(node.stop(drain_s) for node in running))
        for node, code in zip(running, codes, strict=True):
            if code != 0:
                raise PaxmuxError(f"{node.name} ended with exit code {code}\n{node.log_tail()}")

    async def kill(self) -> None:
        """Kill whatever runs; returns when it is gone."""
        processes.kill_marked(self.mark)
        await asyncio.gather(*(node.kill() for node in self.nodes))
        self._claims.close()

    def place_joiner(self, seeds: Sequence[str], workers: int = 1) -> NodeHandle:
        """Make the config of one more node, which is not started: it comes to the cluster that `seeds` are
        in. Its address is the last of `members` from now on."""
        (port,) = self._claims.take(1)
        self.members.append(f"{HOST}:{port}")
        return self._place(Host(self.members[-1], ()), seeds, workers, join=True)

    def _write_configs(self) -> None:
        if not self._hosts:
            ports = self._claims.take(len(self.workers))
            self._hosts = tuple(Host(f"{HOST}:{port}", ()) for port in ports)
        members = self.members = [host.address for host in self._hosts]
        if self.secret_file is not None:
            new_secret_file(self.secret_file)
            network = {**self._options.get("network", {}), "secret_file": self.secret_file.name}
            self._options = {**self._options, "network": network}
        for host, workers in zip(self._hosts, self.workers, strict=True):
            self._place(host, members, workers)

    def _place(self, host: Host, members: Sequence[str], workers: int, **more: Any) -> NodeHandle:
        name = f"node{self._placed + 1}"
        self._placed += 1
        config = self.folder / f"{name}.yaml"
        document = {
            "node": host.address,
            "members": list(members),
            "data_dir": name,
            "bootstrap": True,
            "groups": self.groups,
            "router": self._router,
            "layout": {"workers": workers},
            "state_machines": [{"class": machine} for machine in self._machines],
            **self._options,
            **more,
        }
        config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        node = NodeHandle(
            name,
            config,
            self.folder / name,
            self.mark,
            self._on_event,
            self._environment,
            command=host.command,
        )
        self.nodes.append(node)
        return node
