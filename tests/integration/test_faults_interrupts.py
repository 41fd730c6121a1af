"""KeyboardInterrupt at any moment: nothing is doubled or lost, the exception tells, and the store stays sound.

Each place in the library where Python looks for signals is tried, one after the other (see support/moments.py); random signals
in a process of its own try the rest.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from support.faults import newest_and_oldest, of_commit
from support.ledger import Tally
from support.moments import KINDS, interrupted
from support.wire import client_of

from txstate import CommitUnknown, Doc, Resolution, Retry, Store, Tx, TxStateError
from txstate._engine import group
from txstate._engine.claims import Turn
from txstate.testing import DropReply, FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.figures import Figures
    from support.servers import ServerHandle

    from txstate._drivers.sync import SyncDriver

ENOUGH = 10  # wrong moments to report
TESTS = Path(__file__).parent.parent


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a call that an interruption has kept from saying that it is over: the next one waits for it for so long."""
    monkeypatch.setattr(group, "PATIENCE", 0.01)
    monkeypatch.setattr(group, "QUEUEING", 0.05)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What an interrupted call held must be free when it has ended, and not only after the next collection."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_a_function_that_swallows_an_interruption_of_a_read_leaves_nothing_stale_behind(
    server: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to begin on an armed connection, and reads once more, in other words: with that, other watches."""
    pending = [KeyboardInterrupt]
    lead = group.Groups.lead

    def interrupted(groups: group.Groups, member: group.Member, until: float) -> bool:
        led = lead(groups, member, until)
        if pending and sys._getframe(1).f_code.co_name == "retake":
            raise pending.pop()
        return led

    def remove(tx: Tx) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            tx.get("k")
        tx.get("k").delete()

    def add(doc: Doc) -> None:
        doc["n"] = doc.get("n", 0) + 1

    with Store(server.url) as store:
        for _ in range(5):
            store.update("k", add)
        monkeypatch.setattr(group.Groups, "lead", interrupted)
        store.run(remove)
        assert not pending, "the moment did not come"
        assert store.update("k", add) == {"n": 1}


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_a_run_that_is_interrupted_at_its_end_leads_nobody_any_more(
    server: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    resign = group.Groups.resign

    def interrupted(_groups: group.Groups, _leader: group.Member) -> bool:
        monkeypatch.setattr(group.Groups, "resign", resign)
        raise KeyboardInterrupt

    def add(tx: Tx) -> None:
        doc = tx.get("k")
        doc["n"] = doc.get("n", 0) + 1

    with Store(server.url) as store:
        for _ in range(5):
            store.run(add)
        monkeypatch.setattr(group.Groups, "resign", interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:
            store.run(add)
        assert isinstance(raised.value.__cause__, CommitUnknown)
        groups = store._settings.groups
        assert groups is not None
        assert group.LEADS not in [member.place for member in groups._leaders.values()]


@pytest.mark.fault(number=14)
@pytest.mark.usefixtures("no_garbage_collection", "little_patience")
@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
@pytest.mark.parametrize(
    ("scene", "step"),
    [
        ("pooled connection", 1),
        ("update", 1),
        ("first update", 1),
        ("first run", 1),
        ("first update, conflict", 5),
        ("first update, lost reply", 5),
        pytest.param("first update, lost reply", 1, marks=pytest.mark.soak),
        ("repeated update", 1),
        ("repeated run", 1),
        ("repeated run, conflict", 5),
        ("repeated run, lost reply", 5),
        pytest.param("repeated run, lost reply", 1, marks=pytest.mark.soak),
        ("repeated update, conflict", 5),
        ("repeated update, lost reply", 5),
        pytest.param("repeated update, lost reply", 1, marks=pytest.mark.soak),
        ("repeated update, in line", 3),
        pytest.param("repeated update, in line", 1, marks=pytest.mark.soak),
        ("new connection", 3),
        pytest.param("new connection", 1, marks=pytest.mark.soak),
        ("lost reply", 5),
        pytest.param("lost reply", 1, marks=pytest.mark.soak),
    ],
)
def test_a_commit_interrupted_at_any_moment_says_what_became_of_it_and_leaves_a_sound_store(
    server: ServerHandle, scene: str, step: int, figures: Figures
) -> None:
    """With one connection only, so that a place in the pool that gets lost is missed at once."""
    wrong: list[str] = []
    kinds: set[str] = set()
    moments = committed = 0
    with client_of(server.unix_url) as admin, FaultProxy(server.url) as proxy:
        for at in range(0, 100_000, step):
            place, verdict, finding = interrupt_a_commit(server.unix_url, proxy, admin, scene, at)
            if finding:
                wrong.append(f"moment {at}: {place or 'not interrupted'}: {finding}")
            if not place or len(wrong) >= ENOUGH:
                break
            moments += 1
            kinds.add(place.partition(" in ")[0])
            committed += verdict is Resolution.COMMITTED
    assert not wrong, "\n".join(wrong)
    assert moments * step > (100 if scene.startswith(("first", "repeated")) else 300)
    assert kinds == KINDS
    assert committed > 0
    # After each one comes another that is not interrupted.
    applied = committed + moments
    figures(server, fired=moments, tally=Tally(attempted=2 * moments, acknowledged=moments, applied=applied))


def interrupt_a_commit(  # noqa: C901 - what is special of each scene
    url: str, proxy: FaultProxy, admin: redis.Redis, scene: str, at: int
) -> tuple[str, Resolution | None, str]:
    """Interrupt one commit, and make another one.

    Returns:
        Where the first one was interrupted, what the interruption said, and what is wrong, if anything.
    """
    key = f"{scene}:{at}"

    def append(tx: Tx, marker: int) -> None:
        change(tx.get(key), marker)

    def change(doc: Doc, marker: int) -> None:
        doc["markers"] = [*doc.get("markers", []), marker]

    def applied() -> list[int]:
        markers: list[int] = json.loads(admin.hget(key, "markers") or "[]")
        return markers

    loses_replies = scene.endswith("lost reply")
    with Store(proxy.url if loses_replies else url, max_connections=1, retry=Retry(deadline=2)) as store:
        if scene.startswith("first"):
            store.put("another document", {})
        elif scene != "new connection":
            store.run(append, 0)
        if scene.startswith("repeated update"):
            repeat(store, lambda: store.update(key, lambda doc: change(doc, 0)))
        elif scene.startswith("repeated"):
            repeat(store, lambda: store.run(append, 0))
        lost = proxy.inject(DropReply(), "EXEC", where=of_commit) if loses_replies else None
        if scene.endswith("conflict") and not scene.startswith("first"):
            admin.hset(key, "other", at)
        if scene.endswith("in line"):
            call_to_the_door(store, admin, key)
        before = applied()
        call: Callable[[], object] = lambda: store.run(append, 1)  # noqa: E731
        if scene == "first update, conflict":

            def lose(doc: Doc) -> None:
                if not doc.exists:
                    admin.hset(key, "other", at)
                change(doc, 1)

            call = lambda: store.update(key, lose)  # noqa: E731
        elif "update" in scene:
            call = lambda: store.update(key, lambda doc: change(doc, 1))  # noqa: E731
        place, interruption = interrupted(at, call)
        cause = None if interruption is None else interruption.__cause__
        verdict = cause.known if isinstance(cause, CommitUnknown) else None
        del interruption, cause  # with their traceback, which keeps frames alive
        if lost is not None:
            lost.cancel()
        admin.delete(*reserved_keys(key))  # what was claimed by then would last for its lease
        after = applied()
        if after != (before if place and verdict is not Resolution.COMMITTED else [*before, 1]):
            return place, verdict, f"it said {verdict}, but {before} became {after}"
        try:
            store.run(append, 2)
        except TxStateError as error:
            return place, verdict, f"the next call failed: {error!r}"
        if applied() != [*after, 2]:
            return place, verdict, f"the next call made {applied()} of {after}"
    return place, verdict, ""


@pytest.mark.fault(number=14)
@pytest.mark.usefixtures("no_garbage_collection", "little_patience")
@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
@pytest.mark.parametrize(
    ("scene", "step", "least"),
    [("as it was", 1, 100), ("changed meanwhile", 5, 100), ("a snapshot", 1, 25), ("a part of one", 1, 25)],
)
def test_a_reading_interrupted_at_any_moment_leaves_a_sound_store(
    server: ServerHandle, scene: str, step: int, least: int, figures: Figures
) -> None:
    """A read-only transaction that is repeated, or `get`, on the only connection; nobody sees anything but what is true."""

    def look(tx: Tx) -> int:
        count: int = tx.get("doc")["count"]
        return count

    def read() -> int:
        if scene not in {"a snapshot", "a part of one"}:
            return store.run(look)
        snapshot = store.get("doc", None if scene == "a snapshot" else ["count"])
        assert snapshot is not None
        count: int = snapshot["count"]
        return count

    moments = expected = 0
    with (
        client_of(server.unix_url) as admin,
        Store(server.url, max_connections=1, retry=Retry(deadline=2)) as store,
    ):
        store.put("doc", {"count": expected})
        for at in range(0, 100_000, step):
            repeat(store, read)
            if scene == "changed meanwhile":
                expected = at + 1
                admin.hset("doc", "count", expected)
            seen: list[int] = []
            place, interruption = interrupted(at, lambda: seen.append(read()))  # noqa: B023 - called at once
            assert interruption is None or interruption.__cause__ is None, place
            assert seen == ([] if place else [expected]), place
            assert read() == expected, place
            if not place:
                break
            moments += 1
        assert store.stats().in_doubt == 0
    assert moments * step > least
    figures(server, fired=moments, tally=Tally(attempted=moments, acknowledged=0, applied=0))


def call_to_the_door(store: Store, admin: redis.Redis, key: str) -> None:
    """Let the next call find that others were ahead, and that its turn comes at once."""
    (place,) = cast("SyncDriver", store._core.driver).pool.all()
    armed = place.session and place.session.armed
    assert armed
    armed.turn = Turn()
    armed.turn.others, armed.until = {key: 0.02}, time.monotonic() + 60
    for name in reserved_keys(key)[:2]:
        admin.zadd(name, {"turn": 0})


def reserved_keys(key: str) -> list[str]:
    return [f"__txstate__:{what}:{key}" for what in ("line", "door", "claim")]


def repeat(store: Store, call: Callable[[], object]) -> None:
    """Make a call until the connection is armed for it: then it goes the straight way."""
    call()
    call()
    trips = store.stats().round_trips
    call()
    assert store.stats().round_trips == trips + 1


@pytest.mark.fault(number=14)
@newest_and_oldest
@pytest.mark.parametrize(
    ("rounds", "seed"),
    [(100, 1), pytest.param(3000, 2, marks=pytest.mark.soak)],
)
def test_keyboard_interrupts_at_random_moments_double_nothing_and_lose_nothing_that_returned(
    server: ServerHandle, rounds: int, seed: int, figures: Figures
) -> None:
    """In the main thread of a process of its own, by a signal, as a user's Ctrl-C."""
    command = [
        sys.executable,
        "-m",
        "support.interrupted",
        server.url,
        server.unix_url,
        str(rounds),
        str(seed),
    ]
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=60 + rounds / 10, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    applied = report["applied"]
    assert len(applied) == len(set(applied))
    assert set(report["returned"]) | set(report["committed"]) <= set(applied)
    assert not set(report["innocent"]) & set(applied)
    assert report["torn"] == 0
    assert report["committed"], "none was interrupted after its commit had left"
    assert report["innocent"], "none was interrupted before its commit had left"
    assert report["unknown"] == []
    assert report["uninterrupted"] == 20 + 20, "the store did not work any more"
    interruptions = len(report["committed"]) + len(report["innocent"])
    tally = Tally(
        attempted=interruptions + len(report["returned"]) + 40,
        acknowledged=len(report["returned"]) + 40,
        applied=len(applied),
        torn=report["torn"],
    )
    figures(server, fired=interruptions, seed=seed, tally=tally)
