"""Which node of a cluster serves which slot.

redis-py finds it out (`NodesManager`: it knows CLUSTER SLOTS, host names and address translation); nothing of how it
executes commands is used. What the nodes answer to our own commands keeps the picture fresh: MOVED names the new owner
of one slot, ASK where to go for once, and other answers say that it is time to look again.

No locks and no waiting: the drivers bring them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis.asyncio.cluster
import redis.cluster

from txstate._effects import ReplyError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from txstate._drivers.cluster_source import ClusterSource, Node
    from txstate._effects import Command

_OUTDATED: Final = frozenset({"CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"})
"""Answers of a node that may not serve what it served before."""

_MOVES: Final = 5
"""After so many slots have moved, the whole picture is looked at again: redis-py's own `reinitialize_steps`."""

_ASKED: Final = 3
"""How many nodes are asked at most, one after another."""

_ASKING: Final[Command] = ("ASKING",)

_SUSPECT: Final = 4
"""A node that failed before gets this fraction of the time to connect: so much less is lost if it still hangs."""


class Route(NamedTuple):
    """Where to connect.

    Attributes:
        node: its address.
        asking: it only imports the slot yet, so each command has to say ASKING.
    """

    node: Node
    asking: bool


class Topology:
    """What is known of a cluster.

    Args:
        source: where its connections come from.

    Attributes:
        outdated: whether to find out anew before the next connection is made.
        looked: how many times that was done.
    """

    def __init__(self, source: ClusterSource) -> None:
        self.source = source
        self.outdated = True
        self.looked = 0
        self._found: Any = None
        self._moved: dict[int, Node] = {}
        self._suspects: set[Node] = set()

    def owner(self, slot: int | None) -> Node | None:
        """The node that serves a slot, as far as is known; None: nobody knows one."""
        if slot is None or self._found is None:
            return None
        if slot in self._moved:
            return self._moved[slot]
        nodes = self._found.slots_cache.get(slot)
        return (nodes[0].host, int(nodes[0].port)) if nodes else None

    def patience(self, node: Node, timeout: float) -> float:
        """Seconds that connecting to a node may take."""
        return timeout / _SUSPECT if node in self._suspects else timeout

    def require(self, slot: int | None) -> Node:
        """The node that serves a slot.

        Raises:
            Unreachable: no node does.
        """
        node = self.owner(slot)
        if node is None:
            self.outdated = True
            raise Unreachable(f"no node of the cluster serves slot {slot}")
        return node

    def heed(self, replies: Iterable[object], answering: Node) -> Node | None:
        """Learn from the replies of a node.

        Returns:
            The node to ask for once, if this one sends us there.
        """
        for reply in replies:
            if isinstance(reply, ReplyError):
                if reply.code in ("MOVED", "ASK"):
                    return self._redirected(reply, answering)
                self.outdated |= reply.code in _OUTDATED
        return None

    def _redirected(self, reply: ReplyError, answering: Node) -> Node | None:
        code, slot, address = str(reply).split()[:3]
        host, _, port = address.rpartition(":")
        # Redis names no host when it knows none: then it is the one that answered.
        node = host.strip("[]") or answering[0], int(port)
        if self.source.remap is not None:
            node = self.source.remap(node)
        if code == "ASK":
            return node
        self.outdated |= len(self._moved) >= _MOVES or node == answering
        self._moved[int(slot)] = node
        return None

    def suspect(self, node: Node) -> None:
        """A node could not be reached, or did not answer: another one may serve its slots now."""
        self._suspects.add(node)
        self.outdated = True

    def trust(self, node: Node) -> None:
        """A node could be reached."""
        self._suspects.discard(node)

    def found(self, manager: Any) -> None:
        """Take over what redis-py has found out."""
        self._found, self._moved, self.outdated = manager, {}, False
        self.looked += 1

    def candidates(self) -> list[Node]:
        """Whom to ask: a few nodes, the suspect ones only when there are no others."""
        known: list[Node] = [] if self._found is None else [*_addresses(self._found)]
        nodes = list(dict.fromkeys([*known, *self.source.nodes]))
        nodes = [node for node in nodes if node not in self._suspects] or nodes
        return random.sample(nodes, min(_ASKED, len(nodes)))


def discover(topology: Topology, timeout: float) -> None:
    """Find out who serves what, over blocking sockets.

    Raises:
        RedisError, OSError: nobody could be asked.
    """
    source, nodes = topology.source, topology.candidates()
    topology.found(
        redis.cluster.NodesManager(
            [redis.cluster.ClusterNode(*node) for node in nodes],  # type: ignore[no-untyped-call]  # redis-py's
            from_url=True,
            address_remap=source.remap,
            **_shared(source, timeout / len(nodes)),
        )
    )


async def discover_async(topology: Topology, timeout: float) -> None:
    """The same under asyncio."""
    source, candidates = topology.source, topology.candidates()
    shared = _shared(source, timeout / len(candidates))
    nodes = [redis.asyncio.cluster.ClusterNode(*node, **shared) for node in candidates]
    manager = redis.asyncio.cluster.NodesManager(
        nodes,
        require_full_coverage=False,
        connection_kwargs=shared,
        dynamic_startup_nodes=False,
        address_remap=source.remap,
    )
    try:
        await manager.initialize()
    finally:
        for node in nodes:
            for connection in node._connections:  # noqa: SLF001 - the public disconnect() waits, and clean-up must not
                connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above, and redis-py's
    topology.found(manager)


def with_asking(commands: Sequence[Command]) -> list[Command]:
    """The commands as a node takes them that only imports their slot yet.

    ASKING counts for one command, and between MULTI and EXEC for all, where it must not stand itself.
    """
    sent: list[Command] = []
    queueing = False
    for command in commands:
        if not queueing:
            sent.append(_ASKING)
        sent.append(command)
        queueing = command[0] == "MULTI" or (queueing and command[0] != "EXEC")
    return sent


def without_asking(sent: Sequence[Command], replies: Sequence[object]) -> list[object]:
    """The replies, as many as there are, to what was to be sent before ASKING was added."""
    return [reply for command, reply in zip(sent, replies, strict=False) if command is not _ASKING]


def _shared(source: ClusterSource, timeout: float) -> dict[str, Any]:
    return {**source.arguments(timeout), "connection_class": source.kind}


def _addresses(manager: Any) -> Iterable[Node]:
    return ((node.host, int(node.port)) for node in list(manager.nodes_cache.values()))
