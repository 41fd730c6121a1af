"""Other writers count: whatever another client does to a document is a conflict like any other.

Also what must survive a write: the expiries of keys and of fields.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.faults import field_ttl_servers
from support.intruders import BEFORE, INTRUDERS, KEY, Intruder
from support.ledger import all_once
from support.twins import both_twins, open_twin
from support.users import url_of
from support.wire import client_of, eventually

from txstate import Retry, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    from support.figures import Figures
    from support.servers import ServerHandle

    from txstate import AsyncTx, Doc, Tx
    from txstate._drivers.sync import SyncDriver

intruders = pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda intruder: intruder.name)
rights = pytest.mark.parametrize("rights", ["+@all", "-client"])  # without CLIENT INFO, EXEC has to tell
HOUR = 3_600_000  # milliseconds
SOON = 250  # milliseconds; enough to begin a transaction in


@pytest.fixture
def admin(server: ServerHandle) -> Iterator[redis.Redis]:
    """Another client, and the document as a transaction of the library left it."""
    with open_twin("sync", server.url) as twin:
        twin.put(KEY, BEFORE)
    with client_of(server.unix_url) as client:
        yield client


# Keys


@both_twins
def test_what_changes_a_document_that_was_read_ahead_is_no_conflict_of_the_next_transaction_with_another(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    """The connection goes on watching what it was armed for, until it is told not to."""
    with open_twin(kind, server.url, max_connections=1) as twin:
        for _ in range(4):
            twin.update(KEY, add_one)
        # One to connect, and one each to read twice: then it is armed.
        assert twin.stats.round_trips == twin.stats.attempts + 3
        admin.hset(KEY, "n", 7)
        twin.update("another", add_one)
        assert twin.stats.conflicts == 0


@pytest.mark.fault(number=24)
@both_twins
@rights
@intruders
def test_what_another_client_does_between_read_and_commit_is_a_conflict(
    kind: str, server: ServerHandle, admin: redis.Redis, intruder: Intruder, rights: str, *, figures: Figures
) -> None:
    seen: list[dict[str, Any]] = []

    async def body(tx: AsyncTx) -> None:
        doc = await tx.get(KEY)
        seen.append(doc.to_dict())
        if len(seen) == 1:
            intruder.act(admin)
        doc["n"] = doc.get("n", 0) + 100

    with open_twin(kind, url_of(server, rights)) as twin:
        twin.run(body)
        assert seen == [BEFORE, intruder.after]
        expected = {**intruder.after, "n": intruder.after.get("n", 0) + 100}
        snapshot = twin.get(KEY)
        assert snapshot is not None
        assert snapshot.to_dict() == expected
        assert twin.stats.commits == 1
        assert twin.stats.conflicts >= 1
    figures(server, fired=1, tally=all_once(1))


@pytest.mark.fault(number=24)
@both_twins
@rights
@intruders
def test_what_another_client_does_between_two_reads_is_never_seen_together_with_what_was_before(
    kind: str, server: ServerHandle, admin: redis.Redis, intruder: Intruder, rights: str, *, figures: Figures
) -> None:
    """A read-only transaction is no less consistent."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    calls = 0

    async def body(tx: AsyncTx) -> None:
        nonlocal calls
        calls += 1
        first = (await tx.get(KEY)).to_dict()
        if calls == 1:
            intruder.act(admin)
            admin.hset("second", "later", "1")
        seen.append((first, (await tx.get("second")).to_dict()))

    with open_twin(kind, url_of(server, rights)) as twin:
        twin.run(body)
        assert seen == [(intruder.after, {"later": 1})]
        assert (calls, twin.stats.commits) == (2, 0)
        assert twin.stats.conflicts >= 1
    figures(server, fired=1, tally=all_once(1))


@pytest.mark.fault(number=24)
@both_twins
def test_a_key_that_expired_unnoticed_before_it_is_watched_is_a_missing_document(
    kind: str, server: ServerHandle, admin: redis.Redis, figures: Figures
) -> None:
    with open_twin(kind, server.url) as twin:
        for _ in range(20):
            admin.delete(KEY)
            admin.hset(KEY, "n", "41")
            admin.pexpire(KEY, 1)
            time.sleep(0.004)
            assert twin.update(KEY, add_one).to_dict() == {"n": 1}
            assert admin.pttl(KEY) == -1
        # Redis 6.2 counts the removal of such a key as a change, so it may cost an attempt there.
        assert twin.stats.commits == 20
        assert twin.stats.attempts <= 40
    figures(server, fired=20, tally=all_once(20))


