"""Stores on a primary that Sentinel watches: how it is found, and fault 18, a failover under load."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis.asyncio.sentinel
import redis.sentinel
from support.forks import in_child
from support.ledger import Ledger, total
from support.sentinels import SERVICE, Watched
from support.servers import ServerMissingError
from support.twins import SyncTwin, both_twins, open_twin
from support.wire import client_of, eventually

from txstate import AsyncStore, Replicas, ServerRefused, Store, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.figures import Figures
    from support.twins import Twin

    from txstate import Doc


LOST_TO = "a failover, without Replicas"
LOST_TO_ANOTHER = "a failover to another replica than the one that confirmed"
SOON = 3.0
"""Seconds from a promotion until every writer commits again, at most: what is promised for the default `Retry`."""


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
        pytest.raises(StoreUnavailable, match="3 of 3 sentinels answer, and none names a primary 'nobody'"),
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


# 18


@pytest.mark.fault(number=18)
def test_commits_go_on_when_a_primary_is_killed(
    watched: Watched, figures: Figures, request: pytest.FixtureRequest
) -> None:
    fail_over(watched, figures, request, times=1)


@pytest.mark.soak
@pytest.mark.fault(number=18)
@pytest.mark.parametrize("name", ["valkey9", "redis8", "redis6"])
def test_commits_go_on_when_a_primary_is_killed_ten_times_in_a_row(
    name: str, figures: Figures, request: pytest.FixtureRequest
) -> None:
    with Watched(name) as watched:
        fail_over(watched, figures, request, times=10)


@pytest.mark.soak
@pytest.mark.fault(number=18)
@pytest.mark.parametrize("name", ["valkey9", "redis8", "redis6"])
def test_what_a_broken_link_kept_from_the_replicas_is_lost_unless_replicas_were_asked_for(
    name: str, figures: Figures, request: pytest.FixtureRequest
) -> None:
    with Watched(name) as watched:
        fail_over(watched, figures, request, times=5, links=broken_links)


def fail_over(
    watched: Watched,
    figures: Figures,
    request: pytest.FixtureRequest,
    *,
    times: int,
    links: Callable[[Watched], contextlib.AbstractContextManager[None]] | None = None,
) -> None:
    """Kill the primary under load, so many times, and count what became of all commits.

    Two writers ask for nothing, two for one replica, and two for both: whichever is promoted had confirmed these.
    """
    with (
        open_twin("sync", watched.url) as twin,
        open_twin("async", watched.url, durability=Replicas(1, timeout=0.5)) as durable,
        open_twin("sync", watched.url, durability=Replicas(2, timeout=0.5)) as safe,
        Load(watched, "relaxed", twin) as relaxed,
        Load(watched, "careful", durable) as careful,
        Load(watched, "all", safe) as every,
    ):
        loads = (relaxed, careful, every)
        resumed = []
        for number in range(times):
            if number > 0:
                watched.bring_back()
            for load in loads:
                load.wait_for(20)
            with contextlib.nullcontext() if links is None else links(watched):
                if links is not None:
                    relaxed.wait_for(20)
                promoted = watched.kill_primary()
            for load in loads:
                load.wait_for(5)
                resumed.append(load.resumed(promoted))
    assert not any(ledger.failed for load in loads for ledger in load.ledgers)
    risked, mostly, kept = (total(load.ledgers) for load in loads)
    for name, found in (
        ("relaxed", risked),
        ("one replica", mostly),
        ("all replicas", kept),
        ("resumed", resumed),
    ):
        request.node.user_properties.append((name, found))
    assert max(resumed) <= SOON
    assert kept.lost == 0, kept
    assert links is None or risked.lost >= 20 * times, (
        "what the links kept back was not lost: were they broken?"
    )
    server = watched.primary()
    figures(server, *every.ledgers, fired=times, resolved=safe.stats)
    figures(server, *careful.ledgers, fired=times, resolved=durable.stats, lost_to=LOST_TO_ANOTHER)
    figures(server, *relaxed.ledgers, fired=times, resolved=twin.stats, lost_to=LOST_TO)


@contextlib.contextmanager
def broken_links(watched: Watched) -> Iterator[None]:
    """No replica gets anything, until the block ends: they have a password that the primary refuses."""
    primary = watched.primary()
    others = [server for server in watched.replication.servers if server is not primary]
    set_password(others, "wrong")
    with client_of(primary.unix_url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        eventually(lambda: bool(client.info("replication")["connected_slaves"] == 0))
    yield
    set_password(others, "")


def set_password(servers: list[Any], password: str) -> None:
    for server in servers:
        with client_of(server.unix_url) as client:
            client.config_set("masterauth", password)


class Load:
    """Two writers, each with a ledger of its own, who commit until the block ends."""

    def __init__(self, watched: Watched, name: str, twin: Twin) -> None:
        self.ledgers = [Ledger(watched, f"{name}-{number}-{time.monotonic_ns()}") for number in range(2)]
        self._twin = twin
        self._times: list[list[float]] = [[], []]
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=pair)
            for pair in zip(self.ledgers, self._times, strict=True)
        ]

    def wait_for(self, more: int) -> None:
        """Until every writer has made so many more commits."""
        wanted = [len(times) + more for times in self._times]
        eventually(
            lambda: all(
                len(times) >= count or thread.is_alive() is False
                for times, count, thread in zip(self._times, wanted, self._threads, strict=True)
            ),
            patience=30,
        )

    def resumed(self, since: float) -> float:
        """Seconds until the last of the writers had made a commit again."""
        return max(next(at for at in times if at > since) - since for times in self._times)

    def _write(self, ledger: Ledger, times: list[float]) -> None:
        while not self._over.is_set():
            marker = ledger.commit(self._twin)
            if marker in ledger.acknowledged or marker in ledger.not_durable:
                times.append(time.monotonic())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
