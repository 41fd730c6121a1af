"""Faults 16, 17, 19 and 20: a replica takes over. What that loses is counted; nothing is ever doubled, or half applied."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from support.faults import of_commit
from support.ledger import Ledger, all_once
from support.replication import follow, promote
from support.servers import BINARIES, ServerMissingError
from support.takeover import Takeover
from support.twins import both_twins, open_twin
from support.wire import client_of

from txstate import AsyncTx, CommitUnknown, Replicas, Resolution
from txstate.testing import Cut, FaultProxy, Late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from support.figures import Figures
    from support.twins import Twin

BEFORE, AFTER = 10, 5
BRIEF = 0.05
LOST_TO = "a failover, without Replicas"


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Takeover]:
    """The kind of server is its parameter; a Redis 6 loads by its default, see the full resync below."""
    load = {"repl-diskless-load": "disabled"} if request.param == "redis6" else {}
    try:
        takeover = Takeover(request.param, **load)
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with takeover:
        yield takeover


pairs = pytest.mark.parametrize("pair", ["valkey9", "redis6"], indirect=True)


# 16


@pytest.mark.fault(number=16)
@both_twins
@pairs
def test_a_replica_behind_is_promoted_and_what_it_had_confirmed_is_there(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    relaxed, careful = Ledger(pair.replica, "relaxed"), Ledger(pair.replica, "careful")
    with (
        open_twin(kind, pair.url) as twin,
        open_twin(kind, pair.url, durability=Replicas(1, timeout=5.0)) as patient,
        open_twin(kind, pair.url, durability=Replicas(1, timeout=BRIEF)) as durable,
    ):
        commit(relaxed, twin, BEFORE)
        commit(careful, patient, BEFORE)
        pair.stream.hold_after(0)
        commit(relaxed, twin, BEFORE)
        commit(careful, durable, AFTER)
        pair.take_over()
        commit(relaxed, twin, AFTER)
        commit(careful, durable, AFTER)
        kept, risked = careful.tally(), relaxed.tally()
        assert (kept.acknowledged, kept.lost, kept.not_durable) == (BEFORE, 0, 2 * AFTER)
        assert (
            kept.applied == BEFORE + AFTER
        )  # those after the failover are there, though nobody confirmed them
        assert (risked.acknowledged, risked.lost) == (2 * BEFORE + AFTER, BEFORE)
        figures(pair.primary, careful, fired=pair.stream.cuts, resolved=durable.stats)
        figures(pair.primary, relaxed, fired=pair.stream.cuts, resolved=twin.stats, lost_to=LOST_TO)


@pytest.mark.fault(number=16)
@both_twins
@pairs
def test_a_commit_in_doubt_whose_token_was_not_replicated_is_resolved_by_the_versions(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """The replica lacks what the token is resolved by. Its documents are as they were read, so nothing was applied."""
    ledger = Ledger(pair.replica)
    with open_twin(kind, pair.url) as twin:
        commit(ledger, twin, 1)
        pair.wait_for_sync()
        pair.stream.hold_after(0)
    with open_twin(kind, pair.url) as twin, ThreadPoolExecutor(1) as pool:
        in_doubt(pool, pair, ledger, twin).result()
        assert ledger.tally() == all_once(2)
        assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (1, 1)
        figures(pair.primary, ledger, fired=pair.stream.cuts, resolved=twin.stats)


@pytest.mark.fault(number=16)
@both_twins
@pairs
def test_a_commit_in_doubt_whose_evidence_was_lost_in_the_failover_is_unknown(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """The replica lacks the token, and the version that was read: nobody can tell what became of the commit."""
    ledger = Ledger(pair.replica)
    with open_twin(kind, pair.url) as twin:
        commit(ledger, twin, 1)
        pair.wait_for_sync()
        pair.stream.hold_after(0)
    with open_twin(kind, pair.url) as twin, ThreadPoolExecutor(1) as pool:
        commit(ledger, twin, 1)
        call = in_doubt(pool, pair, ledger, twin)
        with pytest.raises(CommitUnknown) as unknown:
            call.result()
        assert twin.resolve(unknown.value.token) is Resolution.UNKNOWN
        tally = ledger.tally()
        assert (tally.acknowledged, tally.applied, tally.lost) == (2, 1, 1)
        assert (twin.stats.in_doubt, twin.stats.unknown) == (1, 1)
        figures(pair.primary, ledger, fired=pair.stream.cuts, resolved=twin.stats, lost_to=LOST_TO)


# 17


@pytest.mark.fault(number=17)
@pytest.mark.parametrize(
    ("pair", "kind"),
    [("valkey9", "sync"), ("redis6", "async")],
    indirect=["pair"],
)
def test_a_stream_cut_inside_of_a_transaction_leaves_all_or_nothing_of_it(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """A sample of all bytes: the soak below takes each."""
    cut_stream(kind, pair, figures, lambda length: [*range(0, length - 1, length // 6), length - 1, length])


@pytest.mark.soak
@pytest.mark.fault(number=17)
@both_twins
@pytest.mark.parametrize("pair", list(BINARIES), indirect=True)
def test_a_stream_cut_at_every_byte_of_a_transaction_leaves_all_or_nothing_of_it(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    cut_stream(kind, pair, figures, lambda length: range(length + 1))


def cut_stream(kind: str, pair: Takeover, figures: Figures, points: Callable[[int], Sequence[int]]) -> None:
    """Cut it while the commit's reply is held back too, so that the commit is resolved on who was promoted."""
    with open_twin(kind, pair.url) as twin, ThreadPoolExecutor(1) as pool:
        length = stream_of_one_commit(pair, twin)
        ledgers = []
        for point in points(length):
            ledgers.append(ledger := Ledger(pair.replica, f"cut-{point:04}"))
            before, started = twin.stats, SimpleQueue[tuple[int, int, int]]()

            def hold(point: int = point, started: SimpleQueue[tuple[int, int, int]] = started) -> None:
                pair.wait_for_sync()
                pair.stream.hold_after(point)
                pair.address.hold_after(0)
                started.put((pair.stream.arrived, pair.stream.passed, pair.address.arrived))

            call = pool.submit(commit_after, hold, ledger, twin)
            arrived, passed, answered = started.get(timeout=20)
            pair.address.wait_for(answered + 1, 0)  # the primary has run it
            pair.push(arrived + length)
            pair.stream.wait_for(arrived + length, passed + point)
            pair.take_over()
            call.result()
            assert ledger.tally() == all_once(1), f"cut after {point} of {length} bytes"
            found = (
                twin.stats.resolved_committed - before.resolved_committed,
                twin.stats.resolved_aborted - before.resolved_aborted,
            )
            assert found == ((1, 0) if point == length else (0, 1)), f"cut after {point} of {length} bytes"
            pair.start_over()
        figures(pair.primary, *ledgers, fired=pair.stream.cuts, resolved=twin.stats)