@pytest.mark.fault(number=24)
@both_twins
def test_a_key_that_expires_while_it_is_watched_is_never_written_from_what_it_was(
    kind: str, server: ServerHandle, admin: redis.Redis, figures: Figures
) -> None:
    seen: list[bool] = []

    async def body(tx: AsyncTx) -> None:
        doc = await tx.get(KEY)
        seen.append(doc.exists)
        time.sleep(0.01)  # noqa: ASYNC251 - the event loop has nothing else to do
        doc.increment("n")

    with open_twin(kind, server.url) as twin:
        for _ in range(10):
            admin.delete(KEY)
            admin.hset(KEY, "n", "41")
            seen.clear()
            assert admin.pexpire(KEY, 5)
            twin.run(body)
            assert seen[-1] is False
            assert admin.hget(KEY, "n") == b"1"
    figures(server, fired=10, tally=all_once(10))


@both_twins
def test_writing_keeps_the_expiry_of_a_key(kind: str, server: ServerHandle, admin: redis.Redis) -> None:
    admin.pexpire(KEY, HOUR)

    async def replace_twice(tx: AsyncTx) -> None:
        await tx.put(KEY, {"only": 1})
        await tx.put(KEY, {"n": 1})

    def change(doc: Doc) -> None:
        doc["nested"] = {"a": []}
        del doc["nested"]

    with open_twin(kind, server.url) as twin:
        twin.update(KEY, add_one)
        twin.put(KEY, {"other": 1})
        twin.run(replace_twice)
        twin.update(KEY, change)
        assert twin.put(KEY, {}).to_dict() == {}
        assert HOUR - 60_000 < int(admin.pttl(KEY)) <= HOUR
        twin.delete(KEY)
        twin.put(KEY, {"n": 1})
        assert admin.pttl(KEY) == -1


