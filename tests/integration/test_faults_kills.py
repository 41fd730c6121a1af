"""Connections that the server closes, at every step and at random, and a server that has no room for more of them."""

from __future__ import annotations

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.faults import every_server, newest_and_oldest, of_commit, proxied
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

from txstate import StoreUnavailable
from txstate.testing import HoldReply, HoldRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from support.figures import Figures
    from support.servers import ServerHandle, StartServer


pytestmark = [pytest.mark.fault(number=15), both_twins]


@newest_and_oldest
@pytest.mark.parametrize("action", [HoldRequest(), HoldReply()], ids=["request under way", "reply under way"])
@pytest.mark.parametrize("pooled", [True, False])
def test_a_client_killed_at_any_command_applies_its_transaction_once(
    kind: str, server: ServerHandle, action: HoldRequest | HoldReply, *, pooled: bool, figures: Figures
) -> None:
    ledger, killed = Ledger(server), 0
    with (
        proxied(kind, server.url, max_connections=1) as (proxy, twin),
        client_of(server.unix_url) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        for number in range(1000):
            if pooled:
                ledger.commit(twin)
            else:
                proxy.kill()
            rule = proxy.inject(action, skip=number)
            call = pool.submit(ledger.commit, twin)
            eventually(lambda rule=rule, call=call: rule.fired > 0 or call.done())  # type: ignore[misc]  # bound here
            if rule.fired:
                killed += kill_all(admin)
            rule.cancel()
            call.result()
            if not rule.fired:
                break
        assert killed >= (6 if pooled else 20)
        count = len(ledger.acknowledged)
        assert figures(server, ledger, fired=killed, resolved=twin.stats) == all_once(count)


@newest_and_oldest
@pytest.mark.parametrize(("kills", "seed"), [(100, 1), pytest.param(2000, 2, marks=pytest.mark.soak)])
def test_clients_killed_at_random_moments_lose_and_double_nothing(
    kind: str, server: ServerHandle, kills: int, seed: int, *, figures: Figures
) -> None:
    """A call may be hit a hundred times in a row, each time after a longer wait: it has the time for it."""
    ledger, rng, writers = Ledger(server), random.Random(seed), 4
    killed = 0
    with (
        client_of(server.unix_url) as admin,
        open_twin(kind, server.url, deadline=120) as twin,
        ThreadPoolExecutor(writers) as pool,
    ):
        # As often as calls can get on: on a busy machine, connecting may take longer than any time chosen beforehand.
        longest = statistics.median(
            seconds(
                lambda: list(pool.map(ledger.commit, [twin] * 2 * writers)), after=lambda: kill_all(admin)
            )
            for _ in range(5)
        )
        while killed < kills:
            calls = [pool.submit(ledger.commit, twin) for _ in range(2 * writers)]
            while killed < kills and not all(call.done() for call in calls):
                time.sleep(rng.uniform(0, longest))
                killed += kill_all(admin)
            for call in calls:
                call.result()
        count = len(ledger.acknowledged)
        assert figures(server, ledger, fired=killed, resolved=twin.stats, seed=seed) == all_once(count)
        assert twin.stats.disruptions > 0


@every_server
def test_a_server_that_has_no_room_for_more_clients_is_waited_for(
    kind: str, name: str, start_server: StartServer, figures: Figures
) -> None:
    """Also by the resolution of a commit whose connection is gone."""
    server = start_server(name)
    ledger = Ledger(server)

    def refused() -> int:
        return int(admin.info("stats")["rejected_connections"])

    with (
        proxied(kind, server.url) as (proxy, twin),
        client_of(server.unix_url) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        executed = proxy.inject(HoldReply(), "EXEC", where=of_commit)
        call = pool.submit(ledger.commit, twin)
        executed.wait()
        admin.config_set("maxclients", 1)
        assert proxy.kill() == 1
        ledger.commit(twin.hasty(0.5))
        (error,) = ledger.failed.values()
        assert isinstance(error, StoreUnavailable)
        assert "max number of clients" in str(error)
        eventually(lambda: refused() >= 5)
        assert not call.done()
        admin.config_set("maxclients", 100)
        call.result()
        ledger.commit(twin)
        assert twin.stats.resolved_committed == 1
        assert figures(server, ledger, fired=refused(), resolved=twin.stats) == Tally(
            attempted=3, acknowledged=2, applied=2, failed=1
        )


def seconds(call: Callable[[], object], *, after: Callable[[], object]) -> float:
    """How long it takes, on a machine as busy as this one."""
    after()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def kill_all(admin: redis.Redis) -> int:
    """Have the server close all connections but this one."""
    return int(admin.client_kill_filter(_type="normal", skipme=True))
