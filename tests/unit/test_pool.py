"""The pool's bookkeeping, alone and inside of the blocking driver."""

from __future__ import annotations

import gc
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.wire import eventually

from txstate._drivers import pool as pool_module
from txstate._drivers import sync as sync_module
from txstate._drivers.pool import Pool
from txstate._drivers.source import Source
from txstate._drivers.sync import SyncChannel, SyncDriver
from txstate._effects import Acquire, Exhausted
from txstate._engine.armed import Armed
from txstate._engine.readset import ReadSet
from txstate._engine.session import Session
from txstate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Place(pool_module.Place):
    def __init__(self) -> None:
        super().__init__()
        self.drops = 0
        self.socket = False

    @property
    def connected(self) -> bool:
        return self.socket

    def drop(self) -> None:
        self.socket, self.session = False, None
        self.drops += 1

    def arm(self, signature: str) -> None:
        self.socket = True
        self.session = Session(b"token")
        self.session.armed = Armed(signature, ReadSet(), {})


def pool(limit: int) -> Pool[Place, str]:
    return Pool(limit, Place)


def taken(source: Pool[Place, str]) -> Place:
    place = source.take()
    assert place is not None
    return place


def test_at_most_so_many_places() -> None:
    places = pool(2)
    first, second = taken(places), taken(places)
    assert first is not second
    assert places.take() is None
    assert set(places.all()) == {first, second}


def test_who_waits_longest_is_served_first() -> None:
    places = pool(1)
    place = taken(places)
    for waiter in ("first", "second", "third"):
        places.wait(waiter)
    assert [places.give(place) for _ in range(4)] == ["first", "second", "third", None]
    assert places.take() is place


def test_who_leaves_the_line_is_passed_over() -> None:
    places = pool(1)
    place = taken(places)
    places.wait("first")
    places.wait("second")
    assert places.leave("first")
    assert not places.leave("first")
    assert places.give(place) == "second"
    assert not places.leave("second")


def test_idle_places_are_used_last_in_first_out_and_connected_ones_before_others() -> None:
    places = pool(3)
    first, second, third = taken(places), taken(places), taken(places)
    first.socket = second.socket = True
    for place in (first, third, second):
        places.give(place)
    assert [places.take() for _ in range(4)] == [second, first, third, None]


def test_a_closed_pool_gives_out_nothing_and_drops_what_comes_back() -> None:
    places = pool(2)
    idle, held = taken(places), taken(places)
    places.give(idle)
    places.wait("in vain")
    assert places.close() == ["in vain"]
    assert idle.drops == 1
    assert held.drops == 0
    with pytest.raises(UsageError, match="closed"):
        places.take()
    assert places.give(held) is None
    assert held.drops == 1
    assert places.close() == []
    assert idle.drops == 1, "closing twice does nothing more"


def test_a_place_that_nobody_holds_any_more_is_free_again() -> None:
    """An interruption may strike between taking it and noting it down."""
    places = pool(1)
    taken(places)
    gc.collect()
    assert places.take() is not None


def test_a_place_that_can_not_be_used_again_gets_another_channel() -> None:
    places = pool(1)
    place = taken(places)
    fresh = places.replace(place)
    assert fresh is not place
    assert places.take() is None, "the new one is as held as the old one was"
    places.give(fresh)
    assert places.take() is fresh
    assert places.all() == [fresh]


def test_a_channel_of_another_pool_is_dropped_and_not_taken_in() -> None:
    """It was held across a fork: the child has a pool of its own."""
    parent, child = pool(1), pool(1)
    place = taken(parent)
    assert child.give(place) is None
    assert place.drops == 1
    assert child.take() is not place


def test_it_tells_how_many_channels_are_in_use() -> None:
    places = pool(3)
    first, second = taken(places), taken(places)
    assert places.in_use == 2
    places.give(first)
    assert places.in_use == 1
    second.session = cast("Any", SimpleNamespace(armed=SimpleNamespace(signature="a")))
    places.give(second)
    assert places.in_use == 0
    assert places.retake("a") is second
    assert places.in_use == 1


def test_a_place_for_what_was_not_asked_for_lately_is_one_that_is_idle_and_connected() -> None:
    places = pool(2)
    place = taken(places)
    assert places.take_idle("a") is None
    places.give(place)
    assert places.take_idle("a") is None, "it would have to connect"
    place = taken(places)
    place.arm("b")
    places.give(place)
    assert places.take_idle("a") is None, "it is armed for another one"
    place = taken(places)
    places.give(place)
    place.session, place.socket = Session(b"token"), True
    assert places.take_idle("a") is place
    assert not place.hot
    places.give(place)
    assert places.take_idle("a") is None, "it pays to arm for it now"
    assert places.take("a") is place
    assert place.hot


