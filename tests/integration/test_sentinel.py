"""Stores on a primary that Sentinel watches: how it is found. Failovers: test_sentinel_failovers.py."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel
from support.forks import in_child
from support.sentinels import SERVICE, Watched
from support.servers import ServerMissingError
from support.twins import SyncTwin, both_twins, open_twin
from support.wire import client_of

from txstate import AsyncStore, ServerRefused, Store, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txstate import Doc


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """One primary, two replicas and three sentinels for all tests here."""
    try:
        running = Watched("valkey9")
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with running:
        yield running


def sentinel_of(watched: Watched, module: Any = redis.sentinel) -> Any:
    """A client of redis-py's, to make clients of."""
    hosts = [("127.0.0.1", sentinel.port) for sentinel in watched.sentinels]
    return module.Sentinel(hosts, socket_timeout=0.5)


def add_one(doc: Doc) -> None:
    doc.increment("n")


# How the primary is found


@both_twins
def test_the_address_leads_to_the_primary(kind: str, watched: Watched) -> None:
    with open_twin(kind, watched.url) as twin:
        twin.update(f"by-url-{kind}", add_one)
        with client_of(watched.unix_url) as client:
            assert client.hget(f"by-url-{kind}", "n") == b"1"
        assert twin.store.url == watched.url
        assert (twin.stats.connections, twin.stats.disruptions) == (1, 0)


def test_parent_and_forked_child_find_it_each_for_themselves(watched: Watched) -> None:
    with SyncTwin(watched.url) as twin:
        for _ in range(3):
            twin.update("forked", add_one)
        in_child(lambda: twin.update("forked", add_one))
        assert [twin.update("forked", add_one)["n"] for _ in range(3)] == [5, 6, 7]
        assert (twin.stats.connections, twin.stats.disruptions) == (1, 0)


@pytest.mark.parametrize("gone", [0, 1])
@both_twins
def test_a_sentinel_that_is_gone_is_passed_over(kind: str, gone: int, watched: Watched) -> None:
    hosts = [f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels[:2]]
    hosts.insert(gone, "127.0.0.1:1")
    with open_twin(kind, f"valkey+sentinel://{','.join(hosts)}/{SERVICE}") as twin:
        twin.update("gone", add_one)
        assert twin.stats.disruptions == 0
        # The one that answered comes first from now on.
        assert not str(twin.store.url).startswith("redis+sentinel://127.0.0.1:1,")


@both_twins
def test_a_service_that_no_sentinel_knows_is_waited_for_until_the_deadline(
    kind: str, watched: Watched
) -> None:
    with (
        open_twin(kind, watched.url.replace(SERVICE, "nobody"), deadline=0.5) as twin,
        # The deadline may come before the last of them has answered the last time.
        pytest.raises(
            StoreUnavailable, match=r"[1-3] of 3 sentinels answer, and none names a primary 'nobody'"
        ),
    ):
        twin.update("k", add_one)


@both_twins
def test_sentinels_that_can_not_be_asked_are_named_with_the_reason(kind: str, watched: Watched) -> None:
    nowhere = f"redis+sentinel://127.0.0.1:1,127.0.0.1:2/{SERVICE}"
    with open_twin(kind, nowhere, deadline=0.5) as twin:
        with pytest.raises(StoreUnavailable) as caught:
            twin.update("k", add_one)
        assert "0 of 2 sentinels answer" in str(caught.value)
        assert "127.0.0.1:1: Connection refused; 127.0.0.1:2: Connection refused)" in str(caught.value)
    no_sentinel = f"127.0.0.1:{watched.primary().port}"
    with (
        open_twin(kind, f"redis+sentinel://{no_sentinel}/{SERVICE}") as twin,
        pytest.raises(ServerRefused, match="unknown command 'SENTINEL'"),
    ):
        twin.update("k", add_one)
    # One that refuses is passed over, as one that is gone.
    with open_twin(kind, watched.url.replace("://", f"://{no_sentinel},")) as twin:
        assert twin.update("k", add_one)["n"] > 0


def test_settings_of_a_client_are_taken_over(watched: Watched) -> None:
    client = sentinel_of(watched).master_for(SERVICE, db=1)
    with Store(client=client) as store, client_of(watched.unix_url.replace("db=0", "db=1")) as other:
        store.put("by-client", {"n": 1})
        assert other.hget("by-client", "n") == b"1"
        assert store.url == watched.url.replace("/0", "/1")
        with pickle.loads(pickle.dumps(store)) as again:  # noqa: S301 - our own
            assert again.update("by-client", add_one) == {"n": 2}


def test_settings_of_an_async_client_are_taken_over(watched: Watched) -> None:
    async def main() -> dict[str, Any]:
        client = sentinel_of(watched, redis.asyncio.sentinel).master_for(SERVICE)
        async with AsyncStore(client=client) as store:
            return dict(await store.put("by-async-client", {"n": 1}))

    assert asyncio.run(main()) == {"n": 1}


def test_a_client_of_replicas_is_refused(watched: Watched) -> None:
    sentinel = sentinel_of(watched)
    with pytest.raises(UsageError, match="master_for"):
        Store(client=sentinel.slave_for(SERVICE))
    with pytest.raises(UsageError, match=r"redis\.asyncio\.Redis"):
        AsyncStore(client=sentinel.master_for(SERVICE))
