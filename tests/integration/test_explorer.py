"""The explorer itself: it finds what is wrong with plain code, follows schedules, keeps its bounds, and says what can't work."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import find, settings
from support.counting import (
    count,
    each_exactly_once,
    increment,
    increment_async,
    is_two,
    repeated,
    seed,
)
from tenacity import stop_after_attempt

from txstate import AsyncStore, Retry, ServerRefused, Store, StoreUnavailable, UsageError
from txstate.testing import (
    InvariantViolated,
    Outcome,
    Report,
    ScheduleDiverged,
    explore,
    replay,
    schedules,
)
from txstate.testing._explorer import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.servers import ServerHandle, StartServer

    from txstate.testing._explorer.schedule import Drawn


def naive(store: Store, by: int = 1) -> None:
    doc = store.get("counter")
    assert doc is not None
    store.put("counter", {"n": doc["n"] + by})


async def naive_async(store: AsyncStore) -> None:
    doc = await store.get("counter")
    assert doc is not None
    await store.put("counter", {"n": doc["n"] + 1})


# Plain code doesn't.


def test_a_fault_that_never_happened_has_shown_nothing(valkey9: ServerHandle) -> None:
    def look(store: Store) -> int:
        return count(store)

    options: dict[str, Any] = {"setup": seed, "invariant": lambda _: True, "server": valkey9.unix_url}
    report = explore([look], faults=["late_exec", "cut"], **options)
    assert report.fired == {"late_exec": 0, "cut": 2}
    with pytest.raises(UsageError, match="nothing was shown of late_exec"):
        report.check()
    explore([look], faults=["late_exec", "cut"], limit=1, **options).check()


@pytest.mark.parametrize("function", [naive, naive_async], ids=["sync", "async"])
def test_a_lost_update_is_found_and_can_be_replayed(
    function: Callable[[Any], Any], valkey9: ServerHandle
) -> None:
    options: dict[str, Any] = {"setup": seed, "invariant": is_two, "server": valkey9.unix_url}
    report = explore([function, function], **options)
    assert report.schedules < 50
    with pytest.raises(InvariantViolated, match="is_two returned False"):
        report.check()
    first = report.first
    assert first is not None
    assert [outcome and outcome.ok for outcome in first.outcomes] == [True, True]
    for _ in range(2):
        with pytest.raises(InvariantViolated, match="is_two returned False"):
            replay(str(first.schedule), [function, function], **options)


def test_the_timeline_says_who_lost_which_value(valkey9: ServerHandle) -> None:
    report = explore(
        [lambda store: naive(store, 5), naive],
        setup=seed,
        invariant=lambda store: count(store) == 6,
        server=valkey9.unix_url,
    )
    stories = [str(violation) for violation in report.violations]
    assert any(
        "n = 5, written by 0:<lambda> at step " in story and "was overwritten with 1 by 1:naive" in story
        for story in stories
    )
    assert all("replay" in str(violation.exception()) for violation in report.violations)


def test_the_timeline_says_that_nothing_is_left(valkey9: ServerHandle) -> None:
    report = explore(
        [lambda store: store.delete("counter")],
        setup=seed,
        invariant=lambda _: False,
        server=valkey9.unix_url,
    )
    assert "\nin the end: no documents\nwrong: the invariant returned False" in str(report.first)


def test_the_timeline_tells_a_conflict_of_an_armed_connection(valkey9: ServerHandle) -> None:
    """Behind its EXEC stand the reads of the next call, and their answers are not the commit's."""
    report = explore(
        [repeated(increment, 3), increment],
        setup=seed,
        invariant=lambda _: False,
        server=valkey9.unix_url,
    )
    stories = "\n".join(map(str, report.violations))
    assert "-> conflict, not applied, and with it reads counter = {n: 3} for what comes next" in stories
    assert "-> applied, and with it reads counter = {n: 4} for what comes next" in stories
    assert "to be noted" not in stories
    assert "wrong: the invariant returned False" in stories


