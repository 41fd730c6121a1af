"""A server out of memory refuses, or evicts: documents, which is a conflict, or the tokens that tell what became of a commit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.faults import every_server, of_commit, proxied
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

from txstate.testing import HoldReply, HoldRequest, Late

if TYPE_CHECKING:
    from support.figures import Figures
    from support.servers import StartServer

    from txstate import AsyncTx


pytestmark = [pytest.mark.fault(number=22), both_twins, every_server]


@pytest.mark.parametrize("connected", [True, False])
def test_out_of_memory_applies_nothing_and_still_reads(
    kind: str, name: str, start_server: StartServer, figures: Figures, *, connected: bool
) -> None:
    server = start_server(name, maxmemory_policy="noeviction")
    ledger = Ledger(server)
    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        if connected:
            ledger.commit(twin)
        admin.config_set("maxmemory", 1)
        ledger.commit(twin)
        assert ledger.refusals() == ["OOM"]
        assert (twin.get(ledger.keys[0]) is not None) == connected
        admin.config_set("maxmemory", 0)
        ledger.commit(twin)
    commits = 1 + connected
    assert figures(server, ledger, fired=1) == Tally(
        attempted=commits + 1, acknowledged=commits, applied=commits, failed=1
    )


def test_a_lost_reply_is_resolved_by_a_server_that_is_out_of_memory(
    kind: str, name: str, start_server: StartServer, figures: Figures
) -> None:
    server = start_server(name, maxmemory_policy="noeviction")
    ledger = Ledger(server)
    with (
        client_of(server.unix_url) as admin,
        proxied(kind, server.url) as (proxy, twin),
        ThreadPoolExecutor(1) as pool,
    ):
        executed = proxy.inject(HoldReply(), "EXEC", where=of_commit)
        call = pool.submit(ledger.commit, twin)
        executed.wait()
        admin.config_set("maxmemory", 1)
        assert proxy.kill() == 1
        call.result()
        assert twin.stats.resolved_committed == 1
        admin.config_set("maxmemory", 0)
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(1)


def test_out_of_memory_when_all_is_queued_already_applies_nothing(
    kind: str, name: str, start_server: StartServer, figures: Figures
) -> None:
    server = start_server(name, maxmemory_policy="noeviction")
    ledger = Ledger(server)
    with (
        client_of(server.unix_url) as admin,
        proxied(kind, server.url) as (proxy, twin),
        ThreadPoolExecutor(1) as pool,
    ):
        queued = proxy.inject(HoldRequest(), "EXEC", where=of_commit)
        call = pool.submit(ledger.commit, twin)
        queued.wait()
        admin.config_set("maxmemory", 1)
        queued.release()
        call.result()
        assert ledger.refusals() == ["OOM"]
        admin.config_set("maxmemory", 0)
        ledger.commit(twin)
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == Tally(
            attempted=2, acknowledged=1, applied=1, failed=1
        )


def test_watched_documents_that_are_evicted_are_a_conflict(
    kind: str, name: str, start_server: StartServer, figures: Figures
) -> None:
    server = start_server(name, maxmemory_policy="allkeys-random")
    ledger, saw = Ledger(server), list[bool]()

    async def body(tx: AsyncTx, marker: str) -> None:
        saw.append((await tx.get(ledger.keys[0])).exists)
        await ledger.append(tx, marker)
        if tx.attempt == 1:
            admin.config_set("maxmemory", 1)
            eventually(lambda: admin.dbsize() == 0)
            admin.config_set("maxmemory", 0)

    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        ledger.commit(twin)
        marker = ledger.next_marker()
        twin.run(body, marker)
        ledger.acknowledge(marker)
        evicted = int(admin.info("stats")["evicted_keys"])
        assert saw == [True, False]
        assert figures(server, ledger, fired=evicted, resolved=twin.stats, lost_to="eviction") == Tally(
            attempted=2, acknowledged=2, applied=1, lost=1
        )
        assert ledger.applied() == [marker]


@pytest.mark.parametrize("applied", [True, False])
def test_a_commit_whose_token_is_evicted_is_unknown_unless_its_documents_testify(
    kind: str, name: str, start_server: StartServer, *, applied: bool, figures: Figures
) -> None:
    server = start_server(name, maxmemory_policy="volatile-ttl")
    ledger = Ledger(server)
    with (
        client_of(server.unix_url) as admin,
        proxied(kind, server.url) as (proxy, twin),
        ThreadPoolExecutor(1) as pool,
    ):
        ledger.commit(twin)
        late = proxy.inject(Late(), "EXEC", where=of_commit)
        resolver = proxy.inject(HoldRequest(), "EXPIRE")
        call = pool.submit(ledger.commit, twin)
        resolver.wait()
        if applied:
            assert isinstance(late.held().deliver()[0], list)
        admin.config_set("maxmemory", 1)
        eventually(lambda: admin.dbsize() == len(ledger.keys))
        admin.config_set("maxmemory", 0)
        resolver.release()
        call.result()
        expected = (
            Tally(attempted=2, acknowledged=1, unknown=1, applied=2)
            if applied
            else Tally(attempted=2, acknowledged=2, applied=2)
        )
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == expected
