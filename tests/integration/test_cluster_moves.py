"""Slots that move and primaries that die while transactions run: fault 21."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio.cluster
import redis.cluster
from support import bank
from support.bank import Clerks
from support.faults import of_commit
from support.ledger import Tally
from support.servers import BINARIES
from support.twins import both_twins, open_twin
from support.wire import eventually

from txstate import AsyncTx, Doc, Replicas, Store
from txstate._engine.slots import slot_of
from txstate.testing import FaultProxy, HoldRequest, Late

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.figures import Figures

    from txstate import Durability

pytestmark = pytest.mark.fault(number=21)

SLOT = slot_of(bank.TAG)


def shuttle(cluster: Cluster, moves: int, every: float) -> None:
    """Move the bank's slot to and fro so often, key by key and at once in turn, each time so many seconds later."""
    here = cluster.owner(SLOT)
    there = cluster.other_primary(here)
    began = time.monotonic()
    for number in range(moves):
        at_once = number % 4 >= 2 and cluster.version.startswith("9")
        move = cluster.move_at_once if at_once else cluster.move
        move(SLOT, there if number % 2 == 0 else here)
        time.sleep(max(0.0, began + (number + 1) * every - time.monotonic()))


@pytest.mark.parametrize(
    ("cluster", "moves", "every", "clerks"),
    [("valkey9", 12, 0.4, 4), *(pytest.param(name, 60, 1.0, 8, marks=pytest.mark.soak) for name in BINARIES)],
    indirect=["cluster"],
)
def test_a_slot_moves_to_and_fro_under_transfers(
    cluster: Cluster,
    figures: Figures,
    request: pytest.FixtureRequest,
    *,
    moves: int,
    every: float,
    clerks: int,
) -> None:
    bank.opened(cluster.url)
    with Clerks(cluster.url, clerks) as work:
        shuttle(cluster, moves, every)
        reports = work.finish()
    tally = bank.audit(reports, accounts(cluster))
    request.node.user_properties.append(("slowest", [round(report.slowest, 3) for report in reports]))
    assert [error for report in reports for error in report.errors] == []
    assert tally.applied == tally.acknowledged > 20 * moves * every
    disrupted = sum(report.stats.disruptions for report in reports if report.stats)
    figures(cluster.nodes[0], fired=min(moves, disrupted), tally=tally)


@pytest.mark.parametrize("durability", [None, Replicas(1, timeout=0.2)], ids=["by default", "Replicas(1)"])
def test_a_primary_is_killed_and_its_replica_takes_over(
    any_cluster: Cluster, figures: Figures, request: pytest.FixtureRequest, durability: Durability | None
) -> None:
    """By default, what it had not replicated yet is lost; nothing else is, nothing is doubled, and nobody has to help."""
    cluster = any_cluster
    bank.opened(cluster.url)
    with Clerks(cluster.url, 4, durability=durability) as work:
        dead = cluster.owner(SLOT)
        cluster.replica_of(dead)
        time.sleep(0.5)
        cluster.kill(dead)
        cluster.wait_for_failover(SLOT, dead)
        before = accounts(cluster)
        time.sleep(0.5)
        reports = work.finish()
    after = accounts(cluster)
    tally = bank.audit(reports, after)
    request.node.user_properties.append(("tally", tally))
    assert [error for report in reports for error in report.errors] == []
    assert after != before  # it goes on by itself
    if durability is not None:
        assert tally.not_durable > 0  # nobody is left to confirm
        assert tally.acknowledged > 0
    lost_to = "" if durability else "SIGKILL of a primary ahead of its replica"
    figures(dead, fired=1, tally=tally, lost_to=lost_to)


def accounts(cluster: Cluster) -> dict[str, dict[str, Any]]:
    with Store(cluster.url) as store:
        return {key: dict(doc or {}) for key, doc in store.get_many(bank.ACCOUNTS).items()}


