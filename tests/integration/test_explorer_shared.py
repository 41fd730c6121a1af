"""Threads of one process in every order, with faults: calls that share commits keep every promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sharing import another_client, appends, each_once_and_as_told, looks, none_goes_back, reads, seed

from txstate.testing import explore

if TYPE_CHECKING:
    from support.servers import ServerHandle


@pytest.mark.parametrize(
    "fault", ["drop_reply", "drop_request", "late_exec", "interrupt", "impatience", "foreign_write", "cut"]
)
def test_two_threads_in_every_order_with_a_fault_at_every_step(valkey9: ServerHandle, fault: str) -> None:
    report = explore(
        [appends(1), appends(2)],
        setup=seed,
        invariant=each_once_and_as_told,
        faults=[fault],
        server=valkey9.unix_url,
        shared=True,
    )
    report.check()
    assert report.complete


@pytest.mark.parametrize("fault", ["drop_reply", "foreign_write", "interrupt", "impatience"])
def test_three_threads_of_which_one_raises_and_one_only_reads(valkey9: ServerHandle, fault: str) -> None:
    report = explore(
        [appends(1), appends(2, refuse=True), reads],
        setup=seed,
        invariant=each_once_and_as_told,
        faults=[fault],
        preemptions=1,
        server=valkey9.unix_url,
        shared=True,
    )
    report.check()


@pytest.mark.parametrize("fault", ["drop_reply", "interrupt", "impatience", None])
def test_threads_that_only_read_never_see_the_past(valkey9: ServerHandle, fault: str | None) -> None:
    """Whoever looks twice sees what another client has written before the second time, whoever has read it for whom."""
    report = explore(
        [looks("run"), looks("update"), looks("get", "raise")],
        setup=seed,
        invariant=none_goes_back,
        faults=[another_client, fault] if fault else [another_client],
        max_faults=2 if fault else 1,
        preemptions=1,
        server=valkey9.unix_url,
        shared=True,
    )
    report.check()
    assert report.fired["another_client"] > 0
