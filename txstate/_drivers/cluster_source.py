"""Where the connections to a cluster come from: the settings that all its nodes share, and some nodes to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import redis.asyncio.cluster
import redis.cluster

from txstate._drivers.source import Address, Source, address_in, parsed, text_of
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Node: TypeAlias = Address
"""Host and port."""


@dataclass(frozen=True, slots=True)
class ClusterSource(Source):
    """Makes connection objects to the nodes of a cluster.

    Args:
        nodes: some of its nodes; the others are found out from any of them.
        remap: turns the address that a node has inside of its network into the one where it is reached.
    """

    clustered: ClassVar[bool] = True

    nodes: tuple[Node, ...] = ()
    remap: Callable[[Node], Node] | None = None

    @classmethod
    def of_url(cls, url: str, *, asynchronous: bool) -> ClusterSource:
        """From ``redis+cluster://host:port[,host:port]``, its options included.

        Raises:
            UsageError: a host or port is missing or wrong, or a database other than 0 is asked for.
        """
        scheme, _, rest = url.partition("://")
        end = min((at for at in (rest.find(mark) for mark in "/?#") if at >= 0), default=len(rest))
        login, at, hosts = rest[:end].rpartition("@")
        nodes = tuple(address_in(url, host, 6379) for host in hosts.split(","))
        kind, settings = parsed(
            f"{scheme.removesuffix('+cluster')}://{login}{at}{hosts.split(',')[0]}{rest[end:]}",
            asynchronous=asynchronous,
        )
        return cls._of(kind, settings, nodes, None, asynchronous=asynchronous)

    @classmethod
    def of_client(cls, client: Any, *, asynchronous: bool) -> ClusterSource:
        """From the settings of redis-py's `RedisCluster`. What it reads from replicas is not taken over.

        Raises:
            UsageError: it is the other twin's, or a pipeline.
        """
        other = isinstance(client, redis.asyncio.cluster.RedisCluster) != asynchronous
        if other or isinstance(client, redis.cluster.ClusterPipeline):
            wanted = "redis.asyncio.RedisCluster" if asynchronous else "redis.RedisCluster"
            raise UsageError(
                f"client= takes a {wanted}, not {type(client).__module__}.{type(client).__name__}"
            )
        manager = client.nodes_manager
        nodes = tuple((node.host, int(node.port)) for node in client.startup_nodes)
        if asynchronous:
            settings = dict(manager.connection_kwargs)
            kind = settings.pop("connection_class")
            settings.pop("response_callbacks", None)
            greet = None
        else:
            pool = client.get_default_node().redis_connection.connection_pool
            kind, settings = pool.connection_class, dict(pool.connection_kwargs)
            greet = client.user_on_connect_func
        settings["redis_connect_func"] = None if greet is None else _Greeting(greet)
        return cls._of(kind, settings, nodes, manager.address_remap, asynchronous=asynchronous)

    @classmethod
    def _of(
        cls,
        kind: type[Any],
        settings: dict[str, Any],
        nodes: tuple[Node, ...],
        remap: Callable[[Node], Node] | None,
        *,
        asynchronous: bool,
    ) -> ClusterSource:
        if settings.get("db"):
            raise UsageError(f"a cluster has one database, 0; {settings['db']} was asked for")
        shared = {name: value for name, value in settings.items() if name not in ("host", "port", "db")}
        return cls.checked(kind, shared, asynchronous=asynchronous, nodes=nodes, remap=remap)

    def at(self, node: Node) -> Source:
        """Where connections to one node come from."""
        host, port = node
        return Source(self.kind, {**self.settings, "host": host, "port": port}, self.asynchronous)

    def url(self) -> str:
        """An address that other processes can open."""
        hosts = ",".join(map(text_of, self.nodes))
        return f"{self.scheme()}+cluster://{self.login()}{hosts}"


@dataclass(frozen=True, slots=True)
class _Greeting:
    """What a client does on each new connection, behind redis-py's own handshake."""

    greet: Callable[[Any], object]

    def __call__(self, connection: Any) -> None:
        connection.on_connect()
        self.greet(connection)
