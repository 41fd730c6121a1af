"""How the nodes of a cluster are reached: by host names, by IPv6, by a client of redis-py; by threads, tasks and forks."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio.cluster
import redis.cluster
from support import bank
from support.cluster import Cluster, start_cluster
from support.forks import in_child
from support.ledger import Tally
from support.servers import ServerMissingError
from support.twins import SyncTwin, both_twins, open_twin
from support.wire import eventually

from txstate._engine.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.figures import Figures

    from txstate import AsyncTx, Doc

SLOT = slot_of(bank.TAG)
KEY = bank.ACCOUNTS[0]

NAMED = {"cluster_announce_hostname": "localhost", "cluster_preferred_endpoint_type": "hostname"}
BY_IPV6 = {"bind": "127.0.0.1 ::1", "cluster_announce_ip": "::1"}


def add_one(doc: Doc) -> None:
    doc.increment("n")


@pytest.fixture(
    scope="module",
    params=[("valkey9", "localhost", NAMED), ("redis8", "::1", BY_IPV6)],
    ids=["names", "IPv6"],
)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, str]]:
    """A cluster, and the host that all its nodes say they are on."""
    name, host, options = request.param
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    try:
        cluster = start_cluster(name, replicas=False, **options)
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with cluster:
        yield cluster, host


@both_twins
@pytest.mark.parametrize("by", ["address", "client"])
def test_nodes_are_reached_where_they_say(kind: str, by: str, place: tuple[Cluster, str]) -> None:
    cluster, host = place
    cluster.clean()
    assert {primary[0] for *_, primary in cluster.ask(cluster.nodes[0], "CLUSTER SLOTS")} == {host}
    port = cluster.nodes[0].port
    clients: dict[str, Any] = {
        "sync": redis.cluster.RedisCluster,
        "async": redis.asyncio.cluster.RedisCluster,
    }
    bracketed = f"[{host}]" if ":" in host else host
    url = [f"redis+cluster://{bracketed}:{port}"] if by == "address" else []
    options = {} if url else {"client": clients[kind](host=host, port=port)}
    keys = [f"key:{number}" for number in range(12)]
    with open_twin(kind, *url, **options) as twin:
        for _ in range(2):
            for key in keys:
                twin.update(key, add_one)
        slot = slot_of(keys[0].encode())
        here = next(node for node in cluster.nodes if cluster.ask(node, "CLUSTER COUNTKEYSINSLOT", slot))
        there = cluster.other_primary(here)
        cluster.begin_move(slot, here, there)
        while cluster.move_keys(slot, here, there):
            pass
        twin.update(keys[0], add_one)
        cluster.end_move(slot, here, there)
        assert twin.update(keys[0], add_one) == {"n": 4}
        assert twin.get(keys[0]) == {"n": 4}
        assert twin.stats.disruptions == 2  # sent there by ASK, and by MOVED


@pytest.mark.fault(number=21)
@both_twins
def test_a_cluster_that_is_gone_as_a_whole_is_waited_for(
    kind: str, cluster: Cluster, figures: Figures
) -> None:
    """Nobody is left to ask who serves what; a call that has met that, in the middle of its life or as its first, goes on."""
    with open_twin(kind, cluster.url, deadline=30.0) as known, ThreadPoolExecutor(2) as pool:
        known.update(KEY, add_one)
        for node in cluster.nodes:
            cluster.kill(node)
        with open_twin(kind, cluster.url, deadline=30.0) as new:
            calls = [
                pool.submit(twin.put, f"{{bank}}:{name}", {"n": 1})
                for name, twin in (("known", known), ("new", new))
            ]
            eventually(lambda: known.stats.disruptions > 3 and new.stats.disruptions > 3)
            for node in cluster.nodes:
                node.launch()
            assert [call.result() for call in calls] == [{"n": 1}, {"n": 1}]
            assert known.get_many(["{bank}:known", "{bank}:new"]) == {
                "{bank}:known": {"n": 1},
                "{bank}:new": {"n": 1},
            }
            disrupted = known.stats.disruptions + new.stats.disruptions
    figures(cluster.nodes[0], fired=disrupted, tally=Tally(attempted=2, acknowledged=2, applied=2))


@pytest.mark.fault(number=21)
@both_twins
def test_calls_of_one_process_share_commits_while_the_slot_moves(
    kind: str, cluster: Cluster, figures: Figures
) -> None:
    """Threads, or tasks, on one document: each call is applied once, whoever commits for it, wherever the slot is."""
    stop, calls = threading.Event(), 8
    with open_twin(kind, cluster.url) as twin, ThreadPoolExecutor(calls) as pool:
        twin.put(KEY, {"n": 0})

        async def mark(tx: AsyncTx, marker: str) -> None:
            doc = await tx.get(KEY)
            doc[marker] = doc.get(marker, 0) + 1
            doc.increment("n")

        def work(name: int) -> int:
            done = 0
            while not stop.is_set():
                twin.run(mark, f"{name}-{done % 50}")
                done += 1
            return done

        workers = [pool.submit(work, name) for name in range(calls)]
        try:
            here = cluster.owner(SLOT)
            there = cluster.other_primary(here)
            for number in range(6):
                move = cluster.move if number % 4 < 2 else cluster.move_at_once
                move(SLOT, there if number % 2 == 0 else here)
        finally:
            stop.set()
        done = sum(worker.result() for worker in workers)
        found = twin.get(KEY)
        assert found is not None
        assert sum(count for name, count in found.items() if name != "n") == found["n"] == done
        stats = twin.stats
        assert stats.round_trips < done, "nobody shared"
        tally = Tally(attempted=done, acknowledged=done, applied=found["n"])
        figures(here, fired=stats.disruptions, resolved=stats, tally=tally)


def test_parent_and_forked_child_go_on_with_connections_of_their_own(cluster: Cluster) -> None:
    with SyncTwin(cluster.url) as twin:
        for _ in range(3):
            twin.update(KEY, add_one)
        before = twin.stats.connections
        in_child(lambda: [twin.update(key, add_one) for key in (KEY, "elsewhere")])
        assert [twin.update(KEY, add_one)["n"] for _ in range(3)] == [5, 6, 7]
        assert twin.get("elsewhere") == {"n": 1}
        assert twin.stats.connections <= before + 1  # for the node that it had not asked for anything yet
