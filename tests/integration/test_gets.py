"""`get` of one document: by one command and no attempt, and what becomes of it when something is unusual."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import redis
from support.twins import both_twins, open_twin
from support.wire import eventually

from txstate import AsyncStore, CodecError, Retry, Store, StoreUnavailable, UsageError, WrongType
from txstate.testing import DropReply, FaultProxy, HoldReply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.servers import ServerHandle
    from support.twins import Twin

KEYS = ("doc", "empty", "foreign", "missing")


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    """Another client, which has written some documents."""
    with redis.Redis.from_url(server.unix_url) as client:
        client.flushall()
        client.hset("foreign", mapping={"n": 1, "text": '"x"'})
        yield client


def prepare(twin: Twin) -> None:
    """Write the others, and leave an idle connection behind."""
    twin.put("doc", {"n": 1, "list": [1, {"a": 2}]})
    twin.put("empty", {})


def asked(admin: redis.Redis) -> dict[str, int]:
    """How often each command was run since the last time."""
    counts = {
        name.removeprefix("cmdstat_"): told["calls"] for name, told in admin.info("commandstats").items()
    }
    admin.config_resetstat()
    return {
        name: calls for name, calls in counts.items() if name not in {"info", "config|resetstat", "config"}
    }


@both_twins
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("fields", [None, [], ["n"], ["absent"], ["n", "absent", "list"]], ids=str)
def test_it_reads_what_get_many_reads_by_fewer_commands(
    server: ServerHandle, admin: redis.Redis, kind: str, protocol: int, fields: Sequence[str] | None
) -> None:
    with open_twin(kind, f"{server.url}?protocol={protocol}") as twin:
        prepare(twin)
        for key in KEYS:
            before = twin.stats
            asked(admin)
            got = twin.get(key, fields)
            commands, after = asked(admin), twin.stats
            told = key != "foreign" or fields is None or "n" in fields
            read = {"hgetall": 1} if fields is None else {"hmget": 1, "exists": 1}
            assert commands == {**read, "role": 1} or not told
            assert after.round_trips == before.round_trips + (1 if told else 2)
            assert (after.reads, after.attempts) == (before.reads + 1, before.attempts)
            (same,) = twin.get_each([key], fields).values()
            assert repr(got) == repr(same)
            assert (got is None) is (key == "missing")
        assert twin.stats.connections == 1


@both_twins
def test_watches_that_another_call_left_behind_are_ended(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    with open_twin(kind, server.url) as twin:
        prepare(twin)
        with pytest.raises(KeyError):
            twin.update("foreign", lambda doc: doc["absent"])
        asked(admin)
        for _ in range(3):
            assert twin.get("doc")
        assert asked(admin) == {"unwatch": 1, "hgetall": 3, "role": 3}
        admin.hset("foreign", "n", 5)
        assert twin.update("empty", lambda doc: doc.update(n=1)) == {"n": 1}
        assert (twin.stats.conflicts, twin.stats.connections) == (0, 1)


@both_twins
def test_what_cannot_be_read_is_told_and_costs_no_connection(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    admin.set("text", "x")
    admin.hset("bad version", mapping={"n": 1, "__version__": "x"})
    with open_twin(kind, server.url) as twin:
        prepare(twin)
        for fields in (None, ["n"]):
            with pytest.raises(WrongType, match="text"):
                twin.get("text", fields)
            with pytest.raises(CodecError, match="bad version"):
                twin.get("bad version", fields)
        with pytest.raises(UsageError, match="fields='n'"):
            twin.get("doc", "n")
        with pytest.raises(UsageError):
            twin.get("__txstate__:x")
        with pytest.raises(UsageError):
            twin.get(5)  # type: ignore[arg-type]
        assert twin.get("doc") == {"n": 1, "list": [1, {"a": 2}]}
        assert twin.stats.connections == 1


@both_twins
def test_a_lost_reply_is_asked_for_again(server: ServerHandle, admin: redis.Redis, kind: str) -> None:
    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url) as twin:
        prepare(twin)
        before = twin.stats
        lost = proxy.inject(DropReply(), "HGETALL")
        assert twin.get("foreign") == {"n": 1, "text": "x"}
        assert lost.fired == 1
        after = twin.stats
        assert (after.disruptions, after.reads) == (before.disruptions + 1, before.reads + 1)
        assert after.connections == before.connections + 1
        assert after.round_trips == before.round_trips + 3, "the lost one, connecting, and the other one"


@both_twins
def test_a_connection_that_was_closed_meanwhile_is_replaced(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    with open_twin(kind, server.url) as twin:
        prepare(twin)
        admin.client_kill_filter(_type="normal", skipme=True)
        assert twin.get("foreign") == {"n": 1, "text": "x"}
        assert twin.stats.connections == 2


@both_twins
def test_it_waits_no_longer_than_its_deadline(server: ServerHandle, admin: redis.Redis, kind: str) -> None:
    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url, timeout=30) as twin:
        prepare(twin)
        held = proxy.inject(HoldReply(), "HGETALL", times=5)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            twin.hasty(0.3).get("doc")
        assert time.monotonic() - began < 10
        assert held.fired == 1
        held.cancel()
        assert twin.get("foreign") == {"n": 1, "text": "x"}, "and not the reply that was late"


@both_twins
def test_a_primary_no_more_is_not_read_from(server: ServerHandle, admin: redis.Redis, kind: str) -> None:
    with open_twin(kind, server.url) as twin:
        prepare(twin)
        admin.replicaof("127.0.0.1", "1")
        try:
            for fields in (None, ["n"]):
                with pytest.raises(StoreUnavailable, match="not a primary"):
                    twin.hasty(0.3).get("doc", fields)
        finally:
            admin.replicaof("NO", "ONE")
        assert twin.get("doc")


def test_a_document_that_comes_and_goes_is_never_seen_in_parts(
    server: ServerHandle, admin: redis.Redis
) -> None:
    """HMGET and EXISTS are no transaction: what one of them finds may have gone before the other comes."""
    with redis.Redis.from_url(server.unix_url) as other, Store(server.url) as store:
        store.put("another", {})
        until, seen = time.monotonic() + 0.5, set[str]()
        pipe = other.pipeline(transaction=False)
        for _ in range(50):
            pipe.hset("doc", mapping={"a": 1, "b": 1})
            pipe.delete("doc")
        while time.monotonic() < until and len(seen) < 100:
            pipe.execute()
            seen.add(repr(store.get("doc", ["a", "b"])))
        assert seen == {"None"}


def test_a_task_that_is_cancelled_while_it_reads_leaves_no_reply_to_another(
    server: ServerHandle, admin: redis.Redis
) -> None:
    async def scenario() -> None:
        async with AsyncStore(proxy.url, max_connections=1) as store:
            await store.put("doc", {"n": 1})
            held = proxy.inject(HoldReply(), "HGETALL")
            task = asyncio.create_task(store.get("doc"))
            await asyncio.to_thread(eventually, lambda: held.fired == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.cancel()
            assert await store.get("foreign") == {"n": 1, "text": "x"}
            assert store.stats().connections == 2

    with FaultProxy(server.url) as proxy:
        asyncio.run(scenario())


def test_who_waits_for_a_connection_comes_first(server: ServerHandle, admin: redis.Redis) -> None:
    """And gets it when a reading is done."""

    async def scenario() -> None:
        async with AsyncStore(server.url, max_connections=1) as store:
            await store.put("doc", {"n": 1})
            done: list[int] = []

            async def read(number: int) -> None:
                await store.get("doc")
                done.append(number)

            await asyncio.gather(*map(read, range(50)))
            assert done == list(range(50))
            assert store.stats().connections == 1

    asyncio.run(scenario())


def test_views_keep_to_their_own_deadlines_and_namespaces(server: ServerHandle, admin: redis.Redis) -> None:
    with Store(server.url, namespace="a:") as store:
        store.put("doc", {"n": 1})
        assert admin.exists("a:doc") == 1
        assert store.get("doc") == {"n": 1}
        assert store.options(retry=Retry(deadline=1)).get("doc")
        assert store.get("a:doc") is None
