"""Transactions that move step by step, in a drawn order: the outcome must be that of running them one at a time.

Each runs in a thread of its own and parks before every step; whose turn it is, the schedule says. Then some order of the
transactions on the model must give each its result, and the final state: serializability, by trying them all.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from model.reference import OF_ANOTHER_TYPE, Document, Reference, canonical
from model.steps import RolledBackError, Step, on_async_tx, on_model, on_tx, outcome, transactions

from txstate import AsyncStore, AsyncTx, CodecError, Retry, Store, Tx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import ServerHandle

KEYS = ["k1", "k2", "k3"]
RETRY = Retry(deadline=30.0)
LIMIT = 60.0  # seconds without progress that show a deadlock of the test


class Turnstile:
    """Lets one runner move at a time."""

    def __init__(self, runners: int) -> None:
        self._changed = threading.Condition()
        self._parked: set[int] = set()
        self._moving: set[int] = set(range(runners))
        self._runners = runners

    def park(self, runner: int) -> None:
        """Called by a runner: wait for a turn."""
        with self._changed:
            self._moving.discard(runner)
            self._parked.add(runner)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: runner not in self._parked, LIMIT), "the test hangs"

    def end(self, runner: int) -> None:
        """Called by a runner: no more turns are wanted."""
        with self._changed:
            self._moving.discard(runner)
            self._changed.notify_all()

    def lead(self, schedule: list[int]) -> None:
        """Give the turns of the schedule, then all that are still wanted, one runner after the other."""
        for turn in itertools.chain(schedule, itertools.cycle(range(self._runners))):
            with self._changed:
                assert self._changed.wait_for(lambda: not self._moving, LIMIT), "the test hangs"
                if not self._parked:
                    return
                if turn in self._parked:
                    self._parked.remove(turn)
                    self._moving.add(turn)
                    self._changed.notify_all()


class Bench:
    """Runners on one server: two with a `Store`, one with an `AsyncStore`."""

    def __init__(self, url: str) -> None:
        self.numbers = itertools.count()
        self.loop = asyncio.Runner()
        self.client = redis.Redis.from_url(url)
        self.stores = [Store(url), Store(url)]
        self.asynchronous = AsyncStore(url)

    def close(self) -> None:
        self.client.close()
        for store in self.stores:
            store.close()
        self.loop.run(self.asynchronous.close())
        self.loop.close()

    def transact(
        self, runner: int, namespace: str, transaction: list[Step], park: Callable[[], None]
    ) -> object:
        """Run a transaction that parks before each step and at its end."""
        steps = [step for one in transaction for step in (("meanwhile", 0), one)] + [("meanwhile", 0)]
        if runner < len(self.stores):
            function = on_tx(steps)
            store = self.stores[runner].options(namespace=namespace, retry=RETRY)
            return store.run(lambda tx: function(Parking(tx, park)))  # type: ignore[arg-type]  # it stands for a Tx
        asynchronous = self.asynchronous.options(namespace=namespace, retry=RETRY)
        async_function = on_async_tx(steps)

        async def parked(tx: AsyncTx) -> Any:
            return await async_function(AsyncParking(tx, park))  # type: ignore[arg-type]  # it stands for an AsyncTx

        return self.loop.run(asynchronous.run(parked))


class Parking:
    """A `Tx` with a place to park."""

    def __init__(self, tx: Tx | AsyncTx, park: Callable[[], None]) -> None:
        self._tx, self._park = tx, park

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def meanwhile(self, _number: int) -> Any:
        self._park()


class AsyncParking(Parking):
    """The same of an `AsyncTx`; its thread has nothing else to do."""

    async def meanwhile(self, _number: int) -> Any:
        self._park()


@pytest.fixture
def bench(valkey9: ServerHandle) -> Iterator[Bench]:
    made = Bench(valkey9.unix_url)
    try:
        yield made
    finally:
        made.close()


def result_of(operation: Callable[[], object]) -> str:
    try:
        return canonical(operation())
    except (RolledBackError, CodecError) as error:
        return outcome(error)


def example(bench: Bench, several: list[list[Step]], schedule: list[int], warm: int = 0) -> None:
    namespace = f"x{next(bench.numbers)}:"
    store = bench.stores[0].options(namespace=namespace)
    bench.client.set(namespace + OF_ANOTHER_TYPE, "text")
    for key in KEYS[:2]:
        store.put(key, {"a": 1, "b": [1]})
    for runner in range(len(several)):
        for _ in range(warm):  # arms its socket
            result_of(lambda runner=runner: bench.transact(runner, namespace, several[runner], lambda: None))  # type: ignore[misc]  # mypy can't infer a default's type here
    before = found(store)
    turnstile = Turnstile(len(several))
    results = [""] * len(several)

    def work(runner: int) -> None:
        try:
            results[runner] = result_of(
                lambda: bench.transact(runner, namespace, several[runner], lambda: turnstile.park(runner))
            )
        except BaseException as error:  # noqa: BLE001 - compared below, where the test can fail
            results[runner] = repr(error)
        finally:
            turnstile.end(runner)

    threads = [threading.Thread(target=work, args=(runner,)) for runner in range(len(several))]
    for thread in threads:
        thread.start()
    turnstile.lead(schedule)
    for thread in threads:
        thread.join(LIMIT)
    orders = itertools.permutations(range(len(several)))
    assert (results, found(store).state()) in [serial(before, several, list(order)) for order in orders]


def found(store: Store) -> Reference:
    """What is on the server."""
    snapshots = {key: doc for key, doc in store.get_many(KEYS).items() if doc is not None}
    return Reference(
        {key: Document(doc.to_dict(), expires=store.ttl(key) is not None) for key, doc in snapshots.items()}
    )


def serial(
    before: Reference, several: list[list[Step]], order: list[int]
) -> tuple[list[str], dict[str, str]]:
    """The results and the final state of running them one at a time."""
    model = before.copy()
    results = [""] * len(several)
    for runner in order:
        steps = [step for one in several[runner] for step in (("meanwhile", 0), one)] + [("meanwhile", 0)]
        results[runner] = result_of(lambda steps=steps: model.run(on_model(steps)))  # type: ignore[misc]  # mypy can't infer a default's type here
    return results, model.state()


def whole(transaction: list[Step]) -> list[Step]:
    """The same with whole documents: a retry fetches all at once what the last attempt asked for bit by bit."""
    return [
        (*step[:2], None, *step[3:]) if step[0] in ("get", "get_many", "on") else step for step in transaction
    ]


several = st.lists(transactions().map(whole), min_size=2, max_size=3)
schedules = st.lists(st.integers(0, 2), max_size=24)


def check(bench: Bench, examples: int) -> None:
    @settings(max_examples=examples)
    @given(several, schedules, st.integers(0, 2))
    def interleaved(several: list[list[Step]], schedule: list[int], warm: int) -> None:
        example(bench, several, schedule, warm)

    interleaved()


def test_any_interleaving_is_serializable(bench: Bench) -> None:
    check(bench, 150)


@pytest.mark.soak
def test_any_interleaving_is_serializable_for_long(bench: Bench) -> None:
    check(bench, 4000)


TRANSFER: list[Step] = [
    ("on", "k1", None, ("increment", "a", -1)),
    ("on", "k2", None, ("increment", "a", 1)),
]
SKEW_1: list[Step] = [("get", "k1", None), ("get", "k2", None), ("on", "k1", None, ("set", "a", 0))]
SKEW_2: list[Step] = [("get", "k1", None), ("get", "k2", None), ("on", "k2", None, ("set", "a", 0))]
READ_BOTH: list[Step] = [("get", "k1", None), ("get", "k2", None)]


@pytest.mark.parametrize(
    "several", [[TRANSFER, TRANSFER], [SKEW_1, SKEW_2], [TRANSFER, READ_BOTH], [TRANSFER, SKEW_1, READ_BOTH]]
)
def test_well_known_anomalies_under_every_alternation(bench: Bench, several: list[list[Step]]) -> None:
    """Lost update, write skew, torn read: all schedules in which the runners take turns in blocks."""
    for blocks in itertools.product([1, 2, 3], repeat=4):
        schedule = [turn % len(several) for turn, length in enumerate(blocks) for _ in range(length)]
        example(bench, several, schedule, warm=blocks[0] - 1)
    assert sum(store.stats().conflicts for store in bench.stores) > 0, "else this would show nothing"