def test_write_skew_of_a_check_outside_of_the_transaction(valkey9: ServerHandle) -> None:
    def book(store: Store) -> None:
        seats = store.get("seats")
        if seats is not None and seats["free"] > 0:
            store.update("seats", lambda doc: doc.increment("free", -1))

    def free(store: Store) -> int:
        seats = store.get("seats")
        return seats["free"] if seats is not None else 0

    report = explore(
        [book, book],
        setup=lambda store: store.put("seats", {"free": 1}),
        invariant=lambda store: free(store) >= 0,
        server=valkey9.unix_url,
    )
    assert report.first is not None


def test_another_client_is_a_function(valkey9: ServerHandle) -> None:
    def reset(store: Store) -> None:
        store.put("counter", {"n": 0})

    def never_back(store: Store, outcomes: Sequence[Outcome]) -> bool:
        return count(store) <= 1

    options: dict[str, Any] = {"setup": lambda store: store.put("counter", {"n": 9}), "faults": [reset]}
    explore([increment], invariant=lambda _: True, server=valkey9.unix_url, **options).check()
    report = explore(
        [naive], invariant=lambda store: count(store) in (0, 1, 10), server=valkey9.unix_url, **options
    )
    report.check()
    report = explore([naive], invariant=never_back, server=valkey9.unix_url, **options)
    assert report.first is not None
    with pytest.raises(InvariantViolated, match="another client did this"):
        replay("0 0 0:reset", [naive], invariant=lambda _: False, server=valkey9.unix_url, **options)


# Schedules.


@pytest.mark.parametrize("shared", [False, True])
def test_the_recipe_has_all_that_a_replay_needs(shared: bool, valkey9: ServerHandle) -> None:  # noqa: FBT001 - a parameter of the test
    def add_ten(store: Store) -> None:
        store.update("counter", lambda doc: doc.increment("n", 10))

    how: dict[str, Any] = {"setup": seed, "invariant": is_two, "server": valkey9.unix_url}
    report = explore([increment] * 2, faults=[add_ten], shared=shared, violations=1, **how)
    with pytest.raises(InvariantViolated) as violated:
        report.check()
    (recipe,) = re.findall(r"(replay\(.*\)) does this again", str(violated.value))
    called = {"replay": functools.partial(replay, transactions=[increment] * 2, **how), "add_ten": add_ten}
    with pytest.raises(InvariantViolated, match=re.escape(recipe)):
        eval(recipe.replace(", ...", ""), called)  # noqa: S307 - what the report says


def test_a_sound_schedule_comes_back_whole(valkey9: ServerHandle) -> None:
    played = replay(
        "0 1 0 1:drop_reply", [increment] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url
    )
    assert str(played).startswith("0 1 0 1:drop_reply ")
    again = replay(played, [increment] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url)
    assert again == played


@pytest.mark.parametrize("text", ["0 1 2", "0 1 0 1 0 1 0 1 0 1 0 1 0 1", "0 1 0!", "0:late_exec"])
def test_a_schedule_of_something_else_is_a_divergence(text: str, valkey9: ServerHandle) -> None:
    with pytest.raises(ScheduleDiverged):
        replay(text, [increment] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url)


def test_a_transaction_that_is_not_deterministic_is_told(valkey9: ServerHandle) -> None:
    moods = itertools.chain([3, 3], itertools.repeat(1))

    def moody(store: Store) -> None:
        for _ in range(next(moods)):
            store.get("counter")

    with pytest.raises(ScheduleDiverged, match="not deterministic"):
        explore([moody, moody], setup=seed, invariant=lambda _: True, server=valkey9.unix_url)


def test_hypothesis_shrinks_a_lost_update_to_few_steps(valkey9: ServerHandle) -> None:
    def loses(drawn: Drawn) -> bool:
        try:
            replay(drawn, [naive, naive], setup=seed, invariant=is_two, server=valkey9.unix_url)
        except InvariantViolated:
            return True
        return False

    found = find(
        schedules(),
        loses,
        settings=settings(max_examples=200, database=None, deadline=None),
    )
    assert sum(number > 0 for number in found.numbers) <= 2
    assert len(found.numbers) <= 6


