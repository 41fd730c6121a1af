"""A store, opened: what it can be opened on, its options, what it says of a server that can't be used, and views of it."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
import redis.asyncio
import redis.backoff
import redis.retry
from support.faults import of_commit, proxied
from support.stores import meddled, n_of
from support.twins import both_twins
from tenacity import stop_after_attempt

from txstate import (
    AsyncStore,
    CommitUnknown,
    ConflictError,
    Resolution,
    Retry,
    ServerRefused,
    Store,
    StoreUnavailable,
    UsageError,
)
from txstate.testing import DropRequest, Late

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.servers import ServerHandle, StartServer

NOWHERE = "redis://127.0.0.1:1/0"
"""Nothing listens there."""


# Opening


@pytest.mark.parametrize("kind", [Store, AsyncStore])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "is an environment variable missing"),
        ("", "is an environment variable missing"),
        (5, "opens a folder or an address"),
        (b"redis://localhost", "opens a folder or an address"),
        ("ftp://localhost", "unknown scheme 'ftp'"),
        ("://localhost", "unknown scheme"),
        ("localhost:6379", "write 'redis://localhost:6379'"),
        ("10.0.0.1:6379/0", "write 'redis://10.0.0.1:6379/0'"),
        ("redis://localhost/x?db=one", "can't be used"),
    ],
)
def test_targets_that_name_nothing(kind: type[Store | AsyncStore], target: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(target)


@pytest.mark.parametrize("kind", [Store, AsyncStore])
@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("timeout", [0, -1, float("inf"), float("nan"), "5", True, None]),
        ("max_connections", [0, -1, 1.5, "5", True, None]),
        ("namespace", [None, b"app:", 5]),
        ("on_event", [5, "print"]),
        ("spin", [-1e-6, 0.02, 100, float("nan"), "5", True, None]),
        ("fsync", ["never", None, True]),
    ],
)
def test_options_that_can_not_work(kind: type[Store | AsyncStore], option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=option):
            kind(NOWHERE, **{option: value})


@pytest.mark.parametrize("kind", [Store, AsyncStore])
def test_another_librarys_retry(kind: type[Store | AsyncStore]) -> None:
    mistaken: Any = redis.retry.Retry(redis.backoff.NoBackoff(), 3)
    with pytest.raises(TypeError, match=r"takes a txstate\.Retry; redis-py's Retry"):
        kind(NOWHERE, retry=mistaken)
    with pytest.raises(TypeError, match=r"takes a txstate\.Retry, not int"):
        kind(NOWHERE, retry=cast("Any", 3))
    with pytest.raises(TypeError, match="redis-py's Retry"):
        kind(NOWHERE).options(retry=mistaken)


def test_clients_of_the_other_twin() -> None:
    with pytest.raises(UsageError, match=r"client= takes a redis\.Redis, not redis\.asyncio"):
        Store(client=redis.asyncio.Redis())
    with pytest.raises(UsageError, match=r"client= takes a redis\.asyncio\.Redis, not redis\.client"):
        AsyncStore(client=redis.Redis())
    with pytest.raises(UsageError, match=r"client= takes a redis\.Redis, not builtins\.str"):
        Store(client=NOWHERE)
    with pytest.raises(UsageError, match="a target or client=, not both"):
        Store(NOWHERE, client=redis.Redis())


def test_a_constructor_does_no_network_io() -> None:
    with Store(NOWHERE) as store:
        assert store.url == NOWHERE
        assert store.stats().round_trips == 0
    assert AsyncStore(NOWHERE).url == NOWHERE


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_addresses(scheme: str, server: ServerHandle) -> None:
    with Store(server.url.replace("redis:", f"{scheme}:")) as store, Store(server.unix_url) as by_socket:
        store.put("k", {"n": 1})
        assert n_of(by_socket) == 1
        with Store(store.url) as again:
            assert n_of(again) == 1


def test_a_clients_settings_are_taken_over(valkey9: ServerHandle) -> None:
    with (
        redis.Redis.from_url(valkey9.unix_url, db=3, decode_responses=True) as client,
        Store(client=client) as store,
    ):
        store.put("k", {"n": 1})
        assert client.hget("k", "n") == "1"
        with Store(store.url) as again:
            assert n_of(again) == 1


def test_an_async_clients_settings_are_taken_over(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with (
            redis.asyncio.Redis.from_url(valkey9.url, db=3) as client,
            AsyncStore(client=client) as store,
        ):
            await store.put("k", {"n": 1})
            assert await cast("Awaitable[Any]", client.hget("k", "n")) == b"1"

    asyncio.run(scenario())


def test_no_secrets_in_a_repr() -> None:
    with Store("redis://user:secret@host:6379/0", namespace="app:") as store:
        assert "secret" not in repr(store)
        assert "host:6379" in repr(store)
        assert "app:" in repr(store)


# What can't be reached, or refuses


def test_a_refused_connection() -> None:
    retry = Retry(deadline=0.2)
    calls: list[Callable[[], object]] = [
        lambda: Store(NOWHERE, retry=retry).put("k", {}),
        lambda: Store(NOWHERE, retry=retry).get("k"),
        lambda: Store(NOWHERE, retry=retry).ttl("k"),
        lambda: list(Store(NOWHERE, retry=retry).keys()),
        lambda: asyncio.run(put_and_close(AsyncStore(NOWHERE, retry=retry))),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="nothing was applied") as caught:
            call()
        assert caught.value.__cause__ is not None


async def put_and_close(store: AsyncStore) -> None:
    async with store:
        await store.put("k", {})


def test_a_wrong_password(start_server: StartServer) -> None:
    server = start_server("valkey9", requirepass="right")
    retry = Retry(deadline=5)
    with Store(server.url, retry=retry) as store:
        store.put("k", {"n": 1})
    for wrong in (server.url.replace(":right@", ":wrong@"), server.url.replace(":right@", "")):
        with Store(wrong, retry=retry) as store:
            for call in (functools.partial(store.put, "k", {}), functools.partial(store.get, "k")):
                with pytest.raises(ServerRefused) as caught:
                    call()
                assert caught.value.code in ("WRONGPASS", "NOAUTH")
        with pytest.raises(ServerRefused) as caught:
            asyncio.run(put_and_close(AsyncStore(wrong, retry=retry)))
        assert caught.value.code in ("WRONGPASS", "NOAUTH")


def test_a_wrong_database(server: ServerHandle) -> None:
    wrong = server.url.removesuffix("/0") + "/999"
    with Store(wrong, retry=Retry(deadline=5)) as store, pytest.raises(ServerRefused, match="DB index"):
        store.put("k", {})
    with pytest.raises(ServerRefused, match="DB index"):
        asyncio.run(put_and_close(AsyncStore(wrong, retry=Retry(deadline=5))))


# Views


def test_a_view_shares_connections_and_counts(store: Store) -> None:
    view = store.options(namespace="app:")
    view.put("k", {"n": 1})
    assert store.get("k") is None
    assert n_of(store, "app:k") == 1
    assert list(view.keys()) == ["k"]
    assert view.options(retry=Retry(deadline=1)).get("k") == {"n": 1}
    assert view.stats() == store.stats()
    assert store.stats().connections == 1
    view.close()
    with view:
        pass
    assert n_of(view) == 1


def test_a_view_has_a_policy_of_its_own(store: Store, other_client: redis.Redis) -> None:
    once = store.options(retry=Retry(stop=stop_after_attempt(1)))
    with pytest.raises(ConflictError) as caught:
        once.update("k", lambda doc: meddled(doc, other_client))
    assert caught.value.attempts == 1
    for wrong in (5, b"app:"):
        with pytest.raises(UsageError, match="namespace"):
            store.options(namespace=cast("Any", wrong))


@both_twins
@pytest.mark.parametrize("applied", [True, False])
def test_a_view_resolves_what_was_in_doubt_on_a_connection_that_the_store_had_opened(
    kind: str, server: ServerHandle, *, applied: bool
) -> None:
    """A token is its connection's, and in the namespace of who opened that."""
    with proxied(kind, server.url) as (proxy, twin):
        twin.put("doc", {"n": 1})
        view = twin.within("app:")
        at_exec = proxy.inject(Late() if applied else DropRequest(), "EXEC", where=of_commit)
        cut_off = proxy.inject(DropRequest(), "EXPIRE", times=None)
        with pytest.raises(CommitUnknown) as caught:
            view.hasty(1.0).put("doc", {"n": 2})
        if applied:
            at_exec.held().deliver()
        cut_off.cancel()
        found = view.resolve(caught.value.token)
        assert found is (Resolution.COMMITTED if applied else Resolution.NOT_COMMITTED)
        assert view.get("doc") == ({"n": 2} if applied else None)


def test_closing_an_async_view_does_nothing(valkey9: ServerHandle) -> None:
    async def scenario() -> None:
        async with AsyncStore(valkey9.unix_url) as store:
            async with store.options(namespace="app:") as view:
                await view.put("k", {"n": 1})
            await view.aclose()
            assert await store.get("app:k") == {"n": 1}
            assert view.stats() == store.stats()

    asyncio.run(scenario())
