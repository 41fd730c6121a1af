"""Turns on a real server (design 4.7): waiting in line, being woken, holders that died, and keys that others spoilt."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import redis
import tenacity

from txstate import Retry, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers import ServerHandle

    from txstate import Doc

CLAIM, LINE = "__txstate__:claim:doc", "__txstate__:line:doc"


def add_one(doc: Doc) -> None:
    doc["n"] += 1


@pytest.fixture
def other(server: ServerHandle) -> Iterator[redis.Redis]:
    """Another client."""
    with redis.Redis.from_url(server.unix_url) as client:
        client.flushall()
        yield client


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def until_blocked(client: redis.Redis, number: int) -> None:
    deadline = time.monotonic() + 5
    while blocked(client) < number:
        assert time.monotonic() < deadline, "nobody stands in line"
        time.sleep(0.001)


def test_who_meets_a_claim_stands_in_line_until_woken(server: ServerHandle, other: redis.Redis) -> None:
    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        other.set(CLAIM, "another 60000", px=60_000)
        thread = threading.Thread(target=store.update, args=("doc", add_one))
        thread.start()
        until_blocked(other, 1)
        with other.pipeline(transaction=True) as pipe:
            pipe.delete(CLAIM)
            pipe.zadd(LINE, {"turn": 0})
            pipe.execute()
        thread.join(5)
        assert store.get("doc") == {"n": 1}
        assert store.stats().conflicts == 0
        assert not other.exists(CLAIM), "the commit gives back what was claimed in line"


def test_a_holder_that_died_delays_others_by_its_lease(server: ServerHandle, other: redis.Redis) -> None:
    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        other.set(CLAIM, "dead 50", px=50)
        assert store.update("doc", add_one) == {"n": 1}
        assert store.stats().attempts == 2


def test_a_claim_that_never_ends_is_passed_over(server: ServerHandle, other: redis.Redis) -> None:
    with Store(server.unix_url, retry=Retry(deadline=30)) as store:
        store._settings = replace(store._settings, patience=3)
        store.put("doc", {"n": 0})
        other.set(CLAIM, "another 1")
        assert store.update("doc", add_one) == {"n": 1}


@pytest.mark.parametrize("spoilt", [CLAIM, LINE])
def test_keys_that_hold_something_else_do_not_disturb(
    server: ServerHandle, other: redis.Redis, spoilt: str
) -> None:
    lost = 0

    def lose_three_times(doc: Doc) -> None:
        nonlocal lost
        if lost < 3:
            lost += 1
            other.hset("doc", "by", lost)
        add_one(doc)

    with Store(server.unix_url, retry=Retry(wait=tenacity.wait_none())) as store:
        store.put("doc", {"n": 0})
        other.rpush(spoilt, "something else")
        assert store.update("doc", lose_three_times)["n"] == 1
        assert lost == 3


def test_stores_take_turns_and_nothing_is_left_behind(server: ServerHandle, other: redis.Redis) -> None:
    """As many as there are: everybody makes progress, every update is there once, and claims and lines go away."""
    number, each = 6, 60
    done: list[float] = []

    def work() -> None:
        with Store(server.unix_url) as store:
            for _ in range(each):
                store.update("doc", add_one)
            done.append(store.stats().attempts)

    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        threads = [threading.Thread(target=work) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert store.get("doc") == {"n": number * each}
    assert len(done) == number
    assert sum(done) < 3 * number * each, "who waits for its turn rarely tries in vain"
    deadline = time.monotonic() + 5
    while other.exists(CLAIM, LINE):
        assert time.monotonic() < deadline, "claims and turns expire"
        time.sleep(0.01)
    assert blocked(other) == 0
