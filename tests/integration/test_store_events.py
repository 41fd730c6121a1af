"""What a store reports: events, counts, and why it gave up."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import redis
from support.stores import meddled
from tenacity import stop_after_attempt, wait_none

from txstate import (
    Committed,
    Conflicted,
    ConflictError,
    Event,
    GaveUp,
    Retry,
    Store,
    Tx,
    VersionMismatch,
)

if TYPE_CHECKING:
    from support.servers import ServerHandle


def test_events_and_counts_add_up(server: ServerHandle) -> None:
    events: list[Event] = []
    with (
        redis.Redis.from_url(server.unix_url) as client,
        Store(server.unix_url, on_event=events.append) as store,
    ):

        def contended(tx: Tx) -> None:
            doc, other = tx.get_many(["k", "other"])
            if tx.attempt < 3:
                client.hincrby("k", "theirs")
            doc["n"] = other.get("n")

        store.put("k", {"n": 1})
        store.run(contended)
        store.run(lambda tx: tx.get_many(["k", "other"]))
        store.get("k")
        with pytest.raises(VersionMismatch) as refused:
            store.put("k", {}, if_version=0)
        gives_up = store.options(retry=Retry(stop=stop_after_attempt(2), wait=wait_none()))
        with pytest.raises(ConflictError) as caught:
            gives_up.update("k", lambda doc: meddled(doc, client))

    counts = Counter(type(event) for event in events)
    stats = store.stats()
    committed = [event for event in events if isinstance(event, Committed)]
    assert [(event.written, event.attempts) for event in committed] == [(("k",), 1), (("k",), 3), ((), 1)]
    assert set(committed[1].keys) == {"k", "other"}
    conflicted = [event for event in events if isinstance(event, Conflicted)]
    assert [(event.keys, event.attempt) for event in conflicted] == [(("k",), n) for n in (1, 2, 1, 2)]
    gave_up = [event for event in events if isinstance(event, GaveUp)]
    assert [(event.error, event.attempts) for event in gave_up] == [(refused.value, 1), (caught.value, 2)]
    assert (stats.commits, stats.reads) == (2, 2)
    assert (stats.conflicts, stats.gave_up) == (counts[Conflicted], counts[GaveUp])
    assert stats.attempts == 1 + 3 + 1 + 1 + 2
    assert (stats.in_doubt, stats.unknown, stats.disruptions) == (0, 0, 0)
    assert (stats.resolved_committed, stats.resolved_aborted) == (0, 0)
    assert stats.connections == 2  # one is armed for the documents, another one serves the plain read


def test_giving_up_says_which_key_and_how_often(
    store: Store, other_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "txstate")
    stubborn = store.options(retry=Retry(stop=stop_after_attempt(3)))

    def contended(tx: Tx) -> None:
        quiet, hot = tx.get_many(["quiet", "hot"])
        other_client.hincrby("hot", "theirs")
        quiet["n"] = hot.get("theirs", 0)

    with pytest.raises(ConflictError) as caught:
        stubborn.run(contended)
    error = caught.value
    assert error.attempts == 3
    assert next(iter(error.keys)) == "hot"
    assert error.keys["hot"] == 3
    assert error.elapsed > 0
    assert "3 attempts" in str(error)
    assert "'hot' 3 times" in str(error)
    assert store.get("quiet") is None
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_failing_listener_decides_nothing(valkey9: ServerHandle, caplog: pytest.LogCaptureFixture) -> None:
    def listener(event: Event) -> None:
        raise ZeroDivisionError(event)

    with Store(valkey9.unix_url, on_event=listener) as store:
        assert store.put("k", {"n": 1}) == {"n": 1}
    assert "on_event failed" in caplog.text
