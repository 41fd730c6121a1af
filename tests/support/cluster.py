"""A real cluster for tests: primaries and replicas on loopback, whose slots can be moved and whose nodes can be killed.

Knows nothing of pytest: the fixture is in conftest.py.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.servers import ServerHandle, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

SLOTS: Final = 16384
_PATIENCE: Final = 60.0
_PAGE: Final = 1000
_TIMEOUT: Final = 800  # milliseconds until a silent node counts as failed


@dataclass
class Cluster:
    """A running cluster. `start_cluster` makes one; a context manager that stops it.

    Attributes:
        nodes: its servers; at first the primaries, then as many replicas in the same order.
    """

    nodes: list[ServerHandle]
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def url(self) -> str:
        """Of two of its nodes."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[:2])}"

    @property
    def version(self) -> str:
        return self.nodes[0].version

    def ask(self, node: ServerHandle, *command: object) -> Any:
        """Have one node execute a command, whether or not a key of it is there."""
        if node.port not in self._clients:
            # Once more, as the node may have been restarted since the last time.
            self._clients[node.port] = redis.Redis.from_url(
                node.unix_url, decode_responses=True, retry=Retry(NoBackoff(), 1)
            )
        return self._clients[node.port].execute_command(*command)

    def identity(self, node: ServerHandle) -> str:
        """What the nodes call it."""
        return str(self.ask(node, "CLUSTER MYID"))

    def owner(self, slot: int) -> ServerHandle:
        """The primary that says it serves a slot, and that the others say does.

        All have heard of the last change then: a node that takes a slot before it has would give its claim the same
        number (epoch) as that of the last owner, and some would for ever not believe it.
        """
        _until(lambda: len(set(map(self._epoch, self._alive()))) == 1, "all nodes know of the last change")
        return _until(lambda: self._owner(slot), f"slot {slot} has one owner")

    def _epoch(self, node: ServerHandle) -> str:
        return str(self.info(node)["cluster_current_epoch"])

    def _owner(self, slot: int) -> ServerHandle | None:
        ports = set()
        for node in self._alive():
            for first, last, primary, *_ in self.ask(node, "CLUSTER SLOTS"):
                if first <= slot <= last:
                    ports.add(primary[1])
        found = [node for node in self._alive() if ports == {node.port}]
        return found[0] if found else None

    def primaries(self) -> list[ServerHandle]:
        """The nodes that say they are."""
        return [node for node in self._alive() if self.ask(node, "ROLE")[0] == "master"]

    def replica_of(self, primary: ServerHandle) -> ServerHandle:
        """A replica of it, in step with it."""

        def found() -> ServerHandle | None:
            for node in self._alive():
                role = self.ask(node, "ROLE")
                if role[0] == "slave" and role[2] == primary.port and role[3] == "connected":
                    return node
            return None

        return _until(found, f"{primary.port} has a replica")

    def other_primary(self, node: ServerHandle) -> ServerHandle:
        """Another primary."""
        return next(primary for primary in self.primaries() if primary.port != node.port)

    # Moving a slot.

    def begin_move(self, slot: int, source: ServerHandle, target: ServerHandle) -> None:
        """From now on ASK and TRYAGAIN may be answered."""
        self.ask(target, "CLUSTER SETSLOT", slot, "IMPORTING", self.identity(source))
        self.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.identity(target))

    def move_keys(self, slot: int, source: ServerHandle, target: ServerHandle) -> int:
        """Move some keys of a slot. Returns how many there were."""
        keys = self.ask(source, "CLUSTER GETKEYSINSLOT", slot, _PAGE)
        for key in keys:
            self.move_key(key, source, target)
        return len(keys)

    def move_key(self, key: str, source: ServerHandle, target: ServerHandle) -> None:
        """Move one key of a slot. The target must not have it."""
        self.ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)

    def calls(self, node: ServerHandle, command: str) -> int:
        """How often a node has executed a command."""
        with redis.Redis.from_url(node.unix_url) as client:
            found = client.info("commandstats").get(f"cmdstat_{command}")
        return int(found["calls"]) if found else 0

    def end_move(self, slot: int, source: ServerHandle, target: ServerHandle) -> None:
        """Move what is left; then the target owns the slot. It is told first, so that nobody says it is nobody's."""
        while self.move_keys(slot, source, target):
            pass
        name = self.identity(target)
        for node in (target, source, *self.primaries()):
            self.ask(node, "CLUSTER SETSLOT", slot, "NODE", name)

    def move(self, slot: int, target: ServerHandle | None = None) -> ServerHandle:
        """Move a slot key by key. Returns its new owner."""
        source = self.owner(slot)
        target = target or self.other_primary(source)
        self.begin_move(slot, source, target)
        self.end_move(slot, source, target)
        return target

    def move_at_once(self, slot: int, target: ServerHandle | None = None) -> ServerHandle:
        """Move a slot by `CLUSTER MIGRATESLOTS` (Valkey 9). Returns its new owner."""
        source = self.owner(slot)
        target = target or self.other_primary(source)
        self.ask(source, "CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.identity(target))
        _until(lambda: self._owner(slot) is target, f"slot {slot} has moved")
        return target

    # Failing over.

    def kill(self, node: ServerHandle) -> None:
        """By SIGKILL."""
        node.stop(kill=True)

    def fail_over(self, slot: int) -> ServerHandle:
        """Have a replica take over from the slot's owner, which becomes its replica. Returns the new owner."""
        owner = self.owner(slot)
        replica = self.replica_of(owner)
        self.ask(replica, "CLUSTER FAILOVER")
        _until(lambda: self._owner(slot) is replica, f"slot {slot} has failed over")
        return replica

    def wait_for_failover(self, slot: int, dead: ServerHandle) -> ServerHandle:
        """Wait until another node owns the slot."""

        def taken_over() -> ServerHandle | None:
            found = self._owner(slot)
            return None if found is dead else found

        return _until(taken_over, f"slot {slot} has failed over")

    def clean(self) -> None:
        """Bring back all nodes, and remove all data."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.launch()
        self.wait_until_whole()
        for primary in self.primaries():
            self.ask(primary, "FLUSHALL")

    def wait_until_whole(self) -> None:
        """Every node knows of all slots and all nodes, and each replica is in step."""
        _until(lambda: all(self._is_whole(node) for node in self.nodes), "the cluster is whole")

    def _is_whole(self, node: ServerHandle) -> bool:
        known = self.ask(node, "CLUSTER SLOTS")
        role = self.ask(node, "ROLE")
        return (
            self.info(node)["cluster_state"] == "ok"
            and len({part[1] for entry in known for part in entry[2:]}) == len(self.nodes)
            and (role[0] == "master" or role[3] == "connected")
        )

    def info(self, node: ServerHandle) -> dict[str, str]:
        """What a node tells of the state of the cluster."""
        state = self.ask(node, "CLUSTER INFO")
        return dict(line.split(":", 1) for line in state.split()) if isinstance(state, str) else state

    def _alive(self) -> Iterator[ServerHandle]:
        return (node for node in self.nodes if node.process.poll() is None)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_cluster(
    name: str = "valkey9", primaries: int = 3, *, replicas: bool = True, **options: str | int
) -> Cluster:
    """Start a cluster.

    Args:
        name: of `servers.BINARIES`.
        primaries: how many.
        replicas: whether each has one.
        options: of each node's configuration, as `servers.start` takes them.

    Raises:
        ServerMissingError: there is no such server here.
        RuntimeError: a node does not start.
    """
    settings: dict[str, str | int] = {
        "cluster_enabled": "yes",
        "cluster_node_timeout": _TIMEOUT,
        "cluster_replica_validity_factor" if name != "redis6" else "cluster_slave_validity_factor": 0,
        "repl_diskless_sync_delay": 0,
        **options,
    }
    with ThreadPoolExecutor() as pool:
        nodes = list(pool.map(lambda _: start(name, **settings), range(primaries * (2 if replicas else 1))))
    cluster = Cluster(nodes)
    try:
        _form(cluster, primaries)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _form(cluster: Cluster, primaries: int) -> None:
    first, *others = cluster.nodes
    for number, node in enumerate(cluster.nodes):
        cluster.ask(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
    for node in others:
        cluster.ask(first, "CLUSTER MEET", "127.0.0.1", node.port)
    for number, primary in enumerate(cluster.nodes[:primaries]):
        slots = range(number * SLOTS // primaries, (number + 1) * SLOTS // primaries)
        cluster.ask(primary, "CLUSTER ADDSLOTS", *slots)
    for primary, replica in zip(cluster.nodes, cluster.nodes[primaries:], strict=False):
        name = cluster.identity(primary)
        _until(partial(_joins, cluster, replica, name), "a replica has joined")
    cluster.wait_until_whole()


def _joins(cluster: Cluster, replica: ServerHandle, primary: str) -> bool:
    with contextlib.suppress(redis.ResponseError):  # it has not heard of the primary yet
        return bool(cluster.ask(replica, "CLUSTER REPLICATE", primary))
    return False


def _until(condition: Callable[[], T | None], what: str) -> T:
    """Wait for something true, and return it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(redis.ConnectionError):
            found = condition()
            if found:
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {_PATIENCE} s in vain until {what}")
        time.sleep(0.01)
