"""Commits whose reply is lost, and commits that arrive late: each is applied exactly once, and acknowledged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.faults import newest_and_oldest, of_commit, proxied
from support.ledger import Ledger, all_once
from support.twins import both_twins, open_twin

from txstate.testing import Cut, DropReply, DropRequest, FaultProxy, HoldReply, HoldRequest, Late

if TYPE_CHECKING:
    from support.figures import Figures
    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate.testing import Rule

ROUNDS = 20
SLOW_ROUNDS = 3
CUTS = pytest.mark.parametrize("by", list(Cut))


def patience_with(by: Cut) -> float:
    """Seconds for one reply: what a commit into a silent connection costs, and no reason to doubt it elsewhere."""
    return 0.4 if by is Cut.SILENCE else 5.0


@pytest.mark.fault(number=1)
@both_twins
@newest_and_oldest
@CUTS
def test_a_commit_whose_reply_is_lost_is_acknowledged_and_applied_once(
    kind: str, server: ServerHandle, by: Cut, figures: Figures
) -> None:
    with proxied(kind, server.url, timeout=patience_with(by)) as (proxy, twin):
        rules, ledgers = commit_under(DropReply(by), server, proxy, twin)
        assert (twin.stats.in_doubt, twin.stats.resolved_committed) == (ROUNDS, ROUNDS)
        # None was run again, but those that a busy machine kept waiting for another reply than the commit's.
        assert twin.stats.attempts - twin.stats.disruptions == ROUNDS
        assert sum(rule.fired for rule in rules) == proxy.fired == ROUNDS
        assert figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats) == all_once(ROUNDS)


@pytest.mark.fault(number=2)
@both_twins
@newest_and_oldest
@CUTS
def test_a_commit_that_never_arrives_is_run_again_and_applied_once(
    kind: str, server: ServerHandle, by: Cut, figures: Figures
) -> None:
    with proxied(kind, server.url, timeout=patience_with(by)) as (proxy, twin):
        rules, ledgers = commit_under(DropRequest(by), server, proxy, twin)
        assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (ROUNDS, ROUNDS)
        assert sum(rule.fired for rule in rules) == proxy.fired == ROUNDS
        assert figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats) == all_once(ROUNDS)


@pytest.mark.fault(number=4)
@both_twins
@newest_and_oldest
@CUTS
def test_a_late_exec_that_runs_after_the_resolution_is_stopped_by_it(
    kind: str, server: ServerHandle, by: Cut, figures: Figures
) -> None:
    """Before the next attempt has begun: what that one writes would stop it, too."""
    ledger, rounds = Ledger(server), SLOW_ROUNDS if by is Cut.SILENCE else ROUNDS
    with proxied(kind, server.url, timeout=patience_with(by)) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        for _ in range(rounds):
            late = proxy.inject(Late(by), "EXEC", where=of_commit)
            resolved = proxy.inject(HoldReply(), "GET")
            call = pool.submit(ledger.commit, twin)
            resolved.wait()
            assert late.held().deliver()[0] is None
            resolved.release()
            call.result()
        assert proxy.fired == 2 * rounds
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(rounds)
        assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (rounds, rounds)


@pytest.mark.fault(number=4)
@both_twins
@newest_and_oldest
@pytest.mark.parametrize("by", [Cut.FIN, Cut.RST])
def test_a_late_exec_that_runs_before_the_resolution_is_found_to_be_committed(
    kind: str, server: ServerHandle, by: Cut, figures: Figures
) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        for _ in range(ROUNDS):
            late = proxy.inject(Late(by), "EXEC", where=of_commit)
            resolver = proxy.inject(HoldRequest(), "EXPIRE")
            call = pool.submit(ledger.commit, twin)
            resolver.wait()
            assert isinstance(late.held().deliver()[0], list)
            resolver.release()
            call.result()
        assert (twin.stats.in_doubt, twin.stats.resolved_committed) == (ROUNDS, ROUNDS)
        assert proxy.fired == 2 * ROUNDS
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(ROUNDS)


@pytest.mark.fault(number=4)
@both_twins
@newest_and_oldest
def test_a_late_exec_that_runs_in_the_middle_of_the_resolution_is_stopped_by_it(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        for _ in range(ROUNDS):
            late = proxy.inject(Late(), "EXEC", where=of_commit)
            touched = proxy.inject(HoldReply(), "EXPIRE")
            looking = proxy.inject(HoldRequest(), "GET")
            call = pool.submit(ledger.commit, twin)
            touched.wait()
            looking.wait()
            assert late.held().deliver()[0] is None
            touched.release()
            looking.release()
            call.result()
        assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (ROUNDS, ROUNDS)
        assert proxy.fired == 3 * ROUNDS
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(ROUNDS)


@pytest.mark.fault(number=5)
@both_twins
@newest_and_oldest
def test_a_late_exec_that_runs_between_two_resolvers_is_stopped_by_the_first(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """The first resolver's replies are lost: what it did to the token must hold all the same."""
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        for _ in range(ROUNDS):
            late = proxy.inject(Late(), "EXEC", where=of_commit)
            first = proxy.inject(DropReply(), "EXPIRE")
            second = proxy.inject(HoldRequest(), "EXPIRE")
            call = pool.submit(ledger.commit, twin)
            first.wait()
            second.wait()
            assert late.held().deliver()[0] is None
            second.release()
            call.result()
        assert (twin.stats.in_doubt, twin.stats.resolved_aborted) == (ROUNDS, ROUNDS)
        assert proxy.fired == 3 * ROUNDS
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(ROUNDS)


