"""A document of 1 MB: what it takes, and that a commit of it which is cut off is applied once like any other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest
from support.appetite import SIZE, measured
from support.faults import of_commit, proxied
from support.twins import both_twins
from support.wire import client_of

from txstate import Store
from txstate.testing import CutReply, CutRequest

if TYPE_CHECKING:
    from support.servers import ServerHandle

    from txstate import Doc, Tx

MOST: Final = 3
"""Documents that a call may take in memory."""

seen_by_proc = pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")


@seen_by_proc
@both_twins
def test_no_call_takes_more_memory_than_three_times_the_document(kind: str, valkey9: ServerHandle) -> None:
    taken = measured(valkey9.unix_url, kind)
    assert {name: most for name, most in taken.items() if most > MOST} == {}
    small = [most for name, most in taken.items() if "fields=" in name]
    assert max(small) < 0.5
    # That of a value which is read can't be overlooked.
    assert taken["get: 1 field"] > 1


@seen_by_proc
@both_twins
def test_a_copy_of_what_is_sent_would_be_noticed(kind: str, valkey9: ServerHandle) -> None:
    taken = measured(valkey9.unix_url, kind, copying=True)
    assert {name for name, most in taken.items() if most > MOST} >= {"put: 1 field", "put: 50 fields"}


@both_twins
@pytest.mark.parametrize(
    "cut", [*map(CutRequest, (0, 60, SIZE // 2, SIZE + 60)), *map(CutReply, (0, 20))], ids=repr
)
def test_a_large_commit_that_is_cut_is_applied_once(
    kind: str, valkey9: ServerHandle, cut: CutRequest | CutReply
) -> None:
    def change(doc: Doc) -> None:
        doc.increment("n")
        doc["blob"] = "b" * SIZE

    with proxied(kind, valkey9.url) as (proxy, twin):
        twin.put("doc", {"n": 0, "blob": "a" * SIZE})
        proxy.inject(cut, "MULTI", where=of_commit)
        assert twin.update("doc", change) == {"n": 1, "blob": "b" * SIZE}
        assert twin.update("doc", lambda doc: doc.increment("n"))["n"] == 2
        assert proxy.fired == twin.stats.in_doubt == 1


def test_a_repeated_update_reads_no_other_document_again_though_one_armed_its_socket(
    valkey9: ServerHandle,
) -> None:
    """The transaction before began with the same document, and went on to another one."""

    def both(tx: Tx) -> None:
        tx["doc"].increment("n", tx["other"]["n"])

    def add(doc: Doc) -> None:
        doc.increment("n")

    with Store(valkey9.url) as store, client_of(valkey9.url) as client:
        for key in ("doc", "other"):
            store.put(key, {"n": 1})
        for _ in range(4):
            store.run(both)
        store.update("doc", add)
        before = client.info("commandstats")["cmdstat_hgetall"]["calls"]
        for _ in range(5):
            store.update("doc", add)
        assert client.info("commandstats")["cmdstat_hgetall"]["calls"] - before == 5
