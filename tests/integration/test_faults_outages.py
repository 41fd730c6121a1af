"""Connections and servers that fail before, at and after a commit: nothing is lost, and waiting has an end."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from support.faults import newest_and_oldest, of_commit, proxied
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

from txstate import StoreUnavailable
from txstate.testing import (
    Cut,
    CutReply,
    DropReply,
    DropRequest,
    FaultProxy,
    HoldRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.figures import Figures
    from support.servers import ServerHandle

    from txstate import AsyncTx
    from txstate.testing import Action, Command

FAULTS: list[Action] = [
    DropRequest(Cut.FIN),
    DropRequest(Cut.RST),
    DropReply(Cut.FIN),
    DropReply(Cut.RST),
    CutReply(1),
]


TRIES = 20


@pytest.mark.fault(number=15)
@both_twins
@newest_and_oldest
@pytest.mark.parametrize(
    ("command", "where"),
    [
        pytest.param("HELLO", None, id="connecting"),
        pytest.param("EXEC", lambda command: command.nth == 1, id="proving"),
        pytest.param("WATCH", of_commit, id="watching"),
        pytest.param("HGETALL", None, id="reading"),
        pytest.param("CLIENT", lambda command: command.args[0] == b"INFO", id="validating"),
    ],
)
def test_a_connection_that_fails_before_the_commit_costs_an_attempt_and_no_doubt(
    kind: str, server: ServerHandle, command: str, where: Callable[[Command], bool] | None, figures: Figures
) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin):
        for fault in FAULTS:
            proxy.kill()
            rule = proxy.inject(fault, command, where=where)
            ledger.commit(twin)
            assert rule.fired == 1
        assert figures(server, ledger, fired=proxy.fired) == all_once(len(FAULTS))
        assert twin.stats.in_doubt == 0
        assert twin.stats.disruptions >= len(FAULTS)


@pytest.mark.fault(number=15)
@both_twins
@newest_and_oldest
def test_a_connection_that_fails_between_two_reads_costs_an_attempt_and_no_doubt(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    # New documents each time: those read before would be fetched at once.
    ledgers = [Ledger(server, f"ledger{number}") for number in range(10)]
    markers = {ledger.name: ledger.next_marker() for ledger in ledgers}

    async def body(tx: AsyncTx, ledger: Ledger) -> int:
        await tx.get(f"{ledger.name}:elsewhere")
        if tx.attempt == 1:
            proxy.kill()
        await ledger.append(tx, markers[ledger.name])
        return tx.attempt

    with proxied(kind, server.url) as (proxy, twin):
        assert [twin.run(body, ledger) for ledger in ledgers] == [2] * 10
        assert figures(server, *ledgers, fired=proxy.fired) == Tally(attempted=10, applied=10)
        assert (proxy.fired, twin.stats.in_doubt, twin.stats.disruptions) == (10, 0, 10)


@pytest.mark.fault(number=15)
@both_twins
@newest_and_oldest
def test_a_connection_killed_between_reading_and_commit_is_run_again_and_applied_once(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = Ledger(server)

    killed = 0

    async def body(tx: AsyncTx, marker: str) -> int:
        nonlocal killed
        await ledger.append(tx, marker)
        if tx.attempt == 1:
            killed += admin.client_kill_filter(_type="normal", skipme=True)
        return tx.attempt

    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        assert [twin.run(body, ledger.next_marker()) for _ in range(20)] == [2] * 20
        assert killed >= 20
        assert figures(server, ledger, fired=killed, resolved=twin.stats) == Tally(attempted=20, applied=20)
        assert twin.stats.unknown == 0


@both_twins
@newest_and_oldest
def test_a_server_that_refuses_connections_for_a_while_is_waited_for(kind: str, server: ServerHandle) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        ledger.commit(twin)
        proxy.refuse()
        assert proxy.kill() == 1
        call = pool.submit(ledger.commit, twin)
        eventually(lambda: twin.stats.disruptions >= 3)
        assert not call.done()
        proxy.accept()
        call.result()
        assert ledger.tally() == all_once(2)
        assert (
            twin.stats.in_doubt <= 1
        )  # a request into a connection that is closed already may seem to have left


@both_twins
@newest_and_oldest
def test_without_a_server_the_call_ends_at_its_deadline(kind: str, server: ServerHandle) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        hasty = twin.hasty(0.5)
        proxy.refuse()
        calls: list[Callable[[], object]] = [lambda: hasty.put("k", {"n": 1}), lambda: hasty.get("k")]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match="nothing was applied") as caught:
                call()
            assert caught.value.__cause__ is not None
            assert time.monotonic() - started < 5
        proxy.accept()
        assert twin.get("k") is None
        assert twin.put("k", {"n": 1}).to_dict() == {"n": 1}


@both_twins
@newest_and_oldest
def test_a_server_that_never_answers_does_not_hold_a_call_beyond_its_deadline(
    kind: str, server: ServerHandle
) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        hasty = twin.hasty(0.2)
        proxy.pause()
        with pytest.raises(StoreUnavailable):
            hasty.put("k", {"n": 1})
        with pytest.raises(StoreUnavailable):
            hasty.get("k")
        proxy.resume()
        assert twin.get("k") is None


@pytest.mark.fault(number=7)
@both_twins
@newest_and_oldest
@pytest.mark.parametrize(
    ("command", "where"),
    [
        pytest.param("HELLO", lambda command: command.nth == 1, id="connecting"),
        pytest.param("MULTI", lambda command: command.nth == 1, id="proving"),
        pytest.param("WATCH", lambda command: command.nth == 2, id="begin"),
        pytest.param(
            "CLIENT", lambda command: command.args[0] == b"INFO" and command.nth > 1, id="validating"
        ),
        pytest.param("MULTI", of_commit, id="commit"),
        pytest.param("EXEC", of_commit, id="exec"),
        pytest.param("EXPIRE", None, id="resolution"),
    ],
)
def test_a_server_stopped_past_the_timeout_loses_and_doubles_nothing(
    kind: str, server: ServerHandle, command: str, where: Callable[[Command], bool] | None, figures: Figures
) -> None:
    """What was sent meanwhile waits in the server's sockets, and runs when it goes on: late, and for real."""
    ledger, rounds, stopped = Ledger(server), 0, 0
    with proxied(kind, server.url, timeout=0.25) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        while (
            not stopped
        ):  # on a busy machine the call may have gone on elsewhere before the server stands still
            rounds += 1
            assert rounds <= TRIES
            proxy.kill()
            if command == "EXPIRE":
                proxy.inject(DropReply(), "EXEC", where=of_commit)
            held = proxy.inject(HoldRequest(), command, where=where)
            call = pool.submit(ledger.commit, twin)
            held.wait()
            # The first connection times out, and so does another one.
            waited = partial(reached, partial(count_of, proxy, "connected"), count_of(proxy, "connected") + 2)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                held.release()
                eventually(partial(either, call.done, waited))
                stopped += waited()
            finally:
                os.kill(server.pid, signal.SIGCONT)
            call.result()
        assert figures(server, ledger, fired=stopped, resolved=twin.stats) == all_once(rounds)
        assert twin.stats.in_doubt == (rounds if command in {"EXEC", "EXPIRE"} or where is of_commit else 0)
        assert twin.stats.unknown == 0


@pytest.mark.fault(number=15)
@both_twins
@newest_and_oldest
def test_a_dead_pooled_connection_is_replaced_without_waiting(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """After a restart each connection of the pool is stale; the first one found must not cost a pause."""
    ledger = Ledger(server)
    killed = 0
    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        for _ in range(5):
            ledger.commit(twin)
            killed += admin.client_kill_filter(_type="normal", skipme=True)
        ledger.commit(twin)
        assert figures(server, ledger, fired=killed, resolved=twin.stats) == all_once(6)
        assert twin.stats.attempts <= 6 + 5


def reached(count: Callable[[], int], goal: int) -> bool:
    return count() >= goal


def either(one: Callable[[], bool], other: Callable[[], bool]) -> bool:
    return one() or other()


def count_of(proxy: FaultProxy, kind: str) -> int:
    """How many events of a kind the proxy has seen."""
    return sum(event.kind == kind for event in proxy.log)
