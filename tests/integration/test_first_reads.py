"""Updates of documents that don't come twice in a row: read on the straight way, by a connection that is armed for nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.faults import of_commit, proxied
from support.twins import both_twins, open_twin
from support.wire import eventually

from txstate import (
    AsyncStore,
    CodecError,
    FieldNotLoaded,
    Retry,
    ServerRefused,
    Store,
    StoreUnavailable,
    UsageError,
    WrongType,
)
from txstate._engine.attempt import Attempt
from txstate.testing import DropReply, FaultProxy, HoldReply, HoldRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import ServerHandle

    from txstate import AsyncTx, Doc, Tx

SOON = 1000
"""Milliseconds after which a field expires."""


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    """Another client."""
    with redis.Redis.from_url(server.unix_url) as client:
        client.flushall()
        client.config_resetstat()
        yield client


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Attempt]:
    """The attempts that the long way has made."""

    def begin(self: Attempt, *args: Any, **more: Any) -> None:
        made.append(self)
        real(self, *args, **more)

    made, real = list[Attempt](), Attempt.__init__
    monkeypatch.setattr(Attempt, "__init__", begin)
    return made


def add_one(doc: Doc) -> None:
    doc["n"] = doc.get("n", 0) + 1


def once(then: Callable[[], object]) -> Callable[[Doc], None]:
    """`add_one`, which lets something happen before it the first time."""
    left = [then]

    def add(doc: Doc) -> None:
        doc.get("n")
        if left:
            left.pop()()
        add_one(doc)

    return add


@both_twins
@pytest.mark.parametrize("protocol", [2, 3])
def test_they_take_two_round_trips_and_no_attempt(
    server: ServerHandle, admin: redis.Redis, built: list[Attempt], kind: str, protocol: int
) -> None:
    admin.hset("foreign", "n", 1)
    with open_twin(kind, f"{server.url}?protocol={protocol}") as twin:
        twin.put("another", {})
        built.clear()
        before = twin.stats
        assert twin.put("doc", {"n": 1, "list": [1]}) == {"n": 1, "list": [1]}
        assert twin.update("new", add_one) == {"n": 1}
        assert twin.update("foreign", add_one) == {"n": 2}
        assert twin.update("doc", add_one, fields=["n", "m"])["n"] == 2
        assert not built
        after = twin.stats
        assert after.commits == before.commits + 4
        assert after.attempts == before.attempts + 4
        assert after.round_trips == before.round_trips + 8
        assert (after.conflicts, after.connections) == (0, 1)
        assert twin.get("doc") == {"n": 2, "list": [1]}
    assert admin.hget("foreign", "n") == b"2"


@both_twins
def test_another_client_s_write_between_read_and_commit_is_a_conflict(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        admin.hset("doc 1", "n", 5)
        for key, before in (("doc 0", 0), ("doc 1", 5)):
            assert twin.update(key, once(lambda: admin.hincrby(key, "n", 10)))["n"] == before + 11  # noqa: B023 - at once
        assert twin.stats.conflicts == 2


@pytest.mark.parametrize("reader", ["run", "update"])
def test_watches_that_a_reader_left_behind_are_ended_first(
    server: ServerHandle, admin: redis.Redis, reader: str
) -> None:
    """WATCH on a client whose watched keys were modified answers OK, and its EXEC nil."""
    admin.hset("read", "n", 1)
    with Store(server.url) as store:
        store.put("another", {})
        if reader == "run":
            store.run(lambda tx: tx["read"]["n"])
        else:
            with pytest.raises(KeyError):
                store.update("read", lambda doc: doc["m"])
        admin.hset("read", "n", 2)
        assert store.update("doc", add_one) == {"n": 1}
        assert store.stats().conflicts == 0
        assert store.stats().attempts == 3
        assert store.stats().connections == 1


@pytest.mark.parametrize("more", [{}, {"expire": 60}], ids=["straight", "long"])
def test_a_version_does_not_come_back_after_a_deletion(
    server: ServerHandle, admin: redis.Redis, more: dict[str, Any]
) -> None:
    with Store(server.url) as store:
        versions = []
        for number in range(70):  # it is created as one that was not asked for lately
            if number % 69 == 0:
                versions.append(store.put("doc", {"n": 1}, **more).version)
                admin.delete("doc")
            else:
                store.put(f"other {number}", {})
        first, second = versions
        assert second > first > 1_000_000


@both_twins
def test_what_cannot_be_read_or_used_is_told_as_always(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    admin.set("text", "x")
    admin.hset("bad version", mapping={"n": 1, "__version__": "x"})
    admin.hset("bad value", "n", "{")
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        with pytest.raises(WrongType, match="text"):
            twin.update("text", add_one)
        with pytest.raises(CodecError, match="bad version"):
            twin.update("bad version", add_one)
        with pytest.raises(CodecError, match="bad value"):
            twin.update("bad value", add_one)
        with pytest.raises(UsageError):
            twin.update("__txstate__:x", add_one)
        assert twin.update("doc", add_one) == {"n": 1}
        assert twin.stats.connections == 1
    assert admin.hget("bad value", "n") == b"{"


@both_twins
def test_a_part_of_a_document_takes_no_more_round_trips_whosever_it_is(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    """HMGET does not tell a missing document from one that has none of the fields."""

    async def look(tx: AsyncTx, key: str) -> bool:
        return (await tx.get(key, fields=["n"])).exists

    admin.hset("foreign", "n", 1)
    admin.hset("foreign 2", "m", 1)
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        before = twin.stats.round_trips
        assert [twin.run(look, key) for key in ("missing", "another 2", "foreign 3")] == [False] * 3
        assert twin.stats.round_trips == before + 3
        assert twin.run(look, "foreign 2"), "which takes one more"
        assert twin.stats.round_trips == before + 5
        assert twin.update("foreign", add_one, fields=["n"]).version > 1
        assert twin.update("new", add_one, fields=["n"])["n"] == 1
        assert twin.stats.round_trips == before + 9
        assert twin.update("foreign 2", add_one, fields=["n"])["n"] == 1
        with pytest.raises(UsageError):
            twin.update("doc", add_one, fields="n")
        with pytest.raises(FieldNotLoaded, match="other"):
            twin.update("another", lambda doc: doc["other"], fields=["n"])
    assert admin.hgetall("foreign 2").keys() == {b"m", b"n", b"__version__"}


@pytest.mark.parametrize("server", ["valkey9", "redis8"], indirect=True)
def test_where_fields_expire_one_by_one_nothing_is_read_in_vain_each_time(
    server: ServerHandle, admin: redis.Redis
) -> None:
    """INFO tells only that some field on the server does; so documents are asked, until it tells of none any more."""
    admin.hset("leased", "lease", 1)
    admin.hpexpire("leased", 60_000, "lease")
    with Store(server.url) as store:
        store.put("another", {})
        trips: list[int] = []

        def update(name: str) -> None:
            before = store.stats().round_trips
            admin.hset(name, mapping={"n": 1, "text": f'"{"x" * 300}"'})
            store.update(name, add_one)
            trips.append(store.stats().round_trips - before)

        for number in range(3):
            update(f"large {number}")
        assert trips == [4, 3, 3], "the first one shows that encodings tell nothing"
        admin.delete("leased")
        for number in range(3, 6):
            update(f"large {number}")
        assert trips[3:] == [2, 2, 2]


def test_a_first_read_waits_no_longer_than_its_call(server: ServerHandle, admin: redis.Redis) -> None:
    def late(tx: Tx) -> None:
        while time.monotonic() < until:
            time.sleep(0.01)
        tx.get("doc")

    with Store(server.url) as store:
        store.put("another", {})
        hasty, until = store.options(retry=Retry(deadline=0.2)), time.monotonic() + 0.3
        with pytest.raises(StoreUnavailable):
            hasty.run(late)


def test_a_field_that_is_incremented_and_was_not_read_is_read_at_the_end(
    server: ServerHandle, admin: redis.Redis
) -> None:
    with Store(server.url) as store:
        store.put("doc", {"n": 1, "m": 5})
        before = store.stats()
        store.update("doc", lambda doc: doc.increment("m"), fields=["n"])
        after = store.stats()
        assert (after.round_trips, after.connections) == (before.round_trips + 3, 1)
        assert after.disruptions == after.conflicts == 0
    assert admin.hget("doc", "m") == b"6"


@both_twins
def test_a_function_that_raises_or_changes_nothing_takes_one_round_trip(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    def refuse(doc: Doc) -> None:
        raise LookupError(doc["n"])

    admin.hset("doc", "n", 7)
    admin.hset("same", "n", 7)
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        before = twin.stats.round_trips
        with pytest.raises(LookupError, match="7"):
            twin.update("doc", refuse)
        assert twin.stats.round_trips == before + 1
        assert twin.update("same", lambda doc: doc["n"]) == {"n": 7}
        assert twin.stats.round_trips == before + 2
        assert admin.hgetall("doc") == {b"n": b"7"}


def test_a_primary_no_more_is_not_believed(server: ServerHandle, admin: redis.Redis) -> None:
    """It goes on serving what it has, which may be stale: no exception of a function may rest on that."""

    def refuse(doc: Doc) -> None:
        raise LookupError(doc["n"])

    admin.hset("doc", "n", 7)
    with Store(server.url) as store:
        store.put("another", {})
        admin.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises((StoreUnavailable, ServerRefused)):
                store.options(retry=Retry(deadline=0.3)).update("doc", refuse)
        finally:
            admin.replicaof("NO", "ONE")
        assert store.update("doc", add_one) == {"n": 8}


def test_how_the_server_stores_a_document_costs_one_round_trip_once(
    server: ServerHandle, admin: redis.Redis
) -> None:
    """The encoding of a small one shows that no field of it expires; else INFO is asked, from then on."""
    with Store(server.url) as store:
        store.put("another", {})
        before = store.stats().round_trips
        for number in range(3):
            admin.hset(f"large {number}", mapping={"n": 1, "text": f'"{"x" * 300}"'})
            assert store.update(f"large {number}", add_one)["n"] == 2
            assert store.update(f"small {number}", add_one)["n"] == 1
        asks_again = server.kind != "Redis" or server.version.startswith("8")
        assert store.stats().round_trips == before + 12 + asks_again
        assert store.stats().connections == 1


@pytest.mark.parametrize("told", ["by its encoding", "by INFO", "by INFO before"])
@pytest.mark.parametrize("server", ["valkey9", "redis8"], indirect=True)
def test_a_field_that_expires_meanwhile_is_a_conflict(
    server: ServerHandle, admin: redis.Redis, told: str
) -> None:
    """WATCH does not see it."""

    def renew(doc: Doc) -> None:
        doc["renewed"] = doc.get("lease", 0)
        eventually(lambda: not admin.hexists("doc", "lease"))

    admin.hset("doc", mapping={"n": 1, "lease": 5})
    admin.hset("large", "text", f'"{"x" * 300}"')
    admin.hset("leased", "lease", 1)
    if told == "by INFO before":
        admin.hpexpire("leased", 60_000, "lease")
    with Store(server.url) as store:
        store.put("another", {})
        if told != "by its encoding":
            store.update("large", add_one)
        admin.hpexpire("doc", SOON, "lease")
        assert store.update("doc", renew) == {"n": 1, "renewed": 0}
        assert store.stats().conflicts >= 1  # and once more where the expired field is deleted meanwhile


def test_another_s_claim_is_heeded(server: ServerHandle, admin: redis.Redis) -> None:
    admin.hset("doc", "n", 7)
    with Store(server.url) as store:
        store.put("another", {})
        admin.set("__txstate__:claim:doc", "another 20", px=20)
        assert store.update("doc", add_one) == {"n": 8}
        assert "cmdstat_bzpopmin" in admin.info("commandstats"), "it stood in line"


def test_a_token_that_was_evicted_is_not_relied_upon(server: ServerHandle, admin: redis.Redis) -> None:
    with FaultProxy(server.url) as proxy, Store(proxy.url) as store:
        store.put("another", {})
        (token,) = admin.keys("__txstate__:token:*")
        admin.delete(token)
        lost = proxy.inject(DropReply(), "EXEC", where=of_commit)
        assert store.update("doc", add_one) == {"n": 1}
        assert lost.fired == 1
        assert store.stats().resolved_committed == 1, "there is evidence again"
        assert admin.hget("doc", "n") == b"1"


@pytest.mark.parametrize("way", ["update", "run"])
def test_a_read_that_was_cancelled_leaves_no_reply_for_others(
    server: ServerHandle, admin: redis.Redis, way: str
) -> None:
    admin.hset("doc", "n", 7)

    async def look(tx: AsyncTx) -> object:
        return (await tx.get("doc"))["n"]

    async def work() -> None:
        async with AsyncStore(proxy.url, max_connections=1) as store:
            await store.put("another", {})
            stalled = proxy.inject(HoldReply(), "HGETALL")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await (store.update("doc", add_one) if way == "update" else store.run(look))
            assert stalled.fired == 1
            stalled.cancel()
            assert await store.update("doc 2", add_one) == {"n": 1}
            assert await store.get("doc") == {"n": 7}

    with FaultProxy(server.url) as proxy:
        asyncio.run(work())


async def move(tx: AsyncTx, source: str, target: str, seen: list[int]) -> None:
    one, other = await tx.get_many([source, target])
    seen.append(one["n"] + other["n"])
    one["n"] -= 1
    other["n"] += 1


@both_twins
def test_a_transaction_on_two_documents_takes_two_round_trips_and_reading_them_one(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    async def look(tx: AsyncTx) -> int:
        return sum([document["n"] for document in await tx.get_many(["a", "b"])])

    async def look_at_one(tx: AsyncTx) -> int:
        n: int = (await tx.get("c"))["n"]
        return n

    for key in "abcd":
        admin.hset(key, "n", 5)
    seen: list[int] = []
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        before = twin.stats
        assert (twin.run(look), twin.run(look_at_one)) == (10, 5)
        middle = twin.stats
        assert (middle.round_trips, middle.reads) == (before.round_trips + 2, before.reads + 2)
        twin.run(move, "c", "d", seen)
        after = twin.stats
        assert (after.round_trips, after.commits) == (middle.round_trips + 2, middle.commits + 1)
        assert after.attempts == before.attempts + 3
        assert (after.conflicts, after.connections, seen) == (0, 1, [10])
    assert [admin.hget(key, "n") for key in "cd"] == [b"4", b"6"]


@both_twins
def test_what_is_read_later_is_seen_together_with_a_first_read(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    async def look(tx: AsyncTx, key: str) -> tuple[bool, int]:
        there = (await tx.get(key)).exists
        if tx.attempt == 1 and key == "a":
            admin.hincrby("a", "n", 1)
        return there, (await tx.get("b"))["n"]

    admin.hset("a", "n", 5)
    admin.hset("b", "n", 7)
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        before = twin.stats
        assert twin.run(look, "missing") == (False, 7)
        assert twin.stats.attempts == before.attempts + 1
        assert twin.run(look, "a") == (True, 7)
        assert twin.stats.attempts == before.attempts + 3, "the first of them was over at its second read"
        assert twin.stats.connections == 1


@both_twins
@pytest.mark.parametrize("when", ["between the reads", "before the commit"])
def test_no_function_sees_two_documents_of_different_moments(
    server: ServerHandle, admin: redis.Redis, kind: str, when: str
) -> None:
    admin.hset("a", "n", 5)
    admin.hset("b", "n", 5)
    seen: list[int] = []
    with proxied(kind, server.url) as (proxy, twin):
        twin.put("another", {})
        if when == "between the reads":
            held = proxy.inject(HoldRequest(), "HGETALL", where=lambda command: b"b" in command.args)
        else:
            held = proxy.inject(HoldRequest(), "EXEC", where=of_commit)
        call = threading.Thread(target=twin.run, args=(move, "a", "b", seen), daemon=True)
        call.start()
        eventually(lambda: held.fired == 1)
        with admin.pipeline(transaction=True) as pipe:
            pipe.hset("a", "n", 2)
            pipe.hset("b", "n", 8)
            pipe.execute()
        held.cancel()
        call.join(30)
        assert set(seen) == {10}
        assert twin.stats.conflicts == (when == "before the commit")
    assert [admin.hget(key, "n") for key in "ab"] == [b"1", b"9"]


@pytest.mark.parametrize("key", ["doc", "doc 2"])
def test_a_token_outlives_each_call_that_writes_it(
    server: ServerHandle, admin: redis.Redis, key: str
) -> None:
    """Calls of a store and its views follow each other on one connection, and have other deadlines."""
    with Store(server.url, max_connections=1) as store:
        patient = store.options(retry=Retry(deadline=1000))
        store.put("another", {})
        patient.update("doc", add_one)
        store.run(lambda tx: tx[key].increment("n"))
        patient.update("doc 3", add_one)
        (token,) = admin.keys("__txstate__:token:*")
        assert admin.ttl(token) > 9000


@both_twins
def test_a_read_that_is_lost_is_made_again(server: ServerHandle, admin: redis.Redis, kind: str) -> None:
    admin.hset("doc", "n", 7)
    with proxied(kind, server.url) as (proxy, twin):
        twin.put("another", {})
        lost = proxy.inject(DropReply(), "HGETALL")
        assert twin.update("doc", add_one) == {"n": 8}
        assert lost.fired == 1
        assert twin.stats.disruptions == 1
        assert twin.stats.conflicts == 0


@both_twins
def test_a_document_that_comes_again_is_armed_for(
    server: ServerHandle, admin: redis.Redis, kind: str
) -> None:
    with open_twin(kind, server.url) as twin:
        twin.put("another", {})
        for number in range(1, 6):
            before = twin.stats.round_trips
            assert twin.update("doc", add_one) == {"n": number}
            assert twin.stats.round_trips == before + (2 if number < 3 else 1)
    assert admin.hget("doc", "n") == b"5"
