"""The nodes that an address stands for: a server, the primaries of a cluster, or whom the sentinels name as primary.

Each of them is asked by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import redis

from txstate import StoreUnavailable
from txstate._drivers.cluster_source import ClusterSource
from txstate._drivers.kinds import source_of_url
from txstate._drivers.sentinel_source import SentinelSource
from txstate._drivers.source import Source, text_of
from txstate._drivers.topology import Topology, discover
from txstate._engine.slots import SLOTS, slot_of
from txstate.cli._doctor.sentinels import ask_sentinels

if TYPE_CHECKING:
    from txstate._drivers.source import Address
    from txstate.cli._doctor.facts import NamedAs, Sentinels

_TIMEOUT: Final = 5.0


class Node(NamedTuple):
    """One server.

    Attributes:
        source: where connections to it come from.
        address: host and port; "" if the user named it.
        named_as: what the user said that it is.
        slot: one that it serves, of a cluster's; None: it is not a node of a cluster.
    """

    source: Source
    address: str = ""
    named_as: NamedAs = "server"
    slot: int | None = None


def nodes_of(url: str, namespace: str) -> tuple[list[Node], Sentinels | None]:
    """Who serves the keys of a namespace, and what the sentinels said of it, if it is for them to say.

    Raises:
        StoreUnavailable: no node of the cluster, or no sentinel, can be reached, or none serves anything.
        UsageError: the address can't be used.
    """
    source = source_of_url(url, asynchronous=False)
    if isinstance(source, SentinelSource):
        sentinels, primary = ask_sentinels(source)
        return [Node(server_at(source, primary), text_of(primary), "sentinel")], sentinels
    if isinstance(source, ClusterSource):
        return _primaries(source, namespace), None
    return [Node(source)], None


def server_at(source: Source, address: Address) -> Source:
    """Where connections come from to another server that is reached in the same way as one of this source's."""
    host, port = address
    kind = redis.SSLConnection if issubclass(source.kind, redis.SSLConnection) else redis.Connection
    settings = {name: value for name, value in source.settings.items() if name != "path"}
    return Source(kind, {**settings, "host": host, "port": port}, asynchronous=False)


def _primaries(source: ClusterSource, namespace: str) -> list[Node]:
    """Those of a cluster that serve the keys of a namespace."""
    topology = Topology(source)
    try:
        discover(topology, _TIMEOUT)
    except (redis.RedisError, redis.RedisClusterException, OSError) as error:
        why = str(error.__cause__ or error)
        raise StoreUnavailable(f"no node tells of the cluster: {why}") from error
    # A brace in the namespace decides the slot of every key, so only one node serves them.
    slots = range(SLOTS) if "{" not in namespace else [slot_of(namespace.encode())]
    found: dict[tuple[str, int], int] = {}
    for slot in slots:
        owner = topology.owner(slot)
        if owner is not None:
            found.setdefault(owner, slot)
    if not found:
        raise StoreUnavailable("no node of the cluster serves the slots of these keys")
    return [Node(source.at(owner), text_of(owner), "cluster", slot) for owner, slot in sorted(found.items())]
