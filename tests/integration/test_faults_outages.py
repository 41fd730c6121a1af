"""Connections and servers that fail before, at and after a commit: nothing is lost, and waiting has an end."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from support.faults import newest_and_oldest, of_commit
from support.ledger import Ledger, all_once
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

    from support.servers import ServerHandle, StartServer

    from txstate import AsyncTx
    from txstate.testing import Action, Command

FAULTS: list[Action] = [
    DropRequest(Cut.FIN),
    DropRequest(Cut.RST),
    DropReply(Cut.FIN),
    DropReply(Cut.RST),
    CutReply(1),
]


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
    kind: str, server: ServerHandle, command: str, where: Callable[[Command], bool] | None
) -> None:
    ledger = Ledger(server)
    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url) as twin:
        for fault in FAULTS:
            proxy.kill()
            rule = proxy.inject(fault, command, where=where)
            ledger.commit(twin)
            assert rule.fired == 1
        assert ledger.tally() == all_once(len(FAULTS))
        assert twin.stats.in_doubt == 0
        assert twin.stats.disruptions >= len(FAULTS)


@both_twins
@newest_and_oldest
def test_a_connection_that_fails_between_two_reads_costs_an_attempt_and_no_doubt(
    kind: str, server: ServerHandle
) -> None:
    # New documents each time: those read before would be fetched at once.
    ledgers = [Ledger(server, f"ledger{number}") for number in range(10)]

    async def body(tx: AsyncTx, ledger: Ledger) -> int:
        await tx.get(f"{ledger.name}:elsewhere")
        if tx.attempt == 1:
            proxy.kill()
        await ledger.append(tx, ledger.next_marker())
        return tx.attempt

    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url) as twin:
        assert [twin.run(body, ledger) for ledger in ledgers] == [2] * 10
        assert [ledger.tally().applied for ledger in ledgers] == [1] * 10
        assert (proxy.fired, twin.stats.in_doubt, twin.stats.disruptions) == (10, 0, 10)


@both_twins
@newest_and_oldest
def test_a_connection_killed_between_reading_and_commit_is_run_again_and_applied_once(
    kind: str, server: ServerHandle
) -> None:
    ledger = Ledger(server)

    async def body(tx: AsyncTx, marker: str) -> int:
        await ledger.append(tx, marker)
        if tx.attempt == 1:
            assert admin.client_kill_filter(_type="normal", skipme=True) >= 1
        return tx.attempt

    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        assert [twin.run(body, ledger.next_marker()) for _ in range(20)] == [2] * 20
        tally = ledger.tally()
        assert (tally.applied, tally.doubled, tally.torn) == (20, 0, 0)
        assert twin.stats.unknown == 0


@both_twins
@newest_and_oldest
def test_a_server_that_refuses_connections_for_a_while_is_waited_for(kind: str, server: ServerHandle) -> None:
    ledger = Ledger(server)
    with (
        FaultProxy(server.url) as proxy,
        open_twin(kind, proxy.url) as twin,
        ThreadPoolExecutor(1) as pool,
    ):
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
    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url, deadline=0.2) as twin:
        proxy.refuse()
        calls: list[Callable[[], object]] = [lambda: twin.put("k", {"n": 1}), lambda: twin.get("k")]
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
    with FaultProxy(server.url) as proxy, open_twin(kind, proxy.url, deadline=0.2) as twin:
        proxy.pause()
        with pytest.raises(StoreUnavailable):
            twin.put("k", {"n": 1})
        with pytest.raises(StoreUnavailable):
            twin.get("k")
        proxy.resume()
        assert twin.get("k") is None


@both_twins
@newest_and_oldest
@pytest.mark.parametrize(
    ("command", "where"),
    [
        pytest.param("WATCH", lambda command: command.nth == 2, id="begin"),
        pytest.param("MULTI", of_commit, id="commit"),
        pytest.param("EXPIRE", None, id="resolution"),
    ],
)
def test_a_server_stopped_past_the_timeout_loses_and_doubles_nothing(
    kind: str, server: ServerHandle, command: str, where: Callable[[Command], bool] | None
) -> None:
    """What was sent meanwhile waits in the server's sockets, and runs when it goes on: late, and for real."""
    ledger, rounds = Ledger(server), 2
    with (
        FaultProxy(server.url) as proxy,
        open_twin(kind, proxy.url, timeout=0.1) as twin,
        ThreadPoolExecutor(1) as pool,
    ):
        for _ in range(rounds):
            proxy.kill()
            if command == "EXPIRE":
                proxy.inject(DropReply(), "EXEC", where=of_commit)
            held = proxy.inject(HoldRequest(), command, where=where)
            call = pool.submit(ledger.commit, twin)
            held.wait()
            # The first connection times out, and so does another one.
            goal = count_of(proxy, "connected") + 2
            os.kill(server.pid, signal.SIGSTOP)
            try:
                held.release()
                eventually(partial(reached, partial(count_of, proxy, "connected"), goal))
            finally:
                os.kill(server.pid, signal.SIGCONT)
            call.result()
        assert ledger.tally() == all_once(rounds)
        assert twin.stats.in_doubt == (0 if command == "WATCH" else rounds)
        assert twin.stats.unknown == 0


@both_twins
@pytest.mark.parametrize("name", ["valkey9", "redis6"])
def test_what_was_acknowledged_survives_a_sigkill_when_every_write_is_synced(
    kind: str, name: str, start_server: StartServer
) -> None:
    server = start_server(name, appendonly="yes", appendfsync="always")
    ledgers = [Ledger(server, f"ledger{number}") for number in range(3)]
    stopped = threading.Event()

    def commits() -> int:
        return twin.stats.commits

    def write(ledger: Ledger) -> None:
        while not stopped.is_set():
            ledger.commit(twin)

    with open_twin(kind, server.url) as twin, ThreadPoolExecutor(len(ledgers)) as pool:
        calls = [pool.submit(write, ledger) for ledger in ledgers]
        try:
            for _ in range(3):
                eventually(partial(reached, commits, commits() + 10))
                server.restart(kill=True)
        finally:
            stopped.set()
        for call in calls:
            call.result()
        assert twin.stats.disruptions > 0
        for ledger in ledgers:
            assert ledger.tally() == all_once(len(ledger.acknowledged))
        assert sum(len(ledger.acknowledged) for ledger in ledgers) >= 30


@both_twins
@newest_and_oldest
def test_a_dead_pooled_connection_is_replaced_without_waiting(kind: str, server: ServerHandle) -> None:
    """After a restart each connection of the pool is stale; the first one found must not cost a pause."""
    ledger = Ledger(server)
    with client_of(server.unix_url) as admin, open_twin(kind, server.url) as twin:
        for _ in range(5):
            ledger.commit(twin)
            admin.client_kill_filter(_type="normal", skipme=True)
        ledger.commit(twin)
        assert ledger.tally() == all_once(6)
        assert twin.stats.attempts <= 6 + 5


def reached(count: Callable[[], int], goal: int) -> bool:
    return count() >= goal


def count_of(proxy: FaultProxy, kind: str) -> int:
    """How many events of a kind the proxy has seen."""
    return sum(event.kind == kind for event in proxy.log)