def test_who_waits_comes_before_who_would_take_an_idle_place() -> None:
    places = pool(1)
    place = taken(places)
    place.session, place.socket = Session(b"token"), True
    places.wait("first")
    assert places.give(place) == "first"
    places.wait("second")
    places._shelve(place)
    assert places.take_idle("a") is None
    assert places.leave("second")
    assert places.take_idle("a") is place
    places.give(place)
    places.close()
    assert places.take_idle("b") is None


# In the blocking driver, with real threads


def driver(limit: int) -> SyncDriver:
    return SyncDriver(Source.of_url("redis://127.0.0.1:1", asynchronous=False), limit)


def acquire(source: SyncDriver, timeout: float = 5.0) -> SyncChannel:
    def steps() -> Any:
        return (yield Acquire(timeout))

    channel: SyncChannel = source.run(steps())
    return channel


def waiting(source: SyncDriver) -> int:
    return len(source.pool._waiting)


def test_threads_are_served_in_the_order_in_which_they_came() -> None:
    source = driver(1)
    held = acquire(source)
    order: list[int] = []

    def work(number: int) -> None:
        channel = acquire(source)
        order.append(number)
        channel.release()

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        eventually(lambda number=number: waiting(source) == number + 1)  # type: ignore[misc]  # mypy can't infer a default's type here
    held.release()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
    assert acquire(source, 0.0) is held


def test_who_is_in_doubt_is_served_first() -> None:
    places: Pool[Any, str] = pool(1)
    place = taken(places)
    places.wait("a")
    places.wait("b")
    places.wait("in doubt", first=True)
    assert [places.give(place) for _ in range(3)] == ["in doubt", "a", "b"]


def test_waiting_in_vain_ends_in_time_and_leaves_the_line() -> None:
    source = driver(1)
    held = acquire(source)
    with pytest.raises(Exhausted, match="no connection was free"):
        acquire(source, 0.01)
    with pytest.raises(Exhausted):
        acquire(source, -5.0)
    assert waiting(source) == 0
    held.release()
    assert acquire(source, 0.0) is held


def test_closing_tells_those_who_wait() -> None:
    source = driver(1)
    held = acquire(source)
    told: list[BaseException] = []

    def work() -> None:
        try:
            acquire(source)
        except UsageError as error:
            told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: waiting(source) == 1)
    source.close()
    thread.join(5)
    assert len(told) == 1
    assert "closed" in str(told[0])
    held.release()
    with pytest.raises(UsageError, match="closed"):
        acquire(source)


def test_an_armed_place_goes_to_who_asks_for_the_same() -> None:
    places = pool(3)
    first, second = taken(places), taken(places)
    first.arm("a")
    second.arm("b")
    places.give(first)
    places.give(second)
    assert places.take("a") is first
    assert first.armed == "a"


def test_an_armed_place_that_goes_to_another_is_disarmed() -> None:
    """Its watches are lifted by whoever uses it: what was read under them must not be found again."""
    places = pool(1)
    place = taken(places)
    place.arm("a")
    places.give(place)
    assert places.take("b") is place
    assert place.armed is None


def test_an_armed_place_that_goes_to_a_plain_read_is_disarmed() -> None:
    places = pool(1)
    place = taken(places)
    place.arm("a")
    places.give(place)
    assert places.take() is place
    assert place.armed is None


def test_what_was_armed_at_another_server_is_idle_after_a_failover() -> None:
    """Its socket is gone, and what it was armed with: who asks for the same must not take it for armed."""
    places = pool(2)
    first, second = taken(places), taken(places)
    for place, signature, peer in ((first, "a", "demoted"), (second, "b", "primary")):
        place.arm(signature)
        place.peer = peer
        places.give(place)
    places.drop_others("primary")
    assert places.retake("a") is None
    assert places.retake("b") is second
    assert places.take() is first
    assert first.drops == 1


def test_of_two_places_armed_alike_the_newer_stays_armed() -> None:
    places = pool(2)
    first, second = taken(places), taken(places)
    for place in (first, second):
        place.arm("a")
        places.give(place)
    assert first.armed is None
    assert places.take("a") is second


