"""A store on a cluster: where a transaction goes, what it may span, and that everything else is as on one server."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio.cluster
import redis.cluster
from support.twins import both_twins, open_twin

from txstate import AsyncStore, AsyncTx, CrossSlotError, ServerRefused, Store, StoreUnavailable, UsageError
from txstate._engine.slots import slot_of

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.servers import ServerHandle

PAIR = ["{acct}:1", "{acct}:2"]


def copied(store: Store) -> Store:
    copy: Store = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    return copy


async def transfer(tx: AsyncTx, amount: int, keys: list[str] = PAIR) -> None:
    source, target = await tx.get_many(keys)
    source["balance"] = source.get("balance", 0) - amount
    target["balance"] = target.get("balance", 0) + amount


async def transfer_between(tx: AsyncTx, keys: list[str]) -> None:
    await transfer(tx, 5, keys)


async def one_by_one(tx: AsyncTx, keys: list[str]) -> None:
    for key in keys:
        (await tx.get(key))["seen"] = True


def tokens(cluster: Cluster) -> list[str]:
    return [
        name
        for node in cluster.primaries()
        for name in cluster.ask(node, "KEYS", "*__txstate__:*")
        if name.rpartition("__txstate__:")[2].startswith("token:")
    ]


@both_twins
def test_two_documents_of_one_slot_change_together(kind: str, any_cluster: Cluster) -> None:
    with open_twin(kind, any_cluster.url) as twin:
        for _ in range(10):
            twin.run(transfer, 5)
        found = twin.get_many(PAIR)
        assert [found[key]["balance"] for key in PAIR if (found[key])] == [-50, 50]  # type: ignore[index]
    # The documents and the token are where the cluster looks for them.
    with redis.cluster.RedisCluster(host="127.0.0.1", port=any_cluster.nodes[0].port) as client:
        assert client.hget(PAIR[1], "balance") == b"50"
    assert {slot_of(name.encode()) for name in tokens(any_cluster)} == {slot_of(b"acct")}


@both_twins
def test_documents_all_over_the_cluster(kind: str, cluster: Cluster) -> None:
    keys = [f"key:{number}" for number in range(60)]
    with open_twin(kind, cluster.url) as twin:
        for _ in range(2):
            for key in keys:
                twin.update(key, lambda doc: doc.increment("n"))
        assert {
            key: snapshot and snapshot["n"] for key in keys if (snapshot := twin.get(key))
        } == dict.fromkeys(keys, 2)
        # A place that is idle on one node is used again there.
        assert twin.stats.connections < len(keys)
    assert all(any(int(cluster.ask(node, "DBSIZE")) for node in [primary]) for primary in cluster.primaries())


@both_twins
def test_a_single_connection_serves_all_nodes(kind: str, cluster: Cluster) -> None:
    with open_twin(kind, cluster.url, max_connections=1) as twin:
        for number in range(30):
            twin.update(f"key:{number}", lambda doc: doc.increment("n"))
        assert all(twin.get(f"key:{number}") == {"n": 1} for number in range(30))


@both_twins
@pytest.mark.parametrize(("documents", "most"), [(1, 1), (3, 3), (10, 8 + 3), (100, 3)])
def test_one_caller_holds_a_connection_for_each_document_that_it_repeats_and_else_one_for_each_primary(
    kind: str, cluster: Cluster, documents: int, most: int
) -> None:
    """What docs/scaling.md multiplies by 1,000 processes."""
    with open_twin(kind, cluster.url) as twin:
        for _ in range(4):
            for number in range(documents):
                twin.update(f"held{number}", lambda doc: doc.increment("n"))
        assert 1 <= twin.stats.connections <= most


@both_twins
@pytest.mark.parametrize("at_once", [True, False])
def test_keys_in_several_slots_are_refused_before_anything_is_sent(
    kind: str, cluster: Cluster, *, at_once: bool
) -> None:
    keys = ["acct:1", "acct:2"]
    with open_twin(kind, cluster.url) as twin:
        with pytest.raises(CrossSlotError) as caught:
            twin.run(transfer_between if at_once else one_by_one, keys)
        assert "'{acct}:1' and '{acct}:2'" in str(caught.value)
        assert str(slot_of(b"acct:2")) in str(caught.value)
        assert "acct:2" in caught.value.keys
        assert twin.stats.round_trips == (0 if at_once else 2)  # the proof of rights, and the first read
        with pytest.raises(CrossSlotError, match="get_each reads each on its own"):
            twin.get_many(keys)
        assert twin.get("acct:1") is None


@both_twins
def test_a_function_may_go_to_another_slot_in_its_next_attempt(kind: str, cluster: Cluster) -> None:
    with open_twin(kind, cluster.url) as twin, open_twin("sync", cluster.url) as other:

        async def fickle(tx: AsyncTx) -> None:
            doc = await tx.get("a" if tx.attempt == 1 else "b")
            if tx.attempt == 1:
                other.put("a", {"taken": True})
            doc["n"] = tx.attempt

        twin.run(fickle)
        assert twin.get("a") == {"taken": True}
        assert twin.get("b") == {"n": 2}


@both_twins
def test_a_namespace_with_a_hash_tag_puts_everything_into_one_slot(kind: str, cluster: Cluster) -> None:
    with open_twin(kind, cluster.url, namespace="{app}:") as twin:
        twin.run(transfer, 5, ["left", "right"])
        assert twin.get("right") == {"balance": 5}
    assert all(name.startswith("{app}:__txstate__:token:") for name in tokens(cluster))
    assert tokens(cluster)


@pytest.mark.parametrize("twin", [Store, AsyncStore])
def test_what_a_cluster_can_not_be_opened_with(twin: type[Store]) -> None:
    with pytest.raises(UsageError, match="one database, 0"):
        twin("redis+cluster://127.0.0.1:7000/1")
    with pytest.raises(UsageError, match="makes no hash tag"):
        twin("redis+cluster://127.0.0.1:7000", namespace="app{")
    store: Any = twin("redis+cluster://127.0.0.1:7000")
    with pytest.raises(UsageError, match="makes no hash tag"):
        store.options(namespace="{}:")
    for address in ("redis+cluster://", "redis+cluster://a:1,", "redis+cluster://a:x", "unix+cluster://a"):
        with pytest.raises(UsageError):
            twin(address)


@both_twins
def test_nobody_who_is_asked_is_a_node_of_a_cluster(
    kind: str, cluster: Cluster, valkey9: ServerHandle
) -> None:
    """Those that are gone may come back, so they are waited for; whoever refuses goes on refusing."""
    nowhere = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    with open_twin(kind, nowhere, deadline=0.5) as twin:
        with pytest.raises(StoreUnavailable, match=r"Connection refused|Connect call failed"):
            twin.get("k")
        with pytest.raises(StoreUnavailable, match="nothing was applied"):
            twin.put("k", {"n": 1})
        assert twin.stats.disruptions > 4
    a_server = f"redis+cluster://127.0.0.1:{valkey9.port}"
    with open_twin(kind, a_server) as twin, pytest.raises(ServerRefused, match="cluster support disabled"):
        twin.put("k", {"n": 1})
    a_stranger = cluster.url.replace("://", "://nobody:wrong@")
    with open_twin(kind, a_stranger) as twin, pytest.raises(ServerRefused, match="WRONGPASS"):
        twin.put("k", {"n": 1})


@both_twins
def test_a_node_that_is_named_as_a_server_says_what_it_is(kind: str, cluster: Cluster) -> None:
    node = cluster.other_primary(cluster.owner(slot_of(PAIR[0].encode())))
    with open_twin(kind, node.url) as twin:
        with pytest.raises(ServerRefused, match=r"Open the cluster: redis\+cluster://") as reading:
            twin.get(PAIR[0])
        assert reading.value.code == "MOVED"
        # As its token's slot is random, the node may have that, but not together with the documents'.
        for _ in range(10):
            with pytest.raises((ServerRefused, CrossSlotError), match=r"Open the cluster: redis\+cluster://"):
                twin.run(transfer, 5)


def test_a_store_is_its_address_in_another_process(cluster: Cluster) -> None:
    with Store(cluster.url, namespace="n:") as store:
        store.put("a", {"b": 1})
        assert store.url == cluster.url
        with copied(store) as copy:
            assert copy.get("a") == {"b": 1}


def test_the_settings_of_a_client_are_taken_over(cluster: Cluster) -> None:
    with (
        redis.cluster.RedisCluster(
            host="127.0.0.1", port=cluster.nodes[0].port, client_name="mine"
        ) as client,
        Store(client=client) as store,
    ):
        store.put("a", {"b": 1})
        assert store.get("a") == {"b": 1}
        names = [link["name"] for node in cluster.primaries() for link in cluster.ask(node, "CLIENT LIST")]
        assert names.count("mine") == 1
        with copied(store) as copy:
            assert copy.get("a") == {"b": 1}
        with Store(store.url) as other:
            assert other.get("a") == {"b": 1}


def test_the_settings_of_an_asyncio_client_are_taken_over(cluster: Cluster) -> None:
    client = redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)

    async def main() -> None:
        async with AsyncStore(client=client) as store:
            await store.put("a", {"b": 1})
            assert await store.get("a") == {"b": 1}

    asyncio.run(main())
    with pytest.raises(UsageError, match=r"takes a redis\.RedisCluster"):
        Store(client=client)


def test_a_pipeline_is_no_client(cluster: Cluster) -> None:
    with (
        redis.cluster.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client,
        pytest.raises(UsageError, match=r"not redis\.cluster\.ClusterPipeline"),
    ):
        Store(client=client.pipeline())


@both_twins
@pytest.mark.parametrize("fields", [None, ["n"]])
def test_documents_in_any_slot_are_read_each_on_its_own(
    kind: str, cluster: Cluster, fields: list[str] | None
) -> None:
    keys = [f"key:{number}" for number in range(60)]
    with open_twin(kind, cluster.url) as twin:
        for key in keys:
            twin.put(key, {"n": key})
        before = twin.stats.round_trips
        found = twin.get_each([*keys, "missing"], fields)
        assert {key: doc and doc["n"] for key, doc in found.items()} == {
            **{key: key for key in keys},
            "missing": None,
        }
        assert twin.stats.round_trips - before == 3  # one for each node
        # A node that a slot has left since answers for the others all the same.
        cluster.move(slot_of(keys[5].encode()))
        assert all(doc and doc["n"] == key for key, doc in twin.get_each(keys, fields).items())


@both_twins
def test_keys_are_listed_on_all_primaries(kind: str, cluster: Cluster) -> None:
    keys = {f"key:{number}" for number in range(60)}
    with open_twin(kind, cluster.url, namespace="n:") as twin:
        for key in keys:
            twin.put(key, {"n": 1})
        assert sorted(twin.keys("key:")) == sorted(keys)
        cluster.fail_over(slot_of(b"n:key:1"))
        assert set(twin.keys()) == keys
    with open_twin(kind, cluster.url, namespace="{n}:") as twin:
        twin.put("one", {"n": 1})
        assert twin.keys() == ["one"]


@both_twins
def test_a_document_that_has_not_moved_yet_is_there_for_who_connects_while_its_slot_moves(
    kind: str, any_cluster: Cluster
) -> None:
    """A new connection's token is at the slot's new node; a document that is read without it may still be at the old one."""
    slot = slot_of(b"{x}")
    here = any_cluster.owner(slot)
    there = any_cluster.other_primary(here)
    with open_twin(kind, any_cluster.url) as twin:
        twin.put("{x}1", {"n": 1})
        twin.put("{x}2", {"n": 2})
    try:
        any_cluster.begin_move(slot, here, there)
        for moved in (False, True):
            for fields in (None, ["n"]):
                with open_twin(kind, any_cluster.url) as twin:  # no connection yet
                    for number in (1, 2):
                        snapshot = twin.get(f"{{x}}{number}", fields)
                        assert snapshot is not None
                        assert snapshot["n"] == number
                    assert twin.get("{x}3", fields) is None
                    assert None not in twin.get_each(["{x}2", "{x}1"], fields).values()
            if not moved:
                any_cluster.move_key("{x}1", here, there)
    finally:
        any_cluster.end_move(slot, here, there)