@both_twins
def test_an_expiry_is_set_and_removed_with_the_commit(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    with open_twin(kind, server.url) as twin:
        twin.update(KEY, lambda doc: doc.expire(50))
        assert 0 < int(admin.pttl(KEY)) <= 50_000
        twin.update(KEY, lambda doc: doc.expire(None))
        assert admin.pttl(KEY) == -1
        twin.update(KEY, lambda doc: doc.expire(0.02))
        eventually(lambda: twin.get(KEY) is None)


# Fields that expire by themselves


@both_twins
@field_ttl_servers
def test_a_field_that_expires_between_read_and_commit_is_a_conflict(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    """WATCH does not see it, so EXEC alone would write what was computed from a field that is gone."""
    seen: list[dict[str, Any]] = []

    async def body(tx: AsyncTx) -> None:
        doc = await tx.get(KEY)
        seen.append(doc.to_dict())
        if tx.attempt == 1:
            eventually(lambda: not admin.hexists(KEY, "kept"))
        doc["copy"] = doc.get("kept")

    with open_twin(kind, server.url) as twin:
        assert admin.hpexpire(KEY, SOON, "kept") == [1]
        twin.run(body)
        assert seen == [BEFORE, {"n": 1}]
        assert admin.hget(KEY, "copy") == b"null"
        assert twin.stats.conflicts >= 1


@both_twins
@field_ttl_servers
def test_a_field_of_another_document_that_expires_before_the_commit_is_a_conflict(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    seen: list[bool] = []

    async def body(tx: AsyncTx) -> None:
        lock = await tx.get("lock")
        seen.append("holder" in lock)
        if tx.attempt == 1:
            eventually(lambda: not admin.hexists("lock", "holder"))
        (await tx.get(KEY))["held"] = "holder" in lock

    admin.hset("lock", mapping={"holder": "1", "other": "1"})
    assert admin.hpexpire("lock", SOON, "holder") == [1]
    with open_twin(kind, server.url) as twin:
        twin.run(body)
        assert seen == [True, False]
        assert admin.hget(KEY, "held") == b"false"


@both_twins
@field_ttl_servers
def test_a_field_that_expires_between_two_reads_is_never_seen_together_with_what_came_later(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    seen: list[tuple[bool, bool]] = []

    async def body(tx: AsyncTx) -> None:
        there = "kept" in await tx.get(KEY)
        if tx.attempt == 1:
            eventually(lambda: not admin.hexists(KEY, "kept"))
            admin.hset("second", "later", "1")
        seen.append((there, (await tx.get("second")).exists))

    with open_twin(kind, server.url) as twin:
        assert admin.hpexpire(KEY, SOON, "kept") == [1]
        twin.run(body)
        assert seen == [(False, True)]
        assert twin.stats.commits == 0


@both_twins
@field_ttl_servers
def test_a_document_whose_fields_come_to_expire_is_read_ahead_no_more(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    """Nothing tells a connection that watches it when such a field goes."""
    seen: list[object] = []

    def copy(doc: Doc) -> None:
        seen.append(doc.get("kept"))
        eventually(lambda: not admin.hexists(KEY, "kept"))
        doc["copy"] = seen[-1]

    with open_twin(kind, server.url, max_connections=1) as twin:
        for _ in range(4):
            twin.update(KEY, add_one)
        assert twin.stats.round_trips == twin.stats.attempts + 3, "it was not read ahead before"
        assert admin.hpexpire(KEY, 4 * SOON, "kept") == [1]
        twin.update(KEY, add_one)
        assert admin.hexists(KEY, "kept"), "too slow to be a test"
        twin.update(KEY, copy)
        assert seen == [BEFORE["kept"], None]
        assert admin.hget(KEY, "copy") == b"null"


@both_twins
@pytest.mark.parametrize("value", ["short", "long" * 50])
def test_documents_are_read_ahead_however_the_server_stores_them(
    kind: str, server: ServerHandle, admin: redis.Redis, value: str
) -> None:
    admin.hset(KEY, "more", f'"{value}"')
    with open_twin(kind, server.url, max_connections=1) as twin:
        for _ in range(6):
            twin.update(KEY, add_one)
        before = twin.stats.round_trips
        for _ in range(4):
            twin.update(KEY, add_one)
        assert twin.stats.round_trips == before + 4


@pytest.mark.parametrize("way", ["update", "run", "run, the long way"])
def test_a_token_outlives_its_last_use_by_its_whole_time_but_a_minute(
    server: ServerHandle, admin: redis.Redis, way: str
) -> None:
    def left() -> int:
        (token,) = [name for name in admin.scan_iter("__txstate__:token:*") if int(admin.get(name) or 0) > 4]
        return int(admin.pttl(token))

    def body(tx: Tx) -> None:
        if way == "run, the long way":
            tx.on_commit(str)
        change(tx.get(KEY))

    def change(doc: Doc) -> None:
        add_one(doc)
        if disturbed:
            admin.hset(KEY, "other", disturbed.pop())

    def call(store: Store) -> None:
        if way == "update":
            store.update(KEY, change)
        else:
            store.run(body)

    def keeps(store: Store) -> None:
        before = left()
        eventually(lambda: left() < before - 20)
        call(store)
        assert before - 60_000 < left() < before - 20, "to set it each time is what costs"

    disturbed: list[int] = []
    with Store(server.url, max_connections=1) as store:
        for _ in range(6):
            call(store)
        keeps(store)
        assert left() < HOUR
        conflicts, patient = store.stats().conflicts, store.options(retry=Retry(deadline=3600))
        disturbed.append(1)
        call(patient)
        assert store.stats().conflicts == conflicts + 1, "so that the first commit did not set it"
        assert left() > 9 * HOUR, "who may ask for longer"
        first = left()
        keeps(patient)
        (place,) = cast("SyncDriver", store._core.driver).pool.all()
        assert place.session is not None
        place.session.fresh -= 60  # as if the minute were over
        call(patient)
        assert left() > first - 20
        keeps(patient)


@both_twins
@field_ttl_servers
def test_a_changed_expiry_of_a_field_is_a_conflict(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    async def body(tx: AsyncTx) -> int:
        doc = await tx.get(KEY)
        if tx.attempt == 1:
            assert admin.hpexpire(KEY, 2 * HOUR, "kept") == [1]
        doc["kept"] = "changed"
        return tx.attempt

    with open_twin(kind, server.url) as twin:
        assert admin.hpexpire(KEY, HOUR, "kept") == [1]
        assert twin.run(body) == 2
        (left,) = admin.hpttl(KEY, "kept")
        assert HOUR < left <= 2 * HOUR
        assert admin.hget(KEY, "kept") == b'"changed"'


@both_twins
@field_ttl_servers
@pytest.mark.parametrize("field", ["n", "kept", "new"])
def test_writing_keeps_the_expiries_of_fields(
    kind: str, server: ServerHandle, admin: redis.Redis, field: str
) -> None:
    """That of a field which is written, too: HSET alone would remove it."""

    def change(doc: Doc) -> None:
        doc[field] = "changed"

    with open_twin(kind, server.url) as twin:
        assert admin.hpexpire(KEY, HOUR, "n", "kept") == [1, 1]
        assert twin.update(KEY, change)[field] == "changed"
        left = admin.hpttl(KEY, "n", "kept")
        assert all(HOUR - 60_000 < each <= HOUR for each in left)
        assert admin.hget(KEY, field) == b'"changed"'
        assert twin.stats.conflicts == 0


@both_twins
@field_ttl_servers
def test_what_is_made_anew_does_not_expire_as_the_fields_of_the_deleted_document(
    kind: str, server: ServerHandle, admin: redis.Redis
) -> None:
    async def body(tx: AsyncTx) -> None:
        await tx.delete(KEY)
        await tx.put(KEY, {"kept": "anew"})
        (await tx.get("other"))["kept"] = "changed"

    admin.hset("other", mapping={"kept": "1"})
    with open_twin(kind, server.url) as twin:
        for key in (KEY, "other"):
            assert admin.hpexpire(key, HOUR, "kept") == [1]
        twin.run(body)
        assert admin.hpttl(KEY, "kept") == [-1]
        assert admin.hpttl("other", "kept")[0] > 0


def add_one(doc: Doc) -> None:
    doc.increment("n")