@pytest.mark.fault(number=5)
@both_twins
@newest_and_oldest
def test_a_resolver_that_arrives_late_harms_no_later_transaction(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """The next one is armed already, with its token watched, when the EXPIRE of the one before arrives."""
    ledger, rounds = Ledger(server), ROUNDS // 2
    with proxied(kind, server.url) as (proxy, twin):
        for _ in range(rounds):
            lost = proxy.inject(DropReply(), "EXEC", where=of_commit)
            late = proxy.inject(Late(), "EXPIRE")
            ledger.commit(twin)
            lost.wait()
            ledger.commit(twin)
            assert late.held().deliver()[0] == 1
            ledger.commit(twin)
        assert (twin.stats.in_doubt, twin.stats.conflicts) == (rounds, 0)
        assert proxy.fired == 2 * rounds
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(3 * rounds)


@pytest.mark.fault(number=1)
@both_twins
@newest_and_oldest
def test_writers_on_one_document_lose_and_double_nothing_while_replies_are_lost(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """Conflicts and lost replies at once: a conflict must not be taken for a commit, nor the other way round.

    Two stores conflict with each other; the writers of each share commits, and so their doubts.
    """
    ledger, each, writers = Ledger(server), 15, 4
    with (
        proxied(kind, server.url) as (proxy, twin),
        open_twin(kind, proxy.url) as other,
        ThreadPoolExecutor(writers) as pool,
    ):
        lost = proxy.inject(DropReply(Cut.RST), "EXEC", where=lambda command: command.nth == 3, times=None)
        calls = [
            pool.submit(ledger.commit, twin if number % 2 else other) for number in range(writers * each)
        ]
        for call in calls:
            call.result()
        assert lost.fired > 0
        doubts = (twin.stats, other.stats)
        assert sum(stats.in_doubt for stats in doubts) >= lost.fired
        resolved = sum(stats.resolved_committed + stats.resolved_aborted for stats in doubts)
        assert figures(server, ledger, fired=proxy.fired, resolved=resolved) == all_once(writers * each)


def commit_under(
    action: DropReply | DropRequest, server: ServerHandle, proxy: FaultProxy, twin: Twin
) -> tuple[list[Rule], list[Ledger]]:
    """Make `ROUNDS` transactions, with as many faults: one by one, or all at once where each costs a timeout."""
    ledgers = [Ledger(server, f"ledger{number}") for number in range(ROUNDS)]

    def commit(ledger: Ledger) -> Rule:
        rule = proxy.inject(action, "EXEC", where=of_commit)
        ledger.commit(twin)
        return rule

    with ThreadPoolExecutor(ROUNDS if action.by is Cut.SILENCE else 1) as pool:
        rules = list(pool.map(commit, ledgers))
    return rules, ledgers
