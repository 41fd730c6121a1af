"""Everything over TLS: whom a store talks to, what is cut on the way, forks, and clusters."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from support.cluster import Cluster, start_cluster
from support.commands import refused as told
from support.faults import of_commit
from support.forks import in_child
from support.ledger import Ledger, all_once
from support.sentinels import SERVICE, SentinelHandle
from support.servers import ServerMissingError, start_as
from support.tls import Authority, Secure, TLSRelay, start_tls
from support.twins import SyncTwin, both_twins, open_twin
from support.wire import client_of, eventually

from txstate import Doc, StoreUnavailable
from txstate._engine.slots import slot_of
from txstate.testing import Cut, CutReply, CutRequest, DropReply, FaultProxy, Late

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.figures import Figures
    from support.servers import ServerHandle


def add_one(doc: Doc) -> None:
    doc.increment("n")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority, valkey9: ServerHandle) -> Iterator[Secure]:
    with TLSRelay(valkey9.port, authority) as relay:
        yield Secure(valkey9, relay.port, authority)


@pytest.fixture(params=["relay", "server"])
def any_secure(request: pytest.FixtureRequest) -> Iterator[Secure]:
    """TLS before a server, and of a server, where the system has one that speaks it."""
    if request.param == "relay":
        yield request.getfixturevalue("secure")
        return
    try:
        secure = start_tls(request.getfixturevalue("authority"))
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with secure.server:
        yield secure


@both_twins
def test_transactions(kind: str, any_secure: Secure) -> None:
    """Large documents take many records; a repeated transaction stays one round trip on one connection."""
    with open_twin(kind, any_secure.url) as twin:
        twin.put("large", {"text": "x" * 3_000_000, "n": 0})
        for _ in range(4):
            twin.update("large", add_one)
            twin.update("small", add_one)
        before = twin.stats
        for _ in range(5):
            twin.update("small", add_one)
        assert twin.stats.round_trips - before.round_trips == 5
        assert [twin.update(key, add_one)["n"] for key in ("large", "small")] == [5, 10]
        assert twin.stats.conflicts == twin.stats.disruptions == 0


@both_twins
@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_addresses(kind: str, scheme: str, secure: Secure) -> None:
    with open_twin(kind, secure.address(scheme)) as twin:
        assert twin.update("k", add_one) == {"n": 1}


@both_twins
def test_a_client_is_taken_over(kind: str, secure: Secure) -> None:
    clients: dict[str, Any] = {"sync": redis.Redis, "async": redis.asyncio.Redis}
    with open_twin(kind, client=clients[kind](**secure.settings)) as twin:
        assert [twin.update("k", add_one)["n"] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert twin.stats.connections == 1


# Whom it talks to.


@both_twins
def test_a_server_that_nobody_vouches_for_is_not_talked_to(
    kind: str, any_secure: Secure, tmp_path: Path
) -> None:
    url = any_secure.address(ssl_ca_certs=str(Authority(tmp_path).path))
    with open_twin(kind, url, deadline=1) as twin, pytest.raises(StoreUnavailable) as refused:
        twin.update("k", add_one)
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value)


@both_twins
def test_a_server_with_another_name_is_not_talked_to(
    kind: str, authority: Authority, valkey9: ServerHandle
) -> None:
    with TLSRelay(valkey9.port, authority, host="elsewhere.test") as relay:
        secure = Secure(valkey9, relay.port, authority)
        with open_twin(kind, secure.url, deadline=1) as twin, pytest.raises(StoreUnavailable) as refused:
            twin.update("k", add_one)
        assert "IP address mismatch" in str(refused.value)
        with open_twin(kind, secure.address(ssl_check_hostname="false")) as twin:
            assert twin.update("k", add_one) == {"n": 1}


@both_twins
def test_a_server_that_wants_to_know_its_clients_refuses_a_stranger(kind: str, secure: Secure) -> None:
    url = secure.address(ssl_certfile="", ssl_keyfile="")
    with open_twin(kind, url, deadline=1) as twin, pytest.raises(StoreUnavailable):
        twin.update("k", add_one)
    with client_of(secure.server.unix_url) as client:
        assert not client.exists("k")


# What is cut.


@pytest.mark.fault(number=1)
@both_twins
@pytest.mark.parametrize("by", [Cut.FIN, Cut.RST, Cut.SILENCE])
@pytest.mark.parametrize("fault", [DropReply, Late, CutRequest, CutReply])
def test_commits_that_are_cut_are_applied_once(
    kind: str, by: Cut, fault: type[Any], *, authority: Authority, valkey9: ServerHandle, figures: Figures
) -> None:
    """The proxy stands behind the relay, where it can read what was said."""
    what = fault(at=5, by=by) if fault in (CutRequest, CutReply) else fault(by=by)
    ledger = Ledger(valkey9, f"{kind}-{by.name}-{fault.__name__}")
    with (
        FaultProxy(valkey9.url) as proxy,
        TLSRelay(urlsplit(proxy.url).port or 0, authority) as relay,
        open_twin(
            kind, Secure(valkey9, relay.port, authority).url, timeout=1 if by is Cut.SILENCE else 5
        ) as twin,
    ):
        ledger.commit(twin)
        rule = proxy.inject(what, "EXEC", where=of_commit)
        for _ in range(3):
            ledger.commit(twin)
        if fault is Late:
            rule.held().deliver()
        ledger.commit(twin)
        assert twin.stats.in_doubt == 1
        assert ledger.tally() == all_once(5)
        figures(valkey9, fired=rule.fired, resolved=twin.stats, tally=ledger.tally())


@both_twins
def test_connections_that_are_killed_lose_and_double_nothing(kind: str, any_secure: Secure) -> None:
    ledger = Ledger(any_secure.server, f"killed-{kind}")
    with open_twin(kind, any_secure.url) as twin, client_of(any_secure.server.unix_url) as admin:
        for number in range(12):
            ledger.commit(twin)
            if number % 3 == 0:
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert ledger.tally() == all_once(12)
        assert twin.stats.connections == 5


# Forks.


def test_a_forked_child_forgets_the_connections_without_a_farewell(any_secure: Secure) -> None:
    """TLS's farewell, sent by the child, would end the parent's connection; so would a record of its own in between."""
    with SyncTwin(any_secure.url) as twin:
        for _ in range(3):
            twin.update("k", add_one)
        before = twin.stats
        in_child(lambda: twin.update("k", add_one))
        assert [twin.update("k", add_one)["n"] for _ in range(3)] == [5, 6, 7]
        assert twin.stats.connections == before.connections
        assert twin.stats.disruptions == 0


# Clusters.


@pytest.fixture(scope="module")
def secure_cluster(authority: Authority) -> Iterator[tuple[Cluster, str]]:
    """A cluster whose nodes announce relays, and its address."""
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(start_cluster(replicas=False))
        except ServerMissingError as missing:
            pytest.skip(str(missing))
        ports = [stack.enter_context(TLSRelay(node.port, authority)).port for node in cluster.nodes]
        for node, port in zip(cluster.nodes, ports, strict=True):
            cluster.ask(node, "CONFIG", "SET", "cluster-announce-port", port)
        eventually(lambda: all(announced(cluster, node) == set(ports) for node in cluster.nodes))
        yield cluster, f"rediss+cluster://127.0.0.1:{ports[0]}?{urlencode(authority.options)}"


def announced(cluster: Cluster, node: ServerHandle) -> set[int]:
    """The ports by which a node sends clients to those that serve slots."""
    return {primary[1] for _, _, primary, *_ in cluster.ask(node, "CLUSTER SLOTS")}


@both_twins
def test_a_cluster(kind: str, secure_cluster: tuple[Cluster, str]) -> None:
    cluster, url = secure_cluster
    keys = [f"{kind}:{number}" for number in range(12)]
    with open_twin(kind, url) as twin:
        for _ in range(2):
            for key in keys:
                twin.update(key, add_one)
        assert all(doc == {"n": 2} for doc in twin.get_each(keys).values())
        moved = slot_of(keys[0].encode())
        here = next(node for node in cluster.nodes if cluster.ask(node, "CLUSTER COUNTKEYSINSLOT", moved))
        there = cluster.other_primary(here)
        cluster.begin_move(moved, here, there)
        cluster.end_move(moved, here, there)
        assert twin.update(keys[0], add_one) == {"n": 3}
        assert twin.stats.disruptions >= 1


# Sentinel.


@pytest.fixture
def secure_sentinel(authority: Authority, secure: Secure) -> Iterator[int]:
    """The port of a relay before a sentinel that names a relay as the primary, and holds nobody for dead."""
    with (
        start_as(SentinelHandle, "valkey9") as sentinel,
        TLSRelay(sentinel.port, authority) as relay,
        client_of(sentinel.url) as client,
    ):
        client.execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", secure.port, 1)
        client.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 3_600_000)
        yield relay.port


@both_twins
def test_a_sentinel_and_the_primary_that_it_names(
    kind: str, secure_sentinel: int, authority: Authority
) -> None:
    url = f"rediss+sentinel://127.0.0.1:{secure_sentinel}/{SERVICE}/0"
    with open_twin(kind, f"{url}?{urlencode(authority.options)}") as twin:
        for n in range(1, 4):
            assert twin.update("k", add_one) == {"n": n}
    module = redis.sentinel if kind == "sync" else redis.asyncio.sentinel
    secure = {"ssl": True, **authority.options}
    sentinel = module.Sentinel([("127.0.0.1", secure_sentinel)], sentinel_kwargs=secure)
    with open_twin(kind, client=sentinel.master_for(SERVICE, **secure)) as twin:
        assert twin.update("k", add_one) == {"n": 4}


@both_twins
def test_a_sentinel_that_nobody_vouches_for_is_not_believed(kind: str, secure_sentinel: int) -> None:
    url = f"rediss+sentinel://127.0.0.1:{secure_sentinel}/{SERVICE}/0"
    with open_twin(kind, url, deadline=2) as twin, pytest.raises(StoreUnavailable) as refused:
        twin.update("k", add_one)
    assert f"127.0.0.1:{secure_sentinel}: [SSL: CERTIFICATE_VERIFY_FAILED]" in str(refused.value)
    assert "CERTIFICATE_VERIFY_FAILED" in told(1, "doctor", url)
