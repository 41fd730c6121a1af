"""Turns on a real server (design 4.7): waiting in line, being woken, holders that died, and keys that others spoilt."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
import tenacity
from support.faults import of_commit
from support.twins import both_twins, open_twin
from support.wire import eventually

from txstate import AsyncStore, Retry, Store
from txstate._drivers.spin import Spin
from txstate._drivers.sync import SyncChannel, SyncDriver
from txstate._drivers.wire import NUDGE
from txstate._effects import Lost
from txstate._engine import claims, session
from txstate._engine.attempt import Attempt
from txstate._engine.claims import CONFLICTS_BEFORE_CLAIM
from txstate.testing import Cut, DropReply, FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import ServerHandle

    from txstate import Doc, Stats
    from txstate._drivers.aio import AsyncDriver
    from txstate._effects import Constant
    from txstate._engine.armed import Armed

CLAIM, LINE, DOOR = (f"__txstate__:{what}:doc" for what in ("claim", "line", "door"))


def add_one(doc: Doc) -> None:
    doc["n"] += 1


def losing(other: redis.Redis) -> Callable[[Doc], None]:
    """A function that adds one, and loses to another client before, as often as it takes to claim."""
    lost = 0

    def lose_and_add_one(doc: Doc) -> None:
        nonlocal lost
        if lost < CONFLICTS_BEFORE_CLAIM:
            lost += 1
            other.hset("doc", "by", lost)
        add_one(doc)

    return lose_and_add_one


def armed_of(store: Store | AsyncStore) -> Armed:
    """What the only connection of a store is armed with."""
    (place,) = cast("Any", store._core.driver).pool.all()
    armed: Armed | None = place.session.armed
    assert armed
    return armed


@pytest.fixture
def other(server: ServerHandle) -> Iterator[redis.Redis]:
    """Another client."""
    with redis.Redis.from_url(server.unix_url) as client:
        client.flushall()
        yield client


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def until_blocked(client: redis.Redis, number: int) -> None:
    deadline = time.monotonic() + 30
    while blocked(client) < number:
        assert time.monotonic() < deadline, "nobody stands in line"
        time.sleep(0.001)


def until_gone(client: redis.Redis, *keys: str) -> None:
    deadline = time.monotonic() + 30
    while client.exists(*keys):
        assert time.monotonic() < deadline, "claims and turns expire, or are taken"
        time.sleep(0.001)


def nudges(client: redis.Redis) -> int:
    """How often the server was given something to do, so that it looks at the time."""
    return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])


def test_who_meets_a_claim_stands_in_line_until_woken(server: ServerHandle, other: redis.Redis) -> None:
    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        other.set(CLAIM, "another 60000", px=60_000)
        thread = threading.Thread(target=store.update, args=("doc", add_one))
        thread.start()
        until_blocked(other, 1)
        other.zadd(LINE, {"turn": 0})
        until_gone(other, LINE)
        with other.pipeline(transaction=True) as pipe:
            pipe.delete(CLAIM)
            pipe.zadd(DOOR, {"turn": 0})
            pipe.execute()
        thread.join(30)
        assert store.get("doc") == {"n": 1}
        assert store.stats().conflicts == 0
        assert not other.exists(CLAIM), "the commit gives back what was claimed in line"


def test_who_waits_for_a_holder_that_died_looks_for_itself(server: ServerHandle, other: redis.Redis) -> None:
    """An idle server notices the end of a wait only when its timer comes by: it is told when to look."""
    before = nudges(other)
    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        for number in range(1, 4):
            other.set(CLAIM, "dead 20", px=20)
            assert store.update("doc", add_one) == {"n": number}
        assert store.stats().attempts == 4, "giving way is no attempt"
    assert nudges(other) > before


def test_who_waits_under_asyncio_looks_for_itself(server: ServerHandle, other: redis.Redis) -> None:
    async def work() -> None:
        async with AsyncStore(server.unix_url) as store:
            await store.put("doc", {"n": 0})
            for number in range(1, 4):
                other.set(CLAIM, "dead 20", px=20)
                assert await store.update("doc", add_one) == {"n": number}
            assert store.stats().attempts == 4

    before = nudges(other)
    asyncio.run(work())
    assert nudges(other) > before


def test_who_dies_at_the_door_keeps_nobody_waiting(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the turn calls the next one, who finds the door open."""
    monkeypatch.setattr(claims, "_STILL", 30.0)
    go, lost = threading.Event(), 0

    def lose_twice(doc: Doc) -> None:
        nonlocal lost
        if lost < CONFLICTS_BEFORE_CLAIM:
            lost += 1
            other.hset("doc", "by", lost)
        else:
            assert go.wait(20)
        add_one(doc)

    slow = Retry(wait=tenacity.wait_none(), deadline=60)
    with (
        Store(server.unix_url, retry=slow) as store,
        Store(server.unix_url, retry=slow, timeout=60) as next_one,
    ):
        next_one._settings = replace(next_one._settings, longest_wait=30.0)
        store.put("doc", {"n": 0})
        holder = threading.Thread(target=store.update, args=("doc", lose_twice))
        holder.start()
        while not other.exists(CLAIM):
            time.sleep(0.001)
        other.persist(CLAIM)
        waits = threading.Thread(target=next_one.update, args=("doc", add_one))
        waits.start()
        until_blocked(other, 1)
        with redis.Redis.from_url(server.unix_url) as dies:
            dies.connection_pool.get_connection().send_command("BZPOPMIN", DOOR, 30)
            until_blocked(other, 2)
            dies.close()
        while blocked(other) > 1:
            time.sleep(0.001)
        told = nudges(other)
        go.set()
        holder.join(20)
        waits.join(20)
        assert [snapshot["n"] for snapshot in next_one.get_many(["doc"]).values() if snapshot] == [2]
        assert nudges(other) == told, "nobody had to look for itself"


