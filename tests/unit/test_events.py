"""Events and counters."""

from __future__ import annotations

import dataclasses
import threading
from typing import get_args

import pytest

import txstate
from txstate import events
from txstate.events import Counters, Stats


@pytest.mark.parametrize("kind", get_args(events.Event))
def test_events_are_public_frozen_and_documented(kind: type) -> None:
    assert getattr(txstate, kind.__name__) is kind
    assert kind.__name__ in txstate.__all__
    names = [field.name for field in dataclasses.fields(kind)]
    event = kind(**dict.fromkeys(names, None))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, names[0], 1)
    with pytest.raises(TypeError):
        kind(*names)
    assert kind.__doc__ is not None
    assert all(f"{name}:" in kind.__doc__ for name in names)


def test_every_event_is_one_of_the_union() -> None:
    found = {
        value
        for value in vars(events).values()
        if dataclasses.is_dataclass(value) and isinstance(value, type) and value is not Stats
    }
    assert found == set(get_args(events.Event))


def test_stats_are_a_frozen_copy() -> None:
    counters = Counters()
    before = counters.stats()
    counters.add(commits=2, attempts=3)
    counters.add(commits=1)
    assert before == Stats()
    assert counters.stats() == Stats(commits=3, attempts=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.commits = 1  # type: ignore[misc]  # what is tested


def test_a_counter_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        Counters().add(comits=1)


def test_each_counter_is_documented() -> None:
    assert Stats.__doc__ is not None
    assert all(f"{field.name}:" in Stats.__doc__ for field in dataclasses.fields(Stats))


def test_counters_lose_nothing_between_threads() -> None:
    counters = Counters()
    start = threading.Barrier(4)

    def count() -> None:
        start.wait()
        for _ in range(500):
            counters.add(attempts=1, round_trips=2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.stats() == Stats(attempts=2000, round_trips=4000)
