"""Threads of one process in every order, with faults: calls that share commits keep every promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sharing import appends, each_once_and_as_told, reads, seed

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