def test_a_claim_that_never_ends_takes_half_of_the_time(server: ServerHandle, other: redis.Redis) -> None:
    with Store(server.unix_url, retry=Retry(deadline=1)) as store:
        store.put("doc", {"n": 0})
        other.set(CLAIM, "another 1")
        assert store.update("doc", add_one) == {"n": 1}


def test_a_turn_that_is_kept_in_vain_ends_by_itself(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that came back at once so far makes no more calls: the next one waits for a moment."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    with (
        Store(server.unix_url, retry=Retry(wait=tenacity.wait_none())) as store,
        Store(server.unix_url) as next_one,
    ):
        store.put("doc", {"n": 0})
        store.update("doc", add_one)  # from now on it pays to arm the socket
        store._settings = replace(store._settings, shortest_lease=0.4)
        store.update("doc", losing(other))
        assert str(other.get(CLAIM)).endswith(" 200'"), "a part of the lease"
        assert 0 < other.pttl(CLAIM) <= 200
        assert next_one.update("doc", add_one)["n"] == 3
        assert next_one.stats().conflicts == 0


@both_twins
@pytest.mark.parametrize("late", [False, True])
def test_who_closes_gives_back_the_turn_that_was_kept(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: str, *, late: bool
) -> None:
    """Unless it may be another's by now."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    with open_twin(kind, server.unix_url) as twin:
        twin.put("doc", {"n": 0})
        twin.update("doc", add_one)  # from now on it pays to arm the socket
        twin.store._settings = replace(twin.store._settings, shortest_lease=10.0)
        twin.update("doc", losing(other))
        assert other.exists(CLAIM)
        if late:
            armed_of(twin.store).turn.since -= 5
    if late:
        until_alone(other)
        assert other.exists(CLAIM)
    else:
        until_gone(other, CLAIM)
        assert other.exists(DOOR)


def test_who_closes_beside_a_call_gives_back_its_turn_when_it_ends(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TRUSTED", 0)
    calls = 0

    with Store(server.unix_url) as store:

        def close_at_last(doc: Doc) -> None:
            nonlocal calls
            calls += 1
            if calls <= CONFLICTS_BEFORE_CLAIM:
                other.hset("doc", "by", calls)
            else:
                assert other.exists(CLAIM)
                store.close()
            add_one(doc)

        store.put("doc", {"n": 0})
        store.update("doc", add_one)  # from now on it pays to arm the socket
        store._settings = replace(store._settings, shortest_lease=10.0)
        store.update("doc", close_at_last)
    until_alone(other)
    assert other.hget("doc", "n") == b"2"
    assert not other.exists(CLAIM)
    assert other.exists(DOOR)


def test_who_comes_too_late_for_its_turn_does_not_wait_for_itself(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is still there; and who has lined up meanwhile is called by nobody else."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        store.update("doc", add_one)  # from now on it pays to arm the socket
        store._settings = replace(store._settings, shortest_lease=10.0)
        store.update("doc", losing(other))
        assert other.exists(CLAIM)
        (place,) = cast("SyncDriver", store._core.driver).pool.all()
        assert place.session is not None
        turn = armed_of(store).turn
        turn.since -= 5
        turn.ends = place.session.finished = turn.since
        other.delete(LINE, DOOR)
        other.config_resetstat()
        place.session.trusted = 1000  # its turns are not kept any more
        store.update("doc", add_one)
        assert "cmdstat_bzpopmin" not in other.info("commandstats"), "it stood in line"
        assert not other.exists(CLAIM)
        assert other.exists(LINE, DOOR) == 2


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("comes", ["before the door is open", "after"])
def test_who_finds_the_door_open_calls_the_next_one_to_it(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch, comes: str, protocol: int
) -> None:
    """It was itself the one who was called: else nobody would watch whether it has gone."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    with Store(f"{server.url}?protocol={protocol}") as store:
        store.put("doc", {"n": 0})
        store._settings = settings = replace(store._settings, shortest_lease=60.0)
        other.set(CLAIM, "another 60000", px=60_000)
        waits = threading.Thread(target=store.update, args=("doc", add_one))
        waits.start()
        until_blocked(other, 1)
        if comes == "before the door is open":
            other.zadd(LINE, {"turn": 0})
            until_gone(other, LINE)
        other.delete(CLAIM)
        for command in claims.open_door(settings, ["doc"], None):
            other.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
        if comes == "after":
            other.zadd(LINE, {"turn": 0})
        waits.join(30)
        assert other.hget("doc", "n") == b"1"
        assert armed_of(store).turn.held == ["doc"], "the turn goes on"
        assert not other.exists(DOOR)
        assert bool(other.exists(LINE)) is (comes == "after")