def stream_of_one_commit(pair: Takeover, twin: Twin) -> int:
    """How many bytes a commit is in the stream."""
    arrived: list[int] = []

    def count() -> None:
        pair.wait_for_sync()
        arrived.append(pair.stream.arrived)

    commit_after(count, Ledger(pair.primary, "cut-base"), twin)
    count()
    return arrived[1] - arrived[0]


# 19


@pytest.mark.fault(number=19)
@both_twins
@pairs
def test_what_an_old_primary_acknowledges_after_the_split_is_lost_unless_replicas_were_asked_for(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    alone, careful, new = (Ledger(pair.replica, name) for name in ("alone", "careful", "new"))
    with (
        open_twin(kind, pair.url) as twin,
        open_twin(kind, pair.url, durability=Replicas(1, timeout=BRIEF)) as durable,
        open_twin(kind, pair.replica.url) as other,
    ):
        commit(alone, twin, BEFORE)
        pair.wait_for_sync()
        pair.part()
        commit(alone, twin, BEFORE)
        commit(careful, durable, AFTER)
        commit(new, other, AFTER)
        with client_of(pair.primary.unix_url) as client:
            client.config_set("min-replicas-to-write", 1)
        commit(alone, twin, AFTER)  # refused: the server asks for a replica before it takes a write
        with client_of(pair.primary.unix_url) as client:
            assert int(client.hget("alone:1", "count") or 0) == 2 * BEFORE, "the split did not happen"
        pair.rejoin()
        pair.address.switch(pair.replica.port)
        commit(alone, twin, AFTER)
        risked, kept = alone.tally(), careful.tally()
        assert (risked.acknowledged, risked.lost, risked.failed) == (2 * BEFORE + AFTER, BEFORE, AFTER)
        assert (kept.acknowledged, kept.lost, kept.not_durable) == (0, 0, AFTER)
        assert new.tally() == all_once(AFTER)
        figures(pair.primary, careful, new, fired=pair.stream.cuts, resolved=durable.stats)
        figures(pair.primary, alone, fired=pair.stream.cuts, resolved=twin.stats, lost_to=LOST_TO)


@pytest.mark.fault(number=19)
@both_twins
@pairs
def test_an_exec_that_reaches_the_old_primary_late_goes_with_it(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """The commit is resolved, and made, on the new primary; then the old one runs it too, and rejoins."""
    ledger = Ledger(pair.replica)
    with FaultProxy(pair.primary.url) as proxy, ThreadPoolExecutor(1) as pool:
        pair.address.switch(int(proxy.url.rpartition(":")[2].partition("/")[0]))
        with open_twin(kind, pair.url) as twin:
            commit(ledger, twin, 1)
            late = proxy.inject(Late(Cut.SILENCE), "EXEC", where=of_commit)
            call = pool.submit(commit, ledger, twin, 1)
            late.wait()
            pair.take_over()
            call.result()
            assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (1, 1)
            assert isinstance(late.held().deliver()[0], list), "the old primary did not run it"
            pair.rejoin()
            for server in (pair.primary, pair.replica):
                with client_of(server.unix_url) as client:
                    assert client.hget(ledger.keys[0], "count") == b"2"
            assert ledger.tally() == all_once(2)
            figures(pair.primary, ledger, fired=late.fired, resolved=twin.stats)


# 20


@pytest.mark.fault(number=20)
@both_twins
@pairs
def test_a_primary_demoted_between_watch_and_exec_applies_nothing(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """The connection stays: it is the answer to EXEC that says so."""
    ledger = Ledger(pair.replica)
    with open_twin(kind, pair.url) as twin:
        commit(ledger, twin, 1)

        def demote() -> None:
            pair.wait_for_sync()
            pair.part()
            follow(pair.primary, pair.replica.port)
            pair.address.redirect(pair.replica.port)

        commit_after(demote, ledger, twin)
        assert ledger.tally() == all_once(2)
        assert (twin.stats.disruptions, twin.stats.conflicts, twin.stats.in_doubt) == (1, 0, 0)
        figures(pair.primary, ledger, fired=twin.stats.disruptions, resolved=twin.stats)


@pytest.mark.fault(number=20)
@both_twins
@pairs
def test_a_demoted_primary_is_not_read_from_though_its_connections_stay(
    kind: str, pair: Takeover, figures: Figures
) -> None:
    """Its data is stale, and clean by all its flags; idle and armed connections lead to it."""
    ledger = Ledger(pair.replica)
    with open_twin(kind, pair.url) as twin, open_twin(kind, pair.replica.url) as other:
        commit(ledger, twin, 4)
        twin.get(ledger.keys[0])
        pair.wait_for_sync()
        pair.part()
        follow(pair.primary, 1)  # nobody listens there
        pair.address.redirect(pair.replica.port)
        commit(ledger, other, 1)
        seen = twin.get(ledger.keys[0])
        assert seen is not None
        assert seen["count"] == 5
        assert twin.run(count_of, ledger.keys[0]) == 5
        commit(ledger, twin, 1)
        assert ledger.tally() == all_once(6)
        figures(pair.primary, ledger, fired=twin.stats.disruptions, resolved=twin.stats)


@pytest.mark.fault(number=20)
@both_twins
@pytest.mark.parametrize("pair", list(BINARIES), indirect=True)
def test_a_full_resync_while_watching_is_a_conflict(kind: str, pair: Takeover, figures: Figures) -> None:
    """A primary is demoted, loaded with another one's data and promoted again, all between WATCH and EXEC.

    Not so on Redis 6.2 with ``repl-diskless-load swapdb``, which is not its default: there the watches do not see it.
    """
    ledger = Ledger(pair.primary)
    with open_twin(kind, pair.url) as twin, open_twin(kind, pair.replica.url) as other:
        commit(ledger, twin, 1)

        def resync() -> None:
            pair.wait_for_sync()
            pair.part()
            commit(ledger, other, 1)
            with client_of(pair.primary.unix_url) as client:
                client.set("diverged", "1")
            before = replication_full_syncs(pair)
            pair.rejoin()
            assert replication_full_syncs(pair) == before + 1
            promote(pair.primary)

        commit_after(resync, ledger, twin)
        assert ledger.tally() == all_once(3)
        assert (twin.stats.conflicts, twin.stats.disruptions) == (1, 0)
        figures(pair.primary, ledger, fired=twin.stats.conflicts, resolved=twin.stats)


# What they have in common


def commit(ledger: Ledger, twin: Twin, times: int) -> None:
    for _ in range(times):
        ledger.commit(twin)


def commit_after(prepare: Callable[[], object], ledger: Ledger, twin: Twin) -> None:
    """One transaction, and what is prepared when it first stands between reading and EXEC."""
    marker, prepared = ledger.next_marker(), list[object]()

    async def append(tx: AsyncTx) -> None:
        await ledger.append(tx, marker)
        if not prepared:
            prepared.append(prepare())

    twin.run(append)
    ledger.acknowledge(marker)


def in_doubt(pool: ThreadPoolExecutor, pair: Takeover, ledger: Ledger, twin: Twin) -> Future[None]:
    """Begin a transaction whose commit the primary runs, but does not get to answer: the replica has taken over."""
    held = SimpleQueue[int]()

    def hold() -> None:
        pair.address.hold_after(0)
        held.put(pair.address.arrived)

    call = pool.submit(commit_after, hold, ledger, twin)
    pair.address.wait_for(held.get(timeout=20) + 1, 0)
    pair.take_over()
    return call


async def count_of(tx: AsyncTx, key: str) -> Any:
    return (await tx.get(key))["count"]


def replication_full_syncs(pair: Takeover) -> int:
    """How often somebody was loaded from the replica."""
    with client_of(pair.replica.unix_url) as client:
        return int(client.info("stats")["sync_full"])