@both_twins
@pytest.mark.parametrize("at_once", [False, True], ids=["key by key", "at once"])
@pytest.mark.parametrize("delivered", ["before", "away", "back"])
def test_a_late_exec_and_a_slot_that_moves(
    kind: str, delivered: str, cluster: Cluster, figures: Figures, *, at_once: bool
) -> None:
    """The EXEC hangs on its way to the old owner while the slot moves away, is resolved at the new one, and moves back."""
    move = cluster.move_at_once if at_once else cluster.move
    owner = cluster.owner(SLOT)
    with FaultProxy(owner.url) as proxy:
        hidden = urlsplit(proxy.url).port or 0

        def through_the_proxy(node: tuple[str, int]) -> tuple[str, int]:
            return (node[0], hidden) if node[1] == owner.port else node

        clients = {"sync": redis.cluster.RedisCluster, "async": redis.asyncio.cluster.RedisCluster}
        client = clients[kind](host="127.0.0.1", port=owner.port, address_remap=through_the_proxy)
        with open_twin(kind, client=client) as twin, ThreadPoolExecutor(1) as pool:
            twin.run(add)
            # All of the commit comes late, or EXEC alone: then what it executes had been taken by the old owner.
            late = proxy.inject(Late(), "MULTI" if delivered == "away" else "EXEC", where=of_commit)
            resolver = proxy.inject(HoldRequest(), "EXPIRE")
            call = pool.submit(twin.run, add)
            resolver.wait()
            exec_on_its_way = late.held()
            if delivered == "before":
                assert isinstance(exec_on_its_way.deliver()[0], list)
            other = move(SLOT)
            if delivered == "away":
                answers = exec_on_its_way.deliver()
                assert any("MOVED" in str(answer) for answer in answers)
                assert not any(isinstance(answer, list) for answer in answers)
            resolver.release()
            call.result()
            move(SLOT, owner)
            if delivered == "back":
                assert exec_on_its_way.deliver()[0] is None
            stats = twin.stats
            assert (stats.in_doubt, stats.resolved_committed) == (1, delivered == "before")
            assert twin.get(bank.ACCOUNTS[1]) == {"n": 2}
            assert other is not owner
            figures(
                owner,
                fired=proxy.fired,
                resolved=stats,
                tally=Tally(attempted=2, acknowledged=2, applied=2),
            )


async def add(tx: AsyncTx) -> None:
    for doc in await tx.get_many(bank.ACCOUNTS[:2]):
        doc.increment("n")


@both_twins
def test_a_slot_in_the_middle_of_a_move(kind: str, any_cluster: Cluster, figures: Figures) -> None:
    """Documents that have moved are served by the target, which has to be asked; those that are split up, after it."""
    cluster, keys = any_cluster, bank.ACCOUNTS[:2]
    here = cluster.owner(SLOT)
    there = cluster.other_primary(here)
    with open_twin(kind, cluster.url) as twin:
        twin.run(add)
        twin.run(add)
        cluster.begin_move(SLOT, here, there)
        # Still here, with all that is needed: no claim, which nobody holds, keeps it from being served.
        before = twin.stats.disruptions
        twin.run(add)
        assert twin.stats.disruptions == before
        # Split up: nobody can serve both until the move has ended.
        cluster.move_key(keys[0], here, there)
        connected = twin.stats.connections

        def end_when_it_has_asked() -> None:
            eventually(lambda: twin.stats.disruptions - before > 3)
            cluster.end_move(SLOT, here, there)

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(end_when_it_has_asked)
            twin.run(add)
            ended.result()
        waited = twin.stats.disruptions - before
        assert twin.stats.connections - connected <= 3 < waited  # it does not connect anew each time it asks
        # Back again, all moved but the owner is still the same: the other one has to be asked.
        cluster.begin_move(SLOT, there, here)
        while cluster.move_keys(SLOT, there, here):
            pass
        before = cluster.calls(here, "asking")
        twin.run(add)
        assert [doc and doc["n"] for doc in twin.get_many(keys).values()] == [5, 5]
        assert [doc and doc["n"] for doc in twin.get_each(keys).values()] == [5, 5]
        assert twin.get(keys[0]) == {"n": 5}
        assert twin.get("{bank}:none") is None
        asked = cluster.calls(here, "asking") - before
        cluster.end_move(SLOT, there, here)
        twin.run(add)
        assert [doc and doc["n"] for doc in twin.get_many(keys).values()] == [6, 6]
        figures(here, fired=min(asked, waited), tally=Tally(attempted=6, acknowledged=6, applied=6))


@both_twins
def test_nothing_is_left_where_a_slot_is_going_that_would_keep_it_from_moving(
    kind: str, any_cluster: Cluster, figures: Figures
) -> None:
    """What serves the progress of a call beside a document stays at the old owner until it is moved from there."""
    cluster, key = any_cluster, bank.ACCOUNTS[0]
    here = cluster.owner(SLOT)
    there = cluster.other_primary(here)
    with open_twin(kind, cluster.url) as twin, open_twin("sync", cluster.url) as other:
        twin.put(key, {"n": 0})

        def outdo(doc: Doc) -> None:
            time.sleep(0.1)  # so that what the slower call holds is held for a while
            doc.increment("other")

        async def outdone(tx: AsyncTx) -> None:
            doc = await tx.get(key)
            doc.increment("n")
            if tx.attempt < 4:
                other.update(key, outdo)
            elif tx.attempt == 4:
                cluster.begin_move(SLOT, here, there)
                cluster.move_key(key, here, there)
            elif cluster.calls(there, "asking") > before and cluster.owner(SLOT) is here:
                cluster.end_move(SLOT, here, there)

        before = cluster.calls(there, "asking")
        twin.run(outdone)
        asked = cluster.calls(there, "asking") - before
        assert cluster.owner(SLOT) is there
        assert twin.get(key) == {"n": 1, "other": 3}
        figures(here, fired=asked, tally=Tally(attempted=4, acknowledged=4, applied=4))
