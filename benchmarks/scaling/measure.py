"""What one node spends on a transaction, what a client does, how many connections it holds, and what these and tokens weigh.

Costs are CPU time, not elapsed time: a node's own account (INFO cpu) and the process's. So they hold on a busy machine,
and say how many transactions fill a node.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import txstate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

_WARM_UP: Final = 300
_ROUNDS: Final = 5
_FIELDS: Final = 10
TWO_OF_MANY: Final = "transfer between two of many"
ONE_SLOT: Final = "transfer between two of many in one slot"
_MANY: Final = 10_000
"""Documents of a load whose keys hardly ever repeat, so that no connection is armed for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one committed transaction, on average.

    Attributes:
        load: what was done.
        server_us: CPU of all nodes together, microseconds.
        client_us: CPU of the client process, microseconds.
        round_trips: with the server.
    """

    load: str
    server_us: float
    client_us: float
    round_trips: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Of one connection on the server, bytes.

    Attributes:
        token: the key that belongs to it.
        idle: of a connection that has committed once: the token and the server's notes on its client.
        armed: of one that also watches a document for its next transaction.
    """

    token: int
    idle: int
    armed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Connections that a process with one thread holds.

    Attributes:
        documents: how many it updates in turn, again and again.
        connections: on all nodes together.
        most: of them on one node.
    """

    documents: int
    connections: int
    most: int


def _deposit(doc: txstate.Doc) -> None:
    doc.increment("f0")


def _move(tx: txstate.Tx, src: str, dst: str) -> None:
    a, b = tx.get_many([src, dst])
    a.increment("f0", -1)
    b.increment("f0", 1)


def costs(url: str, nodes: Sequence[redis.Redis], *, seconds: float, tag: Callable[[int], str]) -> list[Cost]:
    """Measure each load, with one process and one connection a node.

    Args:
        url: what the store opens.
        nodes: a client of each node, to ask for its CPU time.
        seconds: for each load.
        tag: the hash tag of the pair of documents of this number.
    """
    chance = random.Random(1)  # noqa: S311 - repeatable

    def pair(number: int) -> tuple[str, str]:
        return f"{{{tag(number)}}}:a", f"{{{tag(number)}}}:b"

    def neighbours(number: int) -> tuple[str, str]:
        return f"{{{tag(0)}}}:a{number}", f"{{{tag(0)}}}:b{number}"

    with txstate.Store(url) as store:
        for key in pair(0):
            store.put(key, {f"f{number}": number for number in range(_FIELDS)})
        return [
            _cost("update of one document, again and again", store, nodes, seconds, lambda: store.update(pair(0)[0], _deposit)),
            _cost("transfer between two, again and again", store, nodes, seconds, lambda: store.run(_move, *pair(0))),
            _cost(TWO_OF_MANY, store, nodes, seconds, lambda: store.run(_move, *pair(chance.randrange(_MANY)))),
            _cost(ONE_SLOT, store, nodes, seconds, lambda: store.run(_move, *neighbours(chance.randrange(_MANY)))),
            _cost("get of one document", store, nodes, seconds, lambda: store.get(pair(0)[0])),
        ]  # fmt: skip


def _cost(
    load: str, store: txstate.Store, nodes: Sequence[redis.Redis], seconds: float, once: Callable[[], Any]
) -> Cost:
    for _ in range(_WARM_UP):
        once()
    before, count = store.stats(), 0
    server, client, until = _server_cpu(nodes), time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        once()
        count += 1
    client, server = time.process_time() - client, _server_cpu(nodes) - server
    after = store.stats()
    done = after.commits + after.reads - before.commits - before.reads
    if done != count:
        raise RuntimeError(f"{count} transactions were made, and {done} counted")
    return Cost(
        load=load,
        server_us=1e6 * server / count,
        client_us=1e6 * client / count,
        round_trips=(after.round_trips - before.round_trips) / count,
    )


def weight(url: str, node: redis.Redis, *, connections: int) -> Weight:
    """Open as many stores, with one connection each, and ask the server what it has grown by.

    Args:
        url: what the stores open.
        node: a client of the server.
        connections: how many.
    """
    key = "weighed"
    with txstate.Store(url) as first:
        first.put(key, {f"f{number}": number for number in range(_FIELDS)})
        stores = [txstate.Store(url) for _ in range(connections)]
        try:
            empty = _memory(node)
            for store in stores:
                store.update(key, _deposit)
            idle = _memory(node)
            for store in stores:
                for _ in range(3):
                    store.update(key, _deposit)
            armed = _memory(node)
            token = next(iter(node.scan_iter("*token:*")))
            token_bytes = int(node.memory_usage(token) or 0)
        finally:
            for store in stores:
                store.close()
    return Weight(token=token_bytes, idle=(idle - empty) // connections, armed=(armed - empty) // connections)


def held(url: str, nodes: Sequence[redis.Redis], *, documents: int) -> Held:
    """Update so many documents in turn, a few times, and ask the nodes how many connections that left.

    Args:
        url: what the store opens.
        nodes: a client of each node.
        documents: how many.
    """
    before = [_clients(node) for node in nodes]
    with txstate.Store(url) as store:
        for _ in range(_ROUNDS):
            for number in range(documents):
                store.update(f"held{number}", _deposit)
        grown = [_clients(node) - count for node, count in zip(nodes, before, strict=True)]
    return Held(documents=documents, connections=sum(grown), most=max(grown))


def _clients(node: redis.Redis) -> int:
    return int(node.info("clients")["connected_clients"])


def _memory(node: redis.Redis) -> int:
    return int(node.info("memory")["used_memory"])


def _server_cpu(nodes: Sequence[redis.Redis]) -> float:
    """Seconds of CPU since the start."""
    used = [node.info("cpu") for node in nodes]
    return sum(float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]) for cpu in used)
