"""The nodes that an address stands for: a server, or the primaries of a cluster. Each of them is asked by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import redis

from txstate import StoreUnavailable
from txstate._drivers.cluster_source import ClusterSource
from txstate._drivers.kinds import source_of_url
from txstate._drivers.topology import Topology, discover
from txstate._engine.slots import SLOTS, slot_of

if TYPE_CHECKING:
    from txstate._drivers.source import Source

_TIMEOUT: Final = 5.0


class Node(NamedTuple):
    """One server.

    Attributes:
        source: where connections to it come from.
        address: host and port; "" if it is the only one.
        slot: of a cluster's, one that it serves; None: it is no node of a cluster.
    """

    source: Source
    address: str
    slot: int | None


def nodes_of(url: str, namespace: str) -> list[Node]:
    """Who serves the keys of a namespace.

    Raises:
        StoreUnavailable: no node of the cluster can be reached, or none serves anything.
        UsageError: the address can't be used.
    """
    source = source_of_url(url, asynchronous=False)
    if not isinstance(source, ClusterSource):
        return [Node(source, "", None)]
    topology = Topology(source)
    try:
        discover(topology, _TIMEOUT)
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable(f"no node of the cluster can be reached: {error}") from error
    # A brace in the namespace decides the slot of every key, so only one node serves them.
    slots = range(SLOTS) if "{" not in namespace else [slot_of(namespace.encode())]
    found: dict[tuple[str, int], int] = {}
    for slot in slots:
        owner = topology.owner(slot)
        if owner is not None:
            found.setdefault(owner, slot)
    if not found:
        raise StoreUnavailable("no node of the cluster serves the slots of these keys")
    return [Node(source.at(owner), f"{owner[0]}:{owner[1]}", slot) for owner, slot in sorted(found.items())]
