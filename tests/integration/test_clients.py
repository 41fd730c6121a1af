"""Clients of redis-py's that are brought along: how they connect is taken over, how they try again is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import ConstantBackoff
from redis.credentials import CredentialProvider
from support.faults import of_commit
from support.twins import both_twins
from support.users import USER, change_rights, url_of
from support.wire import client_of

from txstate import AsyncStore, Doc, ServerRefused, Store
from txstate.testing import DropReply, FaultProxy

if TYPE_CHECKING:
    from support.servers import ServerHandle


def add_one(doc: Doc) -> None:
    doc.increment("n")


def update(kind: str, settings: dict[str, Any], times: int = 1, **options: Any) -> Any:
    """Open a store on such a client of either twin, and update a document, so many times."""
    if kind == "sync":
        with redis.Redis(**settings) as client, Store(client=client, **options) as store:
            return [store.update("k", add_one) for _ in range(times)][-1], store.stats()

    async def main() -> Any:
        async with redis.asyncio.Redis(**settings) as client, AsyncStore(client=client, **options) as store:
            return [await store.update("k", add_one) for _ in range(times)][-1], store.stats()

    return asyncio.run(main())


# Who connects, and how


@both_twins
def test_a_unix_socket(kind: str, server: ServerHandle) -> None:
    seen, _ = update(kind, {"unix_socket_path": str(server.unix_path)})
    assert seen == {"n": 1}


@both_twins
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_user_with_a_password(kind: str, protocol: int, server: ServerHandle) -> None:
    url_of(server, "-@dangerous", "+info", "+client|info")
    settings = {"port": server.port, "username": USER, "protocol": protocol, "decode_responses": True}
    seen, _ = update(kind, {**settings, "password": "secret"})
    assert seen == {"n": 1}
    with pytest.raises(ServerRefused) as refused:
        update(kind, {**settings, "password": "wrong"})
    assert refused.value.code == "WRONGPASS"


class Rotating(CredentialProvider):
    """Knows today's password.

    Attributes:
        asked: how often it was.
    """

    def __init__(self, password: str) -> None:
        self.password, self.asked = password, 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return USER, self.password


@both_twins
def test_a_credential_provider_is_asked_for_every_connection(kind: str, valkey9: ServerHandle) -> None:
    url_of(valkey9)
    provider = Rotating("secret")
    settings = {"port": valkey9.port, "credential_provider": provider}
    assert update(kind, settings)[0] == {"n": 1}
    before = provider.asked
    change_rights(valkey9, "resetpass", ">rotated")
    provider.password = "rotated"  # noqa: S105 - no secret
    assert update(kind, settings, times=2)[0] == {"n": 3}
    assert provider.asked > before


def test_a_password_that_was_rotated_serves_the_next_connection(valkey9: ServerHandle) -> None:
    url_of(valkey9)
    provider = Rotating("secret")
    with (
        redis.Redis(port=valkey9.port, credential_provider=provider) as client,
        Store(client=client) as store,
    ):
        store.update("k", add_one)
        change_rights(valkey9, "resetpass", ">rotated")
        provider.password = "rotated"  # noqa: S105 - no secret
        with client_of(valkey9.unix_url) as admin:
            admin.execute_command("CLIENT", "KILL", "USER", USER)
        assert store.update("k", add_one) == {"n": 2}
        assert store.stats().connections == 2


# How it tries again


class Forbidden(redis.retry.Retry):
    """Retries that must not be used."""

    def call_with_retry(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the client's retries were used")


class AsyncForbidden(redis.asyncio.retry.Retry):
    """The same for the other twin."""

    async def call_with_retry(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the client's retries were used")


@both_twins
def test_its_retries_are_never_used(kind: str, server: ServerHandle) -> None:
    """With them a lost reply would apply the update again: EXEC goes over the wire once for each commit."""
    retry = (Forbidden if kind == "sync" else AsyncForbidden)(ConstantBackoff(0), 5)
    with FaultProxy(server.url) as proxy:
        port = int(proxy.url.rpartition(":")[2].partition("/")[0])
        settings = {
            "port": port,
            "retry": retry,
            "retry_on_error": [ConnectionError, TimeoutError],
            "health_check_interval": 0.001,
        }
        lost = proxy.inject(DropReply(), "EXEC", where=of_commit, times=3)
        seen, stats = update(kind, settings, times=6)
        assert seen == {"n": 6}
        assert (lost.fired, stats.in_doubt, stats.resolved_committed) == (3, 3, 3)
        sent = [event for event in proxy.log if event.command is not None]
        assert not [event for event in sent if event.command is not None and event.command.name == "PING"]
