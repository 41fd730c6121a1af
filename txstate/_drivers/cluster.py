"""The drivers for a cluster: a place of the pool is connected to whichever node serves the slot that it was taken for.

There is one pool, and so one limit, for all nodes: a place that is idle on one node is taken for another when none is
left there. Everything else is as on a single server: what the engine sends, and when it gives up a connection, does not
depend on where it goes. A node that doesn't serve a slot says so (MOVED, ASK), the engine runs the whole attempt again,
and this time its place is connected elsewhere. Nothing is ever sent again from here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from txstate._drivers.aio import AsyncChannel, AsyncDriver
from txstate._drivers.pool import Place, Pool
from txstate._drivers.source import failed
from txstate._drivers.sync import SyncChannel, SyncDriver
from txstate._drivers.topology import Route, Topology, discover, discover_async, with_asking, without_asking
from txstate._effects import NOTHING, Lost, ReplyError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._drivers.cluster_source import ClusterSource, Node
    from txstate._effects import Acquire, Command, Constant, Patience


_VISIT: Final = 1.0
"""Seconds for which nobody asks the owner whether a slot is still on its way to the node that it sent us to."""

_FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""What redis-py raises when it can't find out who serves what; its exception for clusters is no `RedisError`."""


class _Routed(Place):
    """What a place knows of where it goes.

    Attributes:
        slot: what it was taken for.
        node: what it is, or was last, connected to.
        asked: where to connect for once, because the owner of the slot sent us there.
        asking: whether it is connected to such a node.
        since: when it was connected there, in monotonic seconds.
    """

    topology: Topology
    slot: int | None = None
    node: Node | None = None
    asked: Node | None = None
    asking = False
    since = 0.0

    def take_for(self, slot: int | None) -> None:
        """Go for this slot from now on; a connection to another node is of no use for it."""
        here = self.fits(slot) or self.topology.owner(slot) is None
        self.slot, self.asked = slot, None
        if self.connected and not here:
            self.drop()

    def fits(self, slot: int | None) -> bool:
        """Whether a transaction in a slot finds its documents at the node that it is connected to, or is to look there."""
        if self.asking:
            return slot == self.slot and time.monotonic() - self.since < _VISIT
        return self.serves(slot)

    def serves(self, slot: int | None) -> bool:
        """Whether the node that it is connected to owns a slot, as far as is known."""
        return slot is None or (self.node is not None and self.topology.owner(slot) == self.node)

    def route(self) -> Route:
        """Where to connect."""
        asked, self.asked = self.asked, None
        return Route(asked or self.topology.require(self.slot), asking=asked is not None)

    def learn(
        self, sent: Sequence[Command], replies: Sequence[object], lost: Lost | None = None
    ) -> list[object]:
        """Learn from what its node answered, or did not.

        Returns:
            The replies that were asked for.
        """
        assert self.node is not None  # noqa: S101 - it is, or was, connected
        if self.asking:
            replies = without_asking(sent, replies)
        self.asked = self.topology.heed(replies, self.node)
        if lost is not None:
            # Whoever resolves a commit that was lost asks the owner first.
            lost.replies, self.asked = replies, None
            if isinstance(lost.cause, TimeoutError):
                self.topology.suspect(self.node)
        return list(replies)

    def reached(self, node: Node, error: Exception | None) -> None:
        """Learn from having connected to a node, or from having failed to."""
        if error is None:
            self.since = time.monotonic()
            self.topology.trust(node)
        elif isinstance(error, Unreachable):
            self.topology.suspect(node)
        else:
            self.topology.heed([error], node)


class SyncClusterChannel(_Routed, SyncChannel):
    """One place in the pool, and its socket to a node."""

    def __init__(self, driver: SyncClusterDriver) -> None:
        super().__init__(driver)
        self.topology = driver.topology

    def exchange(
        self, commands: Sequence[Command], timeout: float, tail: Constant = NOTHING, patience: Patience = ()
    ) -> list[object]:
        """Send a batch and read its replies."""
        if self.asking:
            commands, tail = with_asking([*commands, *tail]), NOTHING
        try:
            return self.learn(commands, super().exchange(commands, timeout, tail, patience))
        except Lost as lost:
            self.learn(commands, lost.replies, lost)
            raise


