"""The kinds of addresses and clients that a store opens: which source each becomes, and which driver serves it."""

from __future__ import annotations

from typing import Final

import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel

from txstate._drivers.aio import AsyncDriver
from txstate._drivers.cluster import AsyncClusterDriver, SyncClusterDriver
from txstate._drivers.cluster_source import ClusterSource
from txstate._drivers.sentinel_source import SentinelSource
from txstate._drivers.source import SCHEMES, Source
from txstate._drivers.sync import SyncDriver
from txstate.errors import UsageError

_MANY: Final[dict[str, type[ClusterSource | SentinelSource]]] = {
    "cluster": ClusterSource,
    "sentinel": SentinelSource,
}
"""What an address with several hosts means, by what its scheme ends in."""


def source_of_url(url: str, *, asynchronous: bool) -> Source:
    """Where connections come from, by the scheme of an address.

    Raises:
        UsageError: it is none that we, or redis-py, understand.
    """
    scheme, _, rest = url.partition("://")
    if scheme in SCHEMES:
        if scheme != "unix" and "," in rest.partition("/")[0].rpartition("@")[2]:
            raise UsageError(
                f"{url!r} names several hosts: write {scheme}+cluster://... for the nodes of a cluster, or "
                f"{scheme}+sentinel://.../service/0 for sentinels"
            )
        return Source.of_url(url, asynchronous=asynchronous)
    server, _, many = scheme.partition("+")
    if many in _MANY and server in SCHEMES and server != "unix":
        return _MANY[many].of_url(url, asynchronous=asynchronous)
    known = [*SCHEMES, *(f"{name}+{many}" for many in _MANY for name in SCHEMES if name != "unix")]
    raise UsageError(f"unknown scheme {scheme!r} in {url!r}; known ones: {', '.join(known)}")


def source_of_client(client: object, *, asynchronous: bool) -> Source:
    """Where connections come from, by the settings of a redis-py client.

    Raises:
        UsageError: it is no client, or the other twin's.
    """
    if isinstance(client, redis.cluster.RedisCluster | redis.asyncio.cluster.RedisCluster):
        return ClusterSource.of_client(client, asynchronous=asynchronous)
    pool = getattr(client, "connection_pool", None)
    if isinstance(
        pool, redis.sentinel.SentinelConnectionPool | redis.asyncio.sentinel.SentinelConnectionPool
    ):
        return SentinelSource.of_client(client, asynchronous=asynchronous)
    return Source.of_client(client, asynchronous=asynchronous)


def sync_driver(source: Source, max_connections: int, spin: float) -> SyncDriver:
    """The blocking driver for such a source."""
    if isinstance(source, ClusterSource):
        return SyncClusterDriver(source, max_connections, spin)
    return SyncDriver(source, max_connections, spin)


def async_driver(source: Source, max_connections: int) -> AsyncDriver:
    """The asyncio driver for such a source."""
    if isinstance(source, ClusterSource):
        return AsyncClusterDriver(source, max_connections)
    return AsyncDriver(source, max_connections)
