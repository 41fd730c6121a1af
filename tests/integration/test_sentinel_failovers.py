"""Faults 18 and 19 behind Sentinel: the primary is killed under load, its links to the replicas broken or stalled, or it is cut off.

What a failover loses is counted, with and without `Replicas`; nothing is ever doubled, or half applied.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from support.faults import every_server
from support.ledger import Ledger, total
from support.sentinels import Watched
from support.servers import BINARIES, ServerMissingError
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

from txstate import Replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.figures import Figures
    from support.twins import Twin


LOST_TO = "a failover, without Replicas"
LOST_TO_ANOTHER = "a failover to another replica than the one that confirmed"
SOON = 3.0
"""Seconds from when a sentinel names the new primary until every writer commits again, at most: what is promised for the
default `Retry`."""
PATIENCE = 30.0
"""Seconds of a call's deadline: on a machine that stands still for a moment sentinels find no good replica, and begin anew only
after twice the time of a failover."""


def watched_by_sentinels(name: str = "valkey9", *, relayed: bool = False) -> Watched:
    """One primary, two replicas and three sentinels."""
    try:
        # Behind relays servers answer as soon as this process, which is busy, lets them.
        return Watched(name, relayed=relayed, down_after=3000 if relayed else 1000)
    except ServerMissingError as missing:
        pytest.skip(str(missing))


def once_or_in_a_row(times: int) -> pytest.MarkDecorator:
    """On one server once, and in the soak on each so many times."""
    soak = [pytest.param(name, times, marks=pytest.mark.soak) for name in BINARIES]
    return pytest.mark.parametrize(("name", "times"), [("valkey9", 1), *soak])


# 18


@pytest.mark.fault(number=18)
@once_or_in_a_row(10)
def test_commits_go_on_when_a_primary_is_killed(
    name: str, times: int, figures: Figures, request: pytest.FixtureRequest
) -> None:
    with watched_by_sentinels(name) as watched:
        fail_over(watched, figures, request, times=times)


@pytest.mark.soak
@pytest.mark.fault(number=18)
@every_server
def test_what_a_broken_link_kept_from_the_replicas_is_lost_unless_replicas_were_asked_for(
    name: str, figures: Figures, request: pytest.FixtureRequest
) -> None:
    with watched_by_sentinels(name) as watched:
        fail_over(watched, figures, request, times=5, links=broken_links)


@pytest.mark.fault(number=18)
@once_or_in_a_row(5)
def test_what_a_stalled_link_kept_from_the_replicas_is_lost_unless_replicas_were_asked_for(
    name: str, times: int, figures: Figures, request: pytest.FixtureRequest
) -> None:
    """Nobody sees that the links have stalled: they stay connected, and nothing comes."""
    with watched_by_sentinels(name, relayed=True) as watched:
        fail_over(watched, figures, request, times=times, links=stalled_links)


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
        open_twin("sync", watched.url, deadline=PATIENCE) as twin,
        open_twin("async", watched.url, deadline=PATIENCE, durability=Replicas(1, timeout=0.5)) as durable,
        open_twin("sync", watched.url, deadline=PATIENCE, durability=Replicas(2, timeout=0.5)) as safe,
        Load(watched, "relaxed", twin) as relaxed,
        Load(watched, "careful", durable) as careful,
        Load(watched, "all", safe) as every,
    ):
        loads = (relaxed, careful, every)
        resumed = []
        for number in range(times):
            if number > 0:
                with contextlib.ExitStack() as resting:
                    if watched.relays:  # they share this process with the writers, whose documents grow: they would fall behind
                        for load in loads:
                            resting.enter_context(load.resting())
                    watched.bring_back()
            for load in loads:
                load.wait_for(20)
            with contextlib.nullcontext() if links is None else links(watched):
                if links is not None:
                    relaxed.wait_for(20)
                named = watched.kill_primary()
            for load in loads:
                load.wait_for(5)
                resumed.append(load.resumed(named))
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


@contextlib.contextmanager
def stalled_links(watched: Watched) -> Iterator[None]:
    """No replica gets anything, until the block ends; what is on its way by then never arrives."""
    relay = watched.relays[watched.primary().port]
    relay.hold_after(0)
    yield
    assert relay.arrived > relay.passed, "nothing was held back"
    relay.cut()
    relay.let_go()


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
        self._awake = threading.Event()
        self._awake.set()
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

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is begun until the block ends."""
        self._awake.clear()
        try:
            yield
        finally:
            self._awake.set()

    def _write(self, ledger: Ledger, times: list[float]) -> None:
        while self._awake.wait() and not self._over.is_set():
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


# 19


@pytest.mark.fault(number=19)
@both_twins
def test_what_a_primary_acknowledges_that_was_cut_off_is_lost_unless_replicas_were_asked_for(
    kind: str, figures: Figures
) -> None:
    """Who is on its side of the split goes on with it, while the sentinels have promoted another one; then it rejoins."""
    with watched_by_sentinels(relayed=True) as watched:
        old = watched.primary()
        alone, careful, new = (Ledger(watched, name) for name in ("alone", "careful", "new"))
        with (
            open_twin(kind, old.url) as beside,
            open_twin(kind, old.url, durability=Replicas(1, timeout=0.05)) as durable,
            open_twin(kind, watched.url, durability=Replicas(1, timeout=5)) as twin,
        ):
            commit(alone, beside, 10)
            watched.wait_until_settled()
            watched.relays[old.port].cut(refuse=True)
            watched.wait_until_replaced(old)
            commit(alone, beside, 10)
            commit(careful, durable, 5)
            commit_until(new, twin, 5)
            with client_of(old.unix_url) as client:
                assert int(client.hget(alone.keys[0], "count") or 0) == 20, "the split did not happen"
            watched.relays[old.port].switch()
            watched.wait_until_settled()
            commit_until(alone, twin, 25)
            risked, kept, made = alone.tally(), careful.tally(), new.tally()
            assert (risked.acknowledged, risked.lost, risked.failed) == (25, 10, 0)
            assert (kept.acknowledged, kept.lost, kept.not_durable) == (0, 0, 5)
            assert (made.acknowledged, made.lost, made.failed) == (5, 0, 0)
            figures(old, careful, new, fired=watched.relays[old.port].cuts, resolved=durable.stats)
            figures(old, alone, fired=watched.relays[old.port].cuts, lost_to=LOST_TO)


def commit(ledger: Ledger, twin: Twin, times: int) -> None:
    for _ in range(times):
        ledger.commit(twin)


def commit_until(ledger: Ledger, twin: Twin, acknowledged: int) -> None:
    """Until so many are: some may fall into one more failover, which a busy machine sees to."""

    def enough() -> bool:
        ledger.commit(twin)
        return len(ledger.acknowledged) == acknowledged

    eventually(enough, patience=60)
