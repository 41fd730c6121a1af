"""The counter that explorations count on: what each transaction does, and what must hold after it.

An increment that was acknowledged has been applied once, and one that was refused not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from txstate import AsyncStore, AsyncTx, TxStateError, transactional
from txstate.testing import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate import Doc, Store, Tx

ANY_LOSS: Final = (
    "drop_reply",
    "drop_request",
    "cut",
    "interrupt",
    "late_exec",
    "late_request",
    "foreign_write",
)
"""The faults that cost no time."""


def seed(store: Store) -> None:
    store.put("counter", {"n": 0})


def add_one(doc: Doc) -> None:
    doc["n"] += 1


def increment(store: Store) -> int:
    n: int = store.update("counter", add_one)["n"]
    return n


def increment_both(store: Store) -> int:
    """Two documents as one, by a function that asks for them."""
    return store.run(_increment_both)


def _increment_both(tx: Tx) -> int:
    counter, mirror = tx.get_many(["counter", "mirror"])
    add_one(counter)
    add_one(mirror)
    n: int = counter["n"]
    return n


@transactional
async def _increment_later(tx: AsyncTx) -> int:
    doc = await tx.get("counter")
    add_one(doc)
    n: int = doc["n"]
    return n


def increment_async(store: AsyncStore) -> Any:
    return _increment_later(store)


def repeated(function: Callable[[Any], Any], times: int) -> Callable[[Any], Any]:
    """The same call again and again on one store: so its connection is armed."""

    def repeat(store: Store) -> None:
        for _ in range(times):
            function(store)

    async def repeat_async(store: AsyncStore) -> None:
        for _ in range(times):
            await function(store)

    return repeat_async if function is increment_async else repeat


def count(store: Store) -> int:
    doc = store.get("counter")
    assert doc is not None
    n: int = doc["n"]
    return n


def is_two(store: Store) -> bool:
    return count(store) == 2


def each_exactly_once(store: Store, outcomes: Sequence[Outcome]) -> None:
    certain = sum(outcome.applied is True for outcome in outcomes)
    possible = certain + sum(outcome.applied is None for outcome in outcomes)
    n = count(store)
    assert certain <= n <= possible, f"{certain} to {possible} were applied, but the counter says {n}"


class Noted:
    """Increments that note their own outcomes, for transactions that make several.

    Args:
        function: `increment`, or `increment_both`.
    """

    def __init__(self, function: Callable[[Store], int] = increment) -> None:
        self._function = function
        self.ends: list[Outcome] = []

    def seed(self, store: Store) -> None:
        self.ends.clear()
        seed(store)
        store.put("mirror", {"n": 0})

    def increment(self, store: Store) -> None:
        try:
            self.ends.append(Outcome(self._function(store), None, 1))
        except (TxStateError, KeyboardInterrupt) as error:
            self.ends.append(Outcome(None, error, 1))

    def each_exactly_once(self, store: Store) -> None:
        each_exactly_once(store, self.ends)
        if self._function is increment_both:
            assert store.get("mirror") == store.get("counter"), "one of the two was incremented alone"