class SyncClusterDriver(SyncDriver):
    """Performs effects over blocking sockets to the nodes of a cluster."""

    def __init__(self, source: ClusterSource, max_connections: int, spin: float = 0.0) -> None:
        self.topology = Topology(source)
        self._looking = threading.Lock()
        super().__init__(source, max_connections, spin)

    def _new_pool(self) -> Pool[SyncChannel, Any]:
        return _ClusterPool(self._limit, lambda: SyncClusterChannel(self))

    def _acquire(self, wanted: Acquire) -> SyncChannel:
        channel = super()._acquire(wanted)
        cast("SyncClusterChannel", channel).take_for(wanted.slot)
        return channel

    def _connect(self, channel: SyncChannel, timeout: float) -> None:
        place = cast("SyncClusterChannel", channel)
        if self.topology.outdated:
            self._look(timeout)
        place.node, place.asking = place.route()
        try:
            place.connect(self.topology.source.at(place.node), self.topology.patience(place.node, timeout))
        except (Unreachable, ReplyError) as error:
            place.reached(place.node, error)
            raise
        place.reached(place.node, None)

    def _look(self, timeout: float) -> None:
        """Find out who serves what; one thread does, and the others wait for it."""
        looked = self.topology.looked
        if not self._looking.acquire(timeout=timeout):
            raise Unreachable("nobody could tell in time which node serves what")
        try:
            if self.topology.looked == looked:
                discover(self.topology, timeout)
        except _FAILURES as error:
            raise _failed(error) from error
        finally:
            self._looking.release()

    def forget(self) -> None:
        """Start anew in a forked child."""
        self.topology, self._looking = Topology(self.topology.source), threading.Lock()
        super().forget()


class AsyncClusterChannel(_Routed, AsyncChannel):
    """One place in the pool, and its stream to a node."""

    def __init__(self, driver: AsyncClusterDriver) -> None:
        super().__init__(driver)
        self.topology = driver.topology

    async def exchange(
        self, commands: Sequence[Command], timeout: float, tail: Constant = NOTHING, patience: Patience = ()
    ) -> list[object]:
        """Send a batch and read its replies."""
        if self.asking:
            commands, tail = with_asking([*commands, *tail]), NOTHING
        try:
            return self.learn(commands, await super().exchange(commands, timeout, tail, patience))
        except Lost as lost:
            self.learn(commands, lost.replies, lost)
            raise


class AsyncClusterDriver(AsyncDriver):
    """Performs effects under asyncio, on the nodes of a cluster."""

    def __init__(self, source: ClusterSource, max_connections: int) -> None:
        self.topology = Topology(source)
        self._looking = asyncio.Lock()
        super().__init__(source, max_connections)

    def _new_pool(self) -> Pool[AsyncChannel, Any]:
        return _ClusterPool(self._limit, lambda: AsyncClusterChannel(self))

    async def _acquire(self, wanted: Acquire) -> AsyncChannel:
        channel = await super()._acquire(wanted)
        cast("AsyncClusterChannel", channel).take_for(wanted.slot)
        return channel

    async def _connect(self, channel: AsyncChannel, timeout: float) -> None:
        place = cast("AsyncClusterChannel", channel)
        if self.topology.outdated:
            await self._look(timeout)
        place.node, place.asking = place.route()
        try:
            await place.connect(
                self.topology.source.at(place.node), self.topology.patience(place.node, timeout)
            )
        except (Unreachable, ReplyError) as error:
            place.reached(place.node, error)
            raise
        place.reached(place.node, None)

    async def _look(self, timeout: float) -> None:
        """Find out who serves what; one task does, and the others wait for it."""
        looked = self.topology.looked
        try:
            async with asyncio.timeout(timeout), self._looking:
                if self.topology.looked == looked:
                    await discover_async(self.topology, timeout)
        except _FAILURES as error:  # a TimeoutError is an OSError
            raise _failed(error) from error

    def forget(self) -> None:
        """Start anew in a forked child."""
        self.topology, self._looking = Topology(self.topology.source), asyncio.Lock()
        super().forget()


class _ClusterPool(Pool[Any, Any]):
    """Prefers a place that is connected to the node which serves the slot, or to none yet."""

    def _fitting(self, slot: int | None) -> Any:
        for position in range(len(self._idle) - 1, -1, -1):
            if not self._idle[position].connected or self._idle[position].fits(slot):
                return self._idle.pop(position)
        return None


def _failed(error: Exception) -> Exception:
    """What a failure to find out means. redis-py says "no reachable node" of everything; why stands behind it."""
    cause = error.__cause__ if isinstance(error.__cause__, _FAILURES) else error
    # That a node knows no cluster is told by an exception of redis-py's own, raised over what the node answered.
    return failed(cause.__context__ if isinstance(cause.__context__, ResponseError) else cause)
