"""When what became of a commit can't be found out, it is said; and what can be found out later, is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.faults import newest_and_oldest, of_commit, proxied
from support.ledger import Ledger, Tally, all_once
from support.twins import both_twins, open_twin
from support.wire import client_of, eventually

from txstate import Resolution, UsageError
from txstate.testing import Cut, DropRequest, FaultProxy, HoldReply, HoldRequest, Late

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    from support.figures import Figures
    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate import CommitUnknown
    from txstate.testing import Held

pytestmark = [pytest.mark.fault(number=6), both_twins, newest_and_oldest]

TOKENS = "__txstate__:token:*"
SOON = 1.0
"""Seconds for a call that ends in doubt: it must get as far as its EXEC, on a machine that is busy with others, too."""


@dataclass
class Stage:
    """A ledger whose last transaction is in doubt, and everything around it."""

    ledger: Ledger
    proxy: FaultProxy
    twin: Twin
    admin: redis.Redis
    held: Held

    def delete_tokens(self) -> None:
        assert self.admin.delete(*self.admin.keys(TOKENS)) > 0


@contextmanager
def in_doubt(kind: str, server: ServerHandle, ledger: Ledger) -> Iterator[Stage]:
    """Make a transaction's EXEC late, and hold its resolution back while the block runs.

    After the block the resolution goes on, and the transaction has ended.
    """
    with (
        proxied(kind, server.url) as (proxy, twin),
        client_of(server.unix_url) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        late = proxy.inject(Late(), "EXEC", where=of_commit)
        resolver = proxy.inject(HoldRequest(), "EXPIRE")
        call = pool.submit(ledger.commit, twin)
        resolver.wait()
        stage = Stage(ledger, proxy, twin, admin, late.held())
        try:
            yield stage
        finally:
            resolver.release()
            call.result()
        assert twin.stats.in_doubt == 1


def begun(kind: str, server: ServerHandle) -> Ledger:
    """A ledger with one transaction in it, so that its documents have versions."""
    ledger = Ledger(server)
    with open_twin(kind, server.url) as twin:
        ledger.commit(twin)
    assert ledger.tally() == all_once(1)
    return ledger


def the_unknown(ledger: Ledger) -> CommitUnknown:
    (error,) = ledger.unknown.values()
    assert error.known is Resolution.UNKNOWN
    assert error.token is not None
    assert f"store.resolve({error.token!r})" in str(error)  # a log has the message only
    return error


def test_with_the_token_deleted_before_exec_the_documents_testify_that_it_was_not_applied(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = begun(kind, server)
    with in_doubt(kind, server, ledger) as stage:
        stage.delete_tokens()
    assert figures(server, ledger, fired=stage.proxy.fired, resolved=stage.twin.stats) == all_once(2)


def test_a_late_exec_after_the_fence_is_stopped_by_it(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """The token is gone when the resolver looks, and the EXEC arrives after the resolver."""
    ledger = begun(kind, server)
    with (
        proxied(kind, server.url) as (proxy, twin),
        client_of(server.unix_url) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        late = proxy.inject(Late(), "EXEC", where=of_commit)
        fence = proxy.inject(HoldReply(), "SET", where=lambda command: command.args[1] == b"fence")
        resolver = proxy.inject(HoldRequest(), "EXPIRE")
        call = pool.submit(ledger.commit, twin)
        resolver.wait()
        assert admin.delete(*admin.keys(TOKENS)) > 0
        resolver.release()
        fence.wait()
        assert late.held().deliver()[0] is None
        fence.release()
        call.result()
        assert twin.stats.resolved_aborted == 1
    assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == all_once(2)


def test_with_the_token_deleted_after_exec_it_is_unknown(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = begun(kind, server)
    with in_doubt(kind, server, ledger) as stage:
        assert isinstance(stage.held.deliver()[0], list)
        stage.delete_tokens()
    assert figures(server, ledger, fired=stage.proxy.fired, resolved=stage.twin.stats) == Tally(
        attempted=2, acknowledged=1, unknown=1, applied=2
    )
    with open_twin(kind, server.url) as twin:
        assert twin.resolve(the_unknown(ledger).token) is Resolution.UNKNOWN


@pytest.mark.parametrize("plain", [True, False])
def test_a_document_without_a_version_can_not_testify(
    kind: str, server: ServerHandle, figures: Figures, *, plain: bool
) -> None:
    """Made by another client, or missing: one could be changed unseen, the other be made and deleted."""
    ledger = Ledger(server)
    if plain:
        with client_of(server.unix_url) as admin:
            for key in ledger.keys:
                admin.hset(key, "other", "1")
    with in_doubt(kind, server, ledger) as stage:
        stage.delete_tokens()
        assert stage.held.deliver()[0] is None
    assert figures(server, ledger, fired=stage.proxy.fired, resolved=stage.twin.stats) == Tally(
        attempted=1, unknown=1
    )
    the_unknown(ledger)


@pytest.mark.parametrize("applied", [True, False])
def test_with_the_database_flushed_while_in_doubt_it_is_unknown(
    kind: str, server: ServerHandle, figures: Figures, *, applied: bool
) -> None:
    ledger = begun(kind, server)
    with in_doubt(kind, server, ledger) as stage:
        if applied:
            assert isinstance(stage.held.deliver()[0], list)
        stage.admin.flushdb()
        if not applied:
            assert stage.held.deliver()[0] is None
    assert figures(
        server, ledger, fired=stage.proxy.fired, resolved=stage.twin.stats, lost_to="FLUSHDB"
    ) == Tally(attempted=2, acknowledged=1, unknown=1, applied=0, lost=1)
    assert ledger.acknowledged == {f"{ledger.name}-000000"}  # the one before: FLUSHDB took it
    the_unknown(ledger)


@pytest.mark.parametrize("applied", [True, False])
def test_with_no_server_until_the_deadline_it_is_unknown_and_can_be_resolved_later(
    kind: str, server: ServerHandle, figures: Figures, *, applied: bool
) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin), ThreadPoolExecutor(1) as pool:
        at_exec = proxy.inject(HoldReply() if applied else HoldRequest(), "EXEC", where=of_commit)
        call = pool.submit(ledger.commit, twin.hasty(SOON))
        at_exec.wait()
        proxy.refuse()
        assert proxy.kill() == 1
        call.result()
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == Tally(
            attempted=1, unknown=1, applied=int(applied)
        )
        token = the_unknown(ledger).token
        assert twin.hasty(0.1).resolve(token) is Resolution.UNKNOWN
        proxy.accept()
        expected = Resolution.COMMITTED if applied else Resolution.NOT_COMMITTED
        assert [twin.resolve(token) for _ in range(3)] == [expected] * 3
        assert ledger.tally().applied == int(applied)
        assert (twin.stats.in_doubt, twin.stats.unknown) == (1, 1)


@pytest.mark.parametrize("applied", [True, False])
def test_resolved_after_its_token_has_expired_it_is_unknown(
    kind: str, server: ServerHandle, figures: Figures, *, applied: bool
) -> None:
    ledger = begun(kind, server)
    with proxied(kind, server.url, deadline=SOON) as (proxy, twin), client_of(server.unix_url) as admin:
        late = proxy.inject(Late(), "EXEC", where=of_commit)
        proxy.inject(DropRequest(Cut.RST), "EXPIRE", times=None)
        ledger.commit(twin)
        if applied:
            assert isinstance(late.held().deliver()[0], list)
        tokens = [name for name in admin.keys(TOKENS) if admin.pexpire(name, 1)]
        eventually(lambda: not admin.exists(*tokens))
    with open_twin(kind, server.url) as twin:
        assert [twin.resolve(the_unknown(ledger).token) for _ in range(3)] == [Resolution.UNKNOWN] * 3
    assert figures(server, ledger, fired=proxy.fired) == Tally(
        attempted=2, acknowledged=1, unknown=1, applied=1 + applied
    )


def test_what_is_resolved_as_not_committed_never_will_be(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin):
        late = proxy.inject(Late(), "EXEC", where=of_commit)
        cut_off = proxy.inject(DropRequest(Cut.RST), "EXPIRE", times=None)
        ledger.commit(twin.hasty(SOON))
        token = the_unknown(ledger).token
        assert cut_off.fired > 1
        cut_off.cancel()
        assert twin.resolve(token) is Resolution.NOT_COMMITTED
        assert late.held().deliver()[0] is None
        assert twin.resolve(token) is Resolution.NOT_COMMITTED
        assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == Tally(
            attempted=1, unknown=1
        )


def test_a_token_can_be_resolved_by_another_store_and_after_more_commits(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """Each connection has a token of its own: what others commit later says nothing about this one."""
    ledger = Ledger(server)
    with proxied(kind, server.url) as (proxy, twin):
        ledger.commit(twin)
        at_exec = proxy.inject(Late(), "EXEC", where=of_commit)
        cut_off = proxy.inject(DropRequest(), "EXPIRE", times=None)
        ledger.commit(twin.hasty(SOON))
        assert isinstance(at_exec.held().deliver()[0], list)
        cut_off.cancel()
        for _ in range(3):
            ledger.commit(twin)
        token = the_unknown(ledger).token
    assert figures(server, ledger, fired=proxy.fired, resolved=twin.stats) == Tally(
        attempted=5, acknowledged=4, unknown=1, applied=5
    )
    with open_twin(kind, server.url) as other:
        assert other.resolve(token) is Resolution.COMMITTED
        with pytest.raises(UsageError, match="not the token of a CommitUnknown"):
            other.resolve("nonsense")


def test_a_fence_found_later_is_no_proof_that_it_was_not_applied(
    kind: str, server: ServerHandle, figures: Figures
) -> None:
    """The first resolver wrote the fence and found other versions: unknown, and the second must not know better."""
    ledger = begun(kind, server)
    with in_doubt(kind, server, ledger) as stage:
        assert isinstance(stage.held.deliver()[0], list)
        stage.delete_tokens()
    token = the_unknown(ledger).token
    with open_twin(kind, server.url) as twin:
        assert [twin.resolve(token) for _ in range(3)] == [Resolution.UNKNOWN] * 3
    assert figures(server, ledger, fired=stage.proxy.fired, resolved=stage.twin.stats) == Tally(
        attempted=2, acknowledged=1, unknown=1, applied=2
    )
