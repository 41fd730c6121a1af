"""Clients that die, sleep or fork in the middle of a transaction: others go on, and what they left is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.faults import newest_and_oldest
from support.ledger import Ledger, Tally
from support.twins import SyncTwin, both_twins, open_twin
from support.wire import eventually

from txstate.testing import FaultProxy, HoldReply, HoldRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.figures import Figures
    from support.servers import ServerHandle

TESTS = Path(__file__).parents[1]


@pytest.mark.fault(number=11)
@newest_and_oldest
@pytest.mark.parametrize("action", [HoldRequest(), HoldReply()], ids=["request under way", "reply under way"])
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
def test_a_client_killed_at_any_step_leaves_nothing_that_others_wait_for(
    server: ServerHandle, action: HoldRequest | HoldReply, step: int, figures: Figures
) -> None:
    """Each time a new process, so that all steps are there: connecting, proving, reading, committing."""
    ledger, killed = Ledger(server), 0
    with open_twin("sync", server.url) as twin:
        for number in range(0, 1000, step):
            with FaultProxy(server.url) as proxy, writer(proxy.url, ledger) as process:
                held = proxy.inject(action, skip=number)
                ask(process, ledger.next_marker())
                reply = ThreadPoolExecutor(1).submit(listen, process)
                eventually(lambda held=held, reply=reply: held.fired > 0 or reply.done())  # type: ignore[misc]  # bound here
                if held.fired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    proxy.kill()  # what was still on its way dies with it
                    killed += 1
                held.cancel()
                reply.result()
                ledger.commit(twin)
                assert twin.stats.gave_up == 0
            if not held.fired:
                break
    assert killed >= 20 / step
    tally = figures(server, ledger, fired=killed)
    assert tally.acknowledged == killed + 1
    assert tally.applied >= killed + 2


@pytest.mark.fault(number=12)
@both_twins
@newest_and_oldest
def test_a_client_that_sleeps_between_read_and_commit_conflicts_when_it_wakes_up(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """SIGSTOP, as of a container that is paused or a laptop that is closed. No lease is waited for meanwhile."""
    ledger, rounds = Ledger(server), 3
    with writer(server.url, ledger) as process, open_twin(kind, server.url) as twin:
        for _ in range(rounds):
            marker = ledger.next_marker()
            ask(process, f"{marker} wait")
            assert listen(process) == "inside"
            process.send_signal(signal.SIGSTOP)
            ledger.commit(twin)
            process.send_signal(signal.SIGCONT)
            ask(process, "go on")
            assert listen(process) == "committed 2"
            ledger.acknowledge(marker)
        assert twin.stats.gave_up == 0
        count = 2 * rounds
        assert figures(server, ledger, fired=rounds) == Tally(
            attempted=count, acknowledged=count, applied=count
        )


@pytest.mark.fault(number=14)
@newest_and_oldest
@pytest.mark.parametrize("forks", [5, pytest.param(200, marks=pytest.mark.soak)])
def test_forks_in_the_midst_of_transactions_share_no_connection_and_double_nothing(
    server: ServerHandle, forks: int, figures: Figures
) -> None:
    """Parent and children go on with the store that was open when they parted."""
    ledger, stopped, each = Ledger(server), threading.Event(), 3
    with SyncTwin(server.url, max_connections=4) as twin, ThreadPoolExecutor(3) as pool:

        def write() -> None:
            while not stopped.is_set():
                ledger.commit(twin)
                time.sleep(0.001)

        calls = [pool.submit(write) for _ in range(3)]
        try:
            for _ in range(forks):
                markers = [ledger.next_marker() for _ in range(each)]
                if (child := os.fork()) == 0:
                    code = 1
                    signal.alarm(30)  # a child that waits for what is its parent's must not wait for ever
                    try:
                        for marker in markers:
                            twin.run(ledger.append, marker)
                        code = 0
                    finally:
                        os._exit(code)
                _, status = os.waitpid(child, 0)
                assert status == 0
        finally:
            stopped.set()
        for call in calls:
            call.result()
        assert (twin.stats.unknown, twin.stats.disruptions) == (0, 0)
    tally = figures(server, ledger, fired=forks)
    assert tally.applied == tally.attempted == tally.acknowledged + each * forks


@contextmanager
def writer(url: str, ledger: Ledger) -> Iterator[subprocess.Popen[str]]:
    """A process that writes to the ledger when it is asked to, while the block runs."""
    command = [sys.executable, "-m", "support.lone_writer", url, ledger.name]
    with subprocess.Popen(
        command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert listen(process) == "ready"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def listen(process: subprocess.Popen[str]) -> str:
    """The next line that the process says; empty: it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
