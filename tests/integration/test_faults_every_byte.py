"""Commits cut off at every single byte, of the request and of the reply, with more faults on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import redis
from support.faults import field_ttl_servers, newest_and_oldest, of_commit, proxied
from support.ledger import Ledger, all_once
from support.twins import both_twins

from txstate.testing import CutReply, CutRequest, DropReply, FaultProxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.figures import Figures
    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate.testing import Rule

REQUEST: Final = (
    300  # bytes that a commit of two documents has at least: fewer cuts would mean that it was not cut
)
REPLY: Final = 50
COARSE: Final = 23  # with more faults on top, one byte of so many; a soak takes them all

steps = pytest.mark.parametrize("step", [COARSE, pytest.param(1, marks=pytest.mark.soak)])


@pytest.mark.fault(number=2)
@newest_and_oldest
@pytest.mark.parametrize(
    ("kind", "step"), [("sync", 1), ("async", COARSE), pytest.param("async", 1, marks=pytest.mark.soak)]
)
def test_a_request_cut_at_any_byte_is_applied_once(
    kind: str, server: ServerHandle, step: int, figures: Figures
) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        cuts, ledgers, _ = sweep(CutRequest, server, proxy, twin, step=step)
        assert cuts * step >= REQUEST
        tally = figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats)
        assert tally == all_once(cuts + 1)
        assert twin.stats.in_doubt == cuts == proxy.fired


@pytest.mark.fault(number=3)
@both_twins
@newest_and_oldest
def test_a_reply_cut_at_any_byte_is_applied_once(kind: str, server: ServerHandle, figures: Figures) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        cuts, ledgers, _ = sweep(CutReply, server, proxy, twin)
        assert cuts >= REPLY
        tally = figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats)
        assert tally == all_once(cuts + 1)
        assert cuts == proxy.fired
        # The last cut takes nothing away.
        assert (twin.stats.in_doubt, twin.stats.resolved_committed) == (cuts - 1, cuts - 1)


@pytest.mark.fault(number=5)
@both_twins
@newest_and_oldest
@steps
@pytest.mark.parametrize("more", [["EXPIRE"], ["EXPIRE"] * 2, ["GET"], ["GET"] * 2], ids="+".join)
@pytest.mark.parametrize("action", [CutRequest, CutReply])
def test_a_cut_commit_is_applied_once_when_the_resolution_is_cut_as_well(
    kind: str,
    server: ServerHandle,
    action: type[CutRequest | CutReply],
    more: list[str],
    step: int,
    *,
    figures: Figures,
) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        cuts, ledgers, fired = sweep(action, server, proxy, twin, step=step, more=more)
        tally = figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats)
        assert tally == all_once(cuts + 1)
        assert cuts * step >= (REQUEST if action is CutRequest else REPLY)
        assert fired == len(more) * twin.stats.in_doubt
        assert proxy.fired == cuts + fired


@pytest.mark.fault(number=5)
@both_twins
@newest_and_oldest
@steps
def test_a_cut_commit_is_applied_once_when_the_reply_to_the_next_attempt_is_lost_as_well(
    kind: str, server: ServerHandle, step: int, figures: Figures
) -> None:
    with proxied(kind, server.url) as (proxy, twin):
        cuts, ledgers, more = sweep(CutRequest, server, proxy, twin, step=step, more=["EXPIRE", "EXEC"])
        tally = figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats)
        assert tally == all_once(cuts + 1)
        assert twin.stats.resolved_aborted > 0
        # The last one, which is not cut, loses its first reply.
        retries = twin.stats.resolved_aborted + 1
        assert twin.stats.in_doubt == cuts + retries
        assert more == (cuts + 1) + retries


@pytest.mark.fault(number=2)
@both_twins
@field_ttl_servers
@pytest.mark.parametrize(
    ("action", "step"),
    [(CutReply, 1), (CutRequest, 5 * COARSE), pytest.param(CutRequest, 1, marks=pytest.mark.soak)],
)
def test_a_commit_beside_fields_that_expire_is_applied_once_wherever_it_is_cut(
    kind: str, server: ServerHandle, action: type[CutRequest | CutReply], step: int, figures: Figures
) -> None:
    """Such a commit is one script inside of MULTI and EXEC: a long request, and a short reply."""
    with proxied(kind, server.url) as (proxy, twin):
        cuts, ledgers, _ = sweep(action, server, proxy, twin, step=step, expiring=True)
        assert cuts * step >= (4 * REQUEST if action is CutRequest else REPLY // 2)
        tally = figures(server, *ledgers, fired=proxy.fired, resolved=twin.stats)
        assert tally == all_once(cuts + 1)
        assert proxy.fired == cuts


def sweep(
    action: type[CutRequest | CutReply],
    server: ServerHandle,
    proxy: FaultProxy,
    twin: Twin,
    *,
    step: int = 1,
    more: Sequence[str] = (),
    expiring: bool = False,
) -> tuple[int, list[Ledger], int]:
    """Cut one transaction after another, a byte (or a step) later each time, until one is not cut any more.

    Args:
        action: what to cut.
        server: the server.
        proxy: in front of it.
        twin: the store, behind it.
        step: bytes.
        more: commands whose reply is lost too, each once for each transaction, if it comes to it.
        expiring: put a field that expires in each document first.

    Returns:
        How many were cut, the ledgers of all, and how many of the further faults fired.
    """
    ledgers: list[Ledger] = []
    further = 0
    for cuts in range(10_000):
        # Each has documents of its own, so that all have the same length.
        ledger = Ledger(server, f"ledger{cuts:04}")
        ledgers.append(ledger)
        if expiring:
            _put_expiring_fields(server, ledger)
        cut = proxy.inject(action(cuts * step), "MULTI", where=of_commit)
        rules: list[Rule] = [
            proxy.inject(DropReply(), command, where=of_commit if command == "EXEC" else None)
            for command in more
        ]
        ledger.commit(twin)
        for rule in rules:
            rule.cancel()
        further += sum(rule.fired for rule in rules)
        if not cut.fired:
            return cuts, ledgers, further
    raise AssertionError("the sweep found no end")


def _put_expiring_fields(server: ServerHandle, ledger: Ledger) -> None:
    with redis.Redis.from_url(server.unix_url) as client, client.pipeline() as pipeline:
        for key in ledger.keys:
            pipeline.hset(key, "expiring", 1)
            pipeline.hpexpire(key, 3_600_000, "expiring")
        pipeline.execute()
