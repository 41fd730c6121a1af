"""Durability levels on real servers: what replicas and disks really have, whatever stands still meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from support.faults import of_commit, proxied
from support.ledger import Ledger
from support.replication import Replication, stopped
from support.servers import BINARIES, ServerMissingError
from support.twins import both_twins, open_twin
from support.wire import client_of

from txstate import Fsync, NotDurable, Replicas, Store, UsageError
from txstate._engine.slots import slot_of
from txstate.testing import DropReply, HoldReply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.cluster import Cluster
    from support.servers import ServerHandle, StartServer

BRIEF = 0.1


@pytest.fixture(scope="module", params=list(BINARIES))
def pair(request: pytest.FixtureRequest) -> Iterator[Replication]:
    """A primary with one replica in sync, of each kind."""
    try:
        replication = Replication(request.param)
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with replication:
        yield replication


@both_twins
def test_what_the_replicas_have_is_acknowledged_and_what_they_lack_is_not(
    kind: str, pair: Replication
) -> None:
    """The mutant that asks on another connection is told of a replica that stands still, and fails here."""
    with open_twin(kind, pair.primary.url, durability=Replicas(1, timeout=BRIEF)) as twin:
        patient = open_twin(kind, pair.primary.url, durability=Replicas(1, timeout=5.0))
        with patient:
            patient.put("k", {"n": 1})
        with stopped(*pair.replicas), pytest.raises(NotDurable) as caught:
            twin.update("k", lambda doc: doc.increment("n"))
        assert (caught.value.result, caught.value.replicas) == ({"n": 2}, 0)
        assert twin.get("k") == {"n": 2}
        assert twin.stats.not_durable == 1


@both_twins
def test_more_replicas_than_there_are_is_never_enough(kind: str, pair: Replication) -> None:
    with (
        open_twin(kind, pair.primary.url, durability=Replicas(2, timeout=BRIEF)) as twin,
        pytest.raises(NotDurable) as caught,
    ):
        twin.update("k", lambda doc: doc.increment("n"))
    assert caught.value.replicas == 1


@both_twins
def test_a_repeated_transaction_is_still_one_round_trip(kind: str, pair: Replication) -> None:
    with open_twin(kind, pair.primary.url, durability=Replicas(1, timeout=5.0)) as twin:
        for _ in range(4):
            twin.update("k", lambda doc: doc.increment("n"))
        before = twin.stats.round_trips
        for _ in range(10):
            twin.update("k", lambda doc: doc.increment("n"))
        assert twin.stats.round_trips - before == 10


@both_twins
@pytest.mark.parametrize("running", [True, False], ids=["replica running", "replica stopped"])
def test_after_a_resolution_the_replicas_are_asked_where_the_token_was_touched(
    kind: str, pair: Replication, *, running: bool
) -> None:
    """EXPIRE is behind EXEC in the stream of replication, so who has it has both; a stopped replica has neither."""
    level = Replicas(1, timeout=5.0 if running else BRIEF)
    with proxied(kind, pair.primary.url, durability=level) as (proxy, twin):
        ledger = Ledger(pair.primary, f"resolved-{kind}-{running}")
        lost = proxy.inject(DropReply(), "EXEC", where=of_commit)
        if running:
            ledger.commit(twin)
        else:
            with stopped(*pair.replicas):
                ledger.commit(twin)
        assert lost.fired == 1
        tally = ledger.tally()
        assert (tally.acknowledged, tally.not_durable) == (running, not running)
        assert (tally.applied, tally.doubled, tally.torn) == (1, 0, 0)
        assert twin.stats.resolved_committed == 1


@both_twins
def test_a_connection_cut_while_it_waits_leaves_a_commit_that_is_applied(
    kind: str, pair: Replication
) -> None:
    with (
        proxied(kind, pair.primary.url, durability=Replicas(1, timeout=2.0)) as (proxy, twin),
        ThreadPoolExecutor(1) as pool,
    ):
        twin.put("cut", {"n": 0})
        waiting = proxy.inject(HoldReply(), "WAIT", where=lambda command: command.args[1] != b"0")
        call = pool.submit(twin.update, "cut", lambda doc: doc.increment("n"))
        waiting.wait()
        proxy.kill()
        with pytest.raises(NotDurable) as caught:
            call.result()
        assert (caught.value.result, caught.value.replicas) == ({"n": 1}, None)
        assert twin.get("cut") == {"n": 1}


def test_a_view_asks_for_itself_on_the_same_connections(pair: Replication) -> None:
    with Store(pair.primary.url) as store, stopped(*pair.replicas):
        store.put("view", {"n": 1})
        with pytest.raises(NotDurable):
            store.options(durability=Replicas(1, timeout=BRIEF)).put("view", {"n": 2})
        store.put("view", {"n": 3})
        assert store.stats().connections == 1


@both_twins
def test_in_a_cluster_the_replicas_of_the_slots_own_primary_are_asked(
    kind: str, any_cluster: Cluster
) -> None:
    keys = "a", "b", "c"
    owners = [any_cluster.owner(slot_of(key.encode())) for key in keys]
    assert len({owner.port for owner in owners}) == len(keys)
    with open_twin(kind, any_cluster.url, durability=Replicas(1, timeout=5.0)) as twin:
        for key in keys * 4:
            twin.update(key, lambda doc: doc.increment("n"))
        before = twin.stats.round_trips
        for key in keys:
            twin.update(key, lambda doc: doc.increment("n"))
        assert twin.stats.round_trips - before == len(keys)
    with (
        open_twin(kind, any_cluster.url, durability=Replicas(1, timeout=BRIEF)) as hasty,
        open_twin(kind, any_cluster.url, durability=Replicas(1, timeout=5.0)) as patient,
        stopped(any_cluster.replica_of(owners[0])),
    ):
        with pytest.raises(NotDurable) as caught:
            hasty.update(keys[0], lambda doc: doc.increment("n"))
        assert (caught.value.result, caught.value.replicas) == ({"n": 6}, 0)
        assert patient.update(keys[1], lambda doc: doc.increment("n")) == {"n": 6}


# Disks


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis8"])
def test_what_is_on_disk_survives_a_kill(kind: str, name: str, start_server: StartServer) -> None:
    server = start_server(name, appendonly="yes", appendfsync="always")
    with open_twin(kind, server.url, durability=Fsync(timeout=5.0)) as twin:
        twin.put("k", {"n": 1})
        twin.update("k", lambda doc: doc.increment("n"))
        server.restart(kill=True)
        assert twin.get("k") == {"n": 2}


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis8"])
def test_what_nobody_forces_to_disk_is_not_durable(kind: str, name: str, start_server: StartServer) -> None:
    server = start_server(name, appendonly="yes", appendfsync="no")
    with open_twin(kind, server.url, durability=Fsync(timeout=BRIEF)) as twin:
        with pytest.raises(NotDurable) as caught:
            twin.put("k", {"n": 1})
        assert (caught.value.local, caught.value.replicas) == (False, 0)
        assert twin.get("k") == {"n": 1}


@both_twins
def test_a_server_that_knows_no_waitaof_is_refused_before_any_write(kind: str, redis6: ServerHandle) -> None:
    refuses(kind, redis6, Fsync(), "unknown command")


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis8"])
def test_a_server_without_an_appendonly_file_is_refused_before_any_write(
    kind: str, name: str, start_server: StartServer
) -> None:
    server = start_server(name)
    refuses(kind, server, Fsync(), "appendonly")
    with (
        open_twin(kind, server.url, durability=Fsync(local=False, replicas=1, timeout=BRIEF)) as twin,
        pytest.raises(NotDurable) as caught,
    ):
        twin.put("k", {"n": 1})
    assert (caught.value.replicas, caught.value.local) == (0, None)


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis8"])
def test_an_appendonly_file_turned_off_while_running_is_not_durable(
    kind: str, name: str, start_server: StartServer
) -> None:
    server = start_server(name, appendonly="yes")
    with open_twin(kind, server.url, durability=Fsync(timeout=5.0)) as twin:
        twin.put("k", {"n": 1})
        with client_of(server.unix_url) as client:
            client.config_set("appendonly", "no")
            with pytest.raises(NotDurable, match="appendonly") as caught:
                twin.put("k", {"n": 2})
            assert (caught.value.local, caught.value.replicas) == (None, None)
            assert client.hget("k", "n") == b"2"


def refuses(kind: str, server: ServerHandle, durability: Any, why: str) -> None:
    with open_twin(kind, server.url, durability=durability) as twin:
        with pytest.raises(UsageError, match=why):
            twin.put("k", {"n": 1})
        with pytest.raises(UsageError, match=why):
            twin.get("k")
    with client_of(server.unix_url) as client:
        assert client.dbsize() == 0