def test_only_what_is_asked_for_again_is_worth_arming() -> None:
    places = pool(1)
    for signature, hot in (("a", False), ("b", False), ("a", True), (None, False)):
        place = places.take(signature)
        assert place is not None
        assert place.hot is hot
        places.give(place)


def test_few_places_stay_armed() -> None:
    places = pool(40)
    many = [taken(places) for _ in range(40)]
    for number, place in enumerate(many):
        place.arm(f"{number}")
        places.give(place)
    assert [place.armed for place in many[-8:]] == [f"{number}" for number in range(32, 40)]
    assert not any(place.armed for place in many[:-8])


def test_who_waits_long_stops_the_others_to_look_for_lost_places_only_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A garbage collection stops all threads: a crowd in which each asked for one would stand still."""
    looked: list[int] = []
    monkeypatch.setattr(sync_module, "_SOON", 0.001)
    monkeypatch.setattr(gc, "collect", lambda: looked.append(1))
    source = driver(1)
    held = acquire(source)

    def wait_in_vain() -> None:
        for _ in range(3):
            with pytest.raises(Exhausted):
                acquire(source, 0.01)

    def interrupted() -> Any:
        raise KeyboardInterrupt
        yield

    wait_in_vain()
    assert not looked
    with pytest.raises(KeyboardInterrupt):
        source.run(interrupted())
    wait_in_vain()
    assert looked, "nobody looked for what the interruption may have lost"
    held.release()


def test_looking_for_lost_places_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    now = 100.0

    def collect() -> None:
        nonlocal now
        looked.append(1)
        now += 0.5

    monkeypatch.setattr(gc, "collect", collect)
    monkeypatch.setattr(sync_module, "time", SimpleNamespace(monotonic=lambda: now))
    source = driver(1)
    source._look_after = 0.0
    for _ in range(1000):
        source._look_for_lost()
        now += 0.1
    assert len(looked) == 2


def opposed(source: Pool[Place, str], moment: int, work: Callable[[], object]) -> tuple[Place | None, bool]:
    """Do it, while another thread takes what is armed for `a`, without a lock, after so many steps of the pool's.

    Returns:
        What that has got; and whether the work took so many steps.
    """
    got: list[Place | None] = []
    steps = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != pool_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == moment:
                got.append(source.retake("a"))
        return trace

    before = sys.gettrace()
    # Python 3.12 tells of single steps only where some frame has asked for them before it is traced.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return (got[0], True) if got else (None, False)


def another_armed_alike(source: Pool[Place, str]) -> Callable[[], object]:
    first, second = taken(source), taken(source)
    first.arm("a")
    second.arm("a")
    source.give(first)
    return lambda: source.give(second)


def too_many_armed(source: Pool[Place, str]) -> Callable[[], object]:
    places = [taken(source) for _ in range(9)]
    for place, signature in zip(places, "abcdefghi", strict=True):
        place.arm(signature)
    for place in places[:-1]:
        source.give(place)
    return lambda: source.give(places[-1])


def the_only_one_armed(source: Pool[Place, str]) -> Callable[[], object]:
    places = [taken(source) for _ in range(9)]
    places[0].arm("a")
    source.give(places[0])
    return lambda: source.take("b" * len(places))  # which keeps the others, too


def closing(source: Pool[Place, str]) -> Callable[[], object]:
    the_only_one_armed(source)
    return source.close


def after_a_failover(source: Pool[Place, str]) -> Callable[[], object]:
    the_only_one_armed(source)
    return lambda: source.drop_others("elsewhere")


@pytest.mark.parametrize(
    "work", [another_armed_alike, too_many_armed, the_only_one_armed, closing, after_a_failover]
)
def test_what_another_thread_takes_at_any_moment_is_its_alone(
    work: Callable[[Pool[Place, str]], Callable[[], object]],
) -> None:
    moment, reached, held = 0, True, 0
    while reached:
        source, moment = pool(9), moment + 1
        result: list[object] = []
        steps = work(source)

        def note(steps: Callable[[], object] = steps, result: list[object] = result) -> None:
            result.append(steps())

        place, reached = opposed(source, moment, note)
        if place is None:
            continue
        held += 1
        assert place.session is not None, f"closed at step {moment}"
        assert place.session.armed is not None, f"disarmed at step {moment}"
        assert place not in result
        source.closed = False
        others = [*iter(source.take, None)]
        assert place not in others, f"given to two at step {moment}"
    assert held