def test_drawn_schedules_have_the_faults_that_are_asked_for(valkey9: ServerHandle) -> None:
    def fails(drawn: Drawn) -> bool:
        played = replay(
            drawn,
            [increment],
            setup=seed,
            invariant=each_exactly_once,
            faults=["late_exec"],
            server=valkey9.unix_url,
        )
        return "0!" in str(played)

    find(schedules(20), fails, settings=settings(max_examples=500, database=None, deadline=None))


# Bounds and misuse.


def test_bounds_cut_the_search_and_the_report_says_so(valkey9: ServerHandle) -> None:
    options: dict[str, Any] = {"setup": seed, "invariant": is_two, "server": valkey9.unix_url}
    assert explore([increment] * 2, preemptions=0, **options).schedules == 2
    few = explore([increment] * 2, limit=3, **options)
    assert (few.schedules, few.complete) == (3, False)
    first = explore([naive] * 2, violations=1, **options)
    assert (len(first.violations), first.complete) == (1, False)
    assert first.violations[0].number == first.schedules


def test_nothing_is_shown_when_no_transaction_returns(valkey9: ServerHandle) -> None:
    def broken(store: Store) -> None:
        raise NameError("typo")

    report = explore([broken], invariant=lambda _: True, server=valkey9.unix_url)
    with pytest.raises(UsageError, match="no transaction ever returned"):
        report.check()


def test_an_invariant_may_raise_anything(valkey9: ServerHandle) -> None:
    def invariant(store: Store) -> None:
        pytest.fail("too bad")

    report = explore([increment], setup=seed, invariant=invariant, server=valkey9.unix_url)
    with pytest.raises(InvariantViolated, match="too bad"):
        report.check()


@pytest.mark.parametrize("verdict", [False, 0, {}])
def test_an_invariant_returns_what_is_true_or_nothing(verdict: object, valkey9: ServerHandle) -> None:
    """What `doc["n"] or doc["m"]` comes to is no bool, and must not pass for one that holds."""

    def explored(verdict: object) -> Report:
        return explore([increment], setup=seed, invariant=lambda _: verdict, server=valkey9.unix_url)

    with pytest.raises(InvariantViolated, match=f"returned {verdict}"):
        explored(verdict).check()
    for holds in (None, True, 1):
        explored(holds).check()


def test_a_transaction_that_does_not_end_is_a_violation(valkey9: ServerHandle) -> None:
    def restless(store: Store) -> None:
        while True:
            store.get("counter")

    report = explore([restless, increment], setup=seed, invariant=is_two, limit=2, server=valkey9.unix_url)
    assert len(report.violations) == 2
    assert report.first is not None
    assert report.first.outcomes[0] is None
    assert "did not end" in str(report.first)