def until_alone(client: redis.Redis) -> None:
    """Until the server knows that the others' connections are closed, and has read what they had sent."""
    eventually(lambda: len(client.client_list()) == 1)


TWO_WAITS = [*[("BZPOPMIN", name, "0.01") for name in (LINE, DOOR)], ("ECHO", "hello"), ("ECHO", "you")]
TRIES = 50


def test_the_end_of_each_of_several_waits_is_noticed(server: ServerHandle, other: redis.Redis) -> None:
    """In one batch: nobody comes home between the line and the door. Now and then the server looks by itself."""
    told: list[int] = []
    with Store(server.unix_url) as store:
        store.get("doc")
        (place,) = cast("SyncDriver", store._core.driver).pool.all()
        while 2 not in told and len(told) < TRIES:
            before = nudges(other)
            assert place.exchange(TWO_WAITS, 5.0, patience=[0.01, 0.01]) == [None, None, b"hello", b"you"]
            assert place.quiet(), "what it was told by is answered, and read"
            told.append(nudges(other) - before)
    assert max(told) == 2


def test_behind_a_wait_a_turn_begins_in_which_a_thread_looks_for_replies(
    server: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Spin] = []
    monkeypatch.setattr(Spin, "awoke", lambda spin: begun.append(spin))  # noqa: PLW0108 - only a function is bound
    with Store(server.unix_url) as store:
        store.get("doc")
        (place,) = cast("SyncDriver", store._core.driver).pool.all()
        place.exchange([("ECHO", "hello")], 5.0)
        assert not begun
        place.exchange(TWO_WAITS, 5.0, patience=[0.01, 0.01])
        assert begun == [place._spin]


