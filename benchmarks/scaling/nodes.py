"""Nodes to measure on: one alone, or a cluster of primaries on loopback."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

import redis

from benchmarks.servers import Servers, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS: Final = 16384
_PATIENCE: Final = 30.0


class Nodes:
    """Running nodes. A context manager that ends them.

    Args:
        count: how many; 1: no cluster.
        cpus: where they run; none: anywhere.

    Attributes:
        url: what a store opens.
        clients: of each node.
        version: what the server says of itself.
    """

    def __init__(self, count: int, cpus: tuple[int, ...]) -> None:
        buses = [free_port() for _ in range(count)]
        with ExitStack() as opened:
            self.clients: list[redis.Redis] = []
            for bus in buses:
                options = ["--cluster-enabled", "yes", "--cluster-port", str(bus)] if count > 1 else []
                servers = opened.enter_context(Servers(cpus, options=options))
                self.clients.append(redis.Redis.from_url(servers.place("redis", "tcp").address))
                self.version = servers.versions["redis"]
            if count > 1:
                _join(self.clients, buses[0])
            self._ends = opened.pop_all()
        addresses = [str(client.connection_pool.connection_kwargs["port"]) for client in self.clients]
        hosts = ",".join(f"127.0.0.1:{port}" for port in addresses)
        self.url = f"redis+cluster://{hosts}" if count > 1 else f"redis://{hosts}/0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self._ends.close()


def _join(clients: Sequence[redis.Redis], bus: int) -> None:
    """Make a cluster of them, the slots in as many equal parts."""
    first = clients[0].connection_pool.connection_kwargs["port"]
    for number, client in enumerate(clients):
        share = range(number * SLOTS // len(clients), (number + 1) * SLOTS // len(clients))
        client.cluster("ADDSLOTS", *share)
        client.cluster("MEET", "127.0.0.1", first, bus)
    deadline = time.monotonic() + _PATIENCE
    while any(client.cluster("INFO")["cluster_state"] != "ok" for client in clients):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the nodes did not form a cluster within {_PATIENCE:.0f} s")
        time.sleep(0.05)