def test_a_transaction_that_waits_for_another_one_is_told(
    valkey9: ServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_PATIENCE", 0.2)
    never = threading.Event()

    def wait(store: Store) -> None:
        never.wait()

    try:
        with pytest.raises(UsageError, match="no transaction has moved"):
            explore([wait], invariant=lambda _: True, server=valkey9.unix_url)
    finally:
        never.set()


def test_a_store_used_in_another_thread_is_refused(valkey9: ServerHandle) -> None:
    def elsewhere(store: Store) -> None:
        errors: list[BaseException] = []

        def use() -> None:
            try:
                store.get("counter")
            except UsageError as error:
                errors.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        raise errors[0]

    outcomes: list[Outcome] = []
    explore([elsewhere], invariant=lambda _, found: outcomes.extend(found), server=valkey9.unix_url)
    assert "thread of its own" in str(outcomes[0].error)


def test_a_failing_outsider_or_setup_is_no_violation(valkey9: ServerHandle) -> None:
    def fail(store: Store) -> None:
        raise ZeroDivisionError

    options: dict[str, Any] = {"invariant": lambda _: True, "server": valkey9.unix_url}
    with pytest.raises(ZeroDivisionError):
        explore([increment] * 2, setup=seed, faults=[fail], **options)
    with pytest.raises(ZeroDivisionError):
        explore([increment], setup=fail, **options)
    assert threading.active_count() < 20


def test_data_is_never_wiped(valkey9: ServerHandle) -> None:
    with Store(valkey9.unix_url) as store:
        store.put("precious", {"n": 1})
        with pytest.raises(UsageError, match="not empty"):
            explore([increment], setup=seed, invariant=is_two, server=valkey9.unix_url)
        assert store.get("precious") is not None


@pytest.mark.parametrize(
    "how", [lambda **o: explore([increment], **o), lambda **o: replay("0", [increment], **o)]
)
def test_a_server_that_can_not_be_explored_on(how: Callable[..., object], valkey9: ServerHandle) -> None:
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        how(setup=seed, invariant=is_two, server="unix:///nowhere/socket")
    with pytest.raises(ServerRefused, match="WRONGPASS"):
        how(setup=seed, invariant=is_two, server=valkey9.url.replace("://", "://nobody:x@"))


def test_a_server_that_is_gone_meanwhile(start_server: StartServer) -> None:
    server = start_server("valkey9")

    def end(_: Store) -> None:
        server.stop(kill=True)

    with pytest.raises(StoreUnavailable, match="can't be reached"):
        explore([increment], setup=seed, invariant=end, server=server.url)


def test_the_database_is_left_empty(valkey9: ServerHandle) -> None:
    for _ in range(2):
        explore([increment] * 2, setup=seed, invariant=is_two, server=valkey9).check()


async def an_async_invariant(store: Store) -> bool:
    return False


def drop_reply(store: Store) -> None:
    """Has the name of a fault."""


@pytest.mark.parametrize(
    "options",
    [
        {"transactions": []},
        {"transactions": ["increment"]},
        {"transactions": increment},
        {"transactions": 5},
        {"setup": "seed"},
        {"server": 6379},
        {"server": "http://localhost"},
        {"server": "redis+cluster://localhost:7000"},
        {"faults": "drop_reply"},
        {"faults": ["lightning"]},
        {"faults": [drop_reply]},
        {"faults": [seed, seed]},
        {"faults": [None]},
        {"faults": None},
        {"faults": ["restart"], "server": "unix:///nowhere"},
        {"limit": 0},
        {"violations": 0},
        {"preemptions": -1},
        {"max_faults": -1},
        {"invariant": an_async_invariant},
        {"invariant": None},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], valkey9: ServerHandle) -> None:
    arguments: dict[str, Any] = {
        "transactions": [increment],
        "setup": seed,
        "invariant": is_two,
        "server": valkey9.unix_url,
    }
    with pytest.raises(UsageError):
        explore(**{**arguments, **options})


def test_what_is_no_schedule_can_t_be_replayed(valkey9: ServerHandle) -> None:
    report = explore([naive] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url)
    violation: Any = report.first
    with pytest.raises(UsageError, match=r"report\.first\.schedule"):
        replay(violation, [naive] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url)
    with pytest.raises(UsageError, match="max_steps= takes an int"):
        schedules(-1)
    with pytest.raises(UsageError, match="max_faults= takes an int"):
        replay("0", [naive] * 2, invariant=is_two, max_faults=-1, server=valkey9.unix_url)


def test_waiting_costs_no_time_and_chance_stays_as_it_was(valkey9: ServerHandle) -> None:
    def patient(store: Store) -> int:
        return increment(
            store.options(retry=Retry(stop=stop_after_attempt(9), wait=lambda _: 3600.0, deadline=36000.0))
        )

    random.seed(7)
    expected = random.random()
    random.seed(7)
    began = time.monotonic()
    explore([patient] * 2, setup=seed, invariant=is_two, server=valkey9.unix_url).check()
    assert time.monotonic() - began < 3600
    assert random.random() == expected


def test_tasks_of_an_async_transaction_are_explored_with_it(valkey9: ServerHandle) -> None:
    async def both(store: AsyncStore) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(increment_async(store))
            tasks.create_task(increment_async(store))

    explore([both], setup=seed, invariant=is_two, server=valkey9.unix_url).check()