def test_so_it_is_under_asyncio(server: ServerHandle, other: redis.Redis) -> None:
    told: list[int] = []

    async def work() -> None:
        async with AsyncStore(server.unix_url) as store:
            await store.get("doc")
            (place,) = cast("AsyncDriver", store._core.driver).pool.all()
            while 2 not in told and len(told) < TRIES:
                before = nudges(other)
                got = await place.exchange(TWO_WAITS, 5.0, patience=[0.01, 0.01])
                assert got == [None, None, b"hello", b"you"]
                told.append(nudges(other) - before)

    asyncio.run(work())
    assert max(told) == 2


def note_tails(monkeypatch: pytest.MonkeyPatch, tails: list[Constant]) -> None:
    """Take down what batches end with, from now on."""
    exchange = SyncChannel.exchange

    def sent(channel: SyncChannel, *batch: Any) -> list[object]:
        tails.append(batch[2])
        return exchange(channel, *batch)

    monkeypatch.setattr(SyncChannel, "exchange", sent)


@pytest.mark.alone
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("mishap", ["none", "somebody waits", "lost reply", "conflict"])
def test_the_commits_of_a_turn_and_its_end_go_the_straight_way(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch, *, end: bool, mishap: str
) -> None:
    """No attempt is built, unless the reply gets lost or says conflict: then all is as always."""
    monkeypatch.setattr(session, "_TRUSTED", 0)
    monkeypatch.setattr(claims, "TURN", 60.0)
    conflicts = CONFLICTS_BEFORE_CLAIM
    built: list[Attempt] = []

    def lose(doc: Doc) -> None:
        nonlocal conflicts
        if conflicts:
            conflicts -= 1
            other.hset("doc", "by", conflicts)
        add_one(doc)

    def begin(self: Attempt, *args: Any, **more: Any) -> None:
        built.append(self)
        real(self, *args, **more)

    with (
        FaultProxy(server.url) as proxy,
        Store(proxy.url, retry=Retry(wait=tenacity.wait_none())) as store,
        ExitStack() as waiting,
    ):
        store.put("doc", {"n": 0})
        store.update("doc", add_one)  # from now on it pays to arm the socket
        store._settings = replace(store._settings, shortest_lease=60.0)
        store.update("doc", lose)
        assert other.exists(CLAIM)
        armed = armed_of(store)
        if end:
            armed.turn.ends = time.monotonic()
            monkeypatch.setattr(claims, "TURN", 0.0)
        if mishap == "somebody waits":
            raw = waiting.enter_context(
                redis.Redis.from_url(server.unix_url)
            ).connection_pool.get_connection()
            raw.send_command("BZPOPMIN", DOOR, 30)
            until_blocked(other, 1)
        elif mishap == "lost reply":
            proxy.inject(DropReply(Cut.RST), "EXEC", where=of_commit)
        conflicts = mishap == "conflict"
        real = Attempt.__init__
        monkeypatch.setattr(Attempt, "__init__", begin)
        tails: list[Constant] = []
        note_tails(monkeypatch, tails)
        store.update("doc", lose)
        assert any(tail.wakes for tail in tails) or not end
        assert all(tail.wakes is any(command[0] == "ZADD" for command in tail) for tail in tails)
        assert bool(built) is (mishap in {"lost reply", "conflict"})
        assert store.stats().resolved_committed == proxy.fired == (mishap == "lost reply")
        passed_on = end and mishap == "somebody waits"
        assert (bool(other.exists(CLAIM)), bool(other.exists(DOOR))) == (not end, end and not passed_on)
        assert other.hget("doc", "n") == b"3"
        (place,) = cast("SyncDriver", store._core.driver).pool.all()
        left = place.session.armed if place.session else None
        assert bool(left is not None and left.turn.others) is passed_on, "then the next call stands in line"


@pytest.mark.alone
@pytest.mark.parametrize("mishap", ["none", "lost wait", "claimed", "deleted", "lost reply", "conflict"])
def test_who_stands_in_line_at_once_goes_the_straight_way(
    server: ServerHandle, other: redis.Redis, monkeypatch: pytest.MonkeyPatch, mishap: str
) -> None:
    """No attempt is built, unless something is unusual about the wait, the document or the commit: then all is as always."""
    monkeypatch.setattr(session, "_TRUSTED", 1_000_000)
    losses = CONFLICTS_BEFORE_CLAIM
    built: list[Attempt] = []

    def lose(doc: Doc) -> None:
        nonlocal losses
        if losses:
            losses -= 1
            other.hset("doc", "by", losses)
        doc["n"] = doc.get("n", 0) + 1

    def begin(self: Attempt, *args: Any, **more: Any) -> None:
        built.append(self)
        real(self, *args, **more)

    with (
        FaultProxy(server.url) as proxy,
        Store(proxy.url, retry=Retry(wait=tenacity.wait_none())) as store,
        redis.Redis.from_url(server.unix_url) as waiting,
    ):
        store.put("doc", {"n": 0})
        store.update("doc", lambda doc: doc.increment("n"))  # from now on it pays to arm the socket
        waiting.connection_pool.get_connection().send_command("BZPOPMIN", DOOR, 30)
        until_blocked(other, 1)
        store.update("doc", lose)
        # Or a machine that stands still for long makes it forget who is ahead.
        armed_of(store).until += 60.0
        until_gone(other, DOOR)
        if mishap == "claimed":
            other.set(CLAIM, "another 1000", px=1000)
        elif mishap == "deleted":
            other.delete("doc")
        losses, real, before = mishap == "conflict", Attempt.__init__, store.stats()
        monkeypatch.setattr(Attempt, "__init__", begin)
        calls = threading.Thread(target=store.update, args=("doc", lose))
        calls.start()
        until_blocked(other, 1)
        if mishap == "lost wait":
            (blocked_one,) = [client for client in other.client_list() if "b" in client["flags"]]
            other.client_kill_filter(_id=blocked_one["id"])
        elif mishap == "lost reply":
            proxy.inject(DropReply(Cut.RST), "EXEC", where=of_commit)
        other.zadd(LINE, {"turn": 0})
        other.zadd(DOOR, {"turn": 0})
        calls.join(30)
        after = store.stats()
        assert bool(built) is (mishap != "none")
        assert other.hget("doc", "n") == (b"1" if mishap == "deleted" else b"3")
        assert not other.exists(CLAIM), "the commit gives back what was claimed in line"
        assert after.commits == before.commits + 1
        assert after.resolved_committed == proxy.fired == (mishap == "lost reply")
        assert after.disruptions == before.disruptions + (mishap == "lost wait")
        assert after.conflicts == before.conflicts + (mishap == "conflict")
        assert after.attempts == before.attempts + 1 + (mishap in {"lost wait", "conflict"})
        if mishap == "none":
            assert after.round_trips == before.round_trips + 2


def test_who_waits_for_a_server_that_stands_still_waits_no_longer_than_for_any_other_reply() -> None:
    """The reply to what makes a server look at the time comes out of the same time."""
    patience, timeout = 0.4, 0.5
    near, far = socket.socketpair()
    with near, far:
        channel = SyncChannel(SyncDriver(cast("Any", None), max_connections=1))
        channel._socket = near
        channel._arrivals.register(near, select.POLLIN)
        with pytest.raises(Lost):
            channel.exchange([("BZPOPMIN", "x", "0.4")], timeout, patience=[patience])
        assert far.recv(100).endswith(NUDGE)
        assert (near.gettimeout() or timeout) < timeout - patience / 2


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
    done: list[Stats] = []

    def work() -> None:
        with Store(server.unix_url) as store:
            for _ in range(each):
                store.update("doc", add_one)
            done.append(store.stats())

    with Store(server.unix_url) as store:
        store.put("doc", {"n": 0})
        threads = [threading.Thread(target=work) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert store.get("doc") == {"n": number * each}
    assert len(done) == number
    assert sum(stats.attempts for stats in done) < 1.5 * number * each, (
        "who waits for its turn rarely tries in vain"
    )
    until_gone(other, CLAIM, LINE, DOOR)
    assert blocked(other) == 0
