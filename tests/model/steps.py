"""Transactions as data: drawn by Hypothesis, and played alike on a `Tx`, an `AsyncTx` and the model.

A transaction is a list of steps. They are played by a generator that asks for what an `AsyncTx` would have to await, so that
the three ways to drive it can't differ in anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import strategies as st
from model.reference import INT_MAX, OF_ANOTHER_TYPE, ReferenceTx, canonical

from txstate import AsyncTx, CodecError, FieldNotLoaded, Tx, UsageError, VersionMismatch, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Step: TypeAlias = tuple[Any, ...]
Play: TypeAlias = Generator[tuple[str, tuple[Any, ...]], Any, list[str]]

EXPECTED = (KeyError, TypeError, AttributeError, CodecError, FieldNotLoaded, UsageError, WrongType)
"""What a step may raise: caught inside of the function, which goes on."""


class RolledBackError(Exception):
    """Raised by a function on purpose, to roll back."""


keys = st.sampled_from(["k1", "k2", "k3", OF_ANOTHER_TYPE])
documents = st.sampled_from(["k1", "k2", "k3"])
names = st.sampled_from(["a", "b", "c", "ünïcødé", "", "__version__"])
field_lists = st.none() | st.none() | st.lists(names, max_size=3)
expiries = st.sampled_from([None, 1000, 2000.5, timedelta(hours=1)])
integers = st.integers(-3, 3) | st.sampled_from([INT_MAX, -INT_MAX - 1, INT_MAX - 1])
scalars = (
    st.none()
    | st.booleans()
    | integers
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)
refused = st.sampled_from([float("nan"), INT_MAX + 1, {"x": {1, 2}}, [1, {2: 3}], b"bytes"])
given_values = integers | values | values | refused
mappings = st.dictionaries(names, given_values, max_size=3)

_operations: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("set"), names, given_values),
    st.tuples(st.just("set"), names, integers),
    st.tuples(st.just("delete item"), names),
    st.tuples(st.sampled_from(["get", "item", "in", "pop"]), names),
    st.tuples(st.just("increment"), names, integers | st.booleans()),
    st.tuples(st.sampled_from(["append", "nest"]), names, values),
    st.tuples(st.just("set"), names, st.lists(integers, max_size=2)),
    st.tuples(st.just("setdefault"), names, given_values),
    st.tuples(st.sampled_from(["update", "replace"]), mappings),
    st.tuples(st.sampled_from(["clear", "delete", "names", "len", "dict", "exists", "missing"])),
    st.tuples(st.just("expire"), expiries),
)
_steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("get"), keys, field_lists),
    st.tuples(st.just("get_many"), st.lists(keys, max_size=3), field_lists),
    st.tuples(st.just("on"), keys, field_lists, _operations),
    st.tuples(st.just("on"), documents, st.none(), _operations),
    st.tuples(st.just("put"), keys, mappings),
    st.tuples(st.sampled_from(["remove", "ttl"]), keys),
)


@st.composite
def transactions(draw: st.DrawFn) -> list[Step]:
    """A few steps; one in eight rolls back."""
    transaction = draw(st.lists(_steps, min_size=1, max_size=6))
    if draw(st.integers(0, 7)) == 7:
        transaction.append(("raise",))
    return transaction


@st.composite
def todos(draw: st.DrawFn) -> list[Step]:
    """Operations on one document."""
    return draw(st.lists(_operations, max_size=3))


def play(transaction: Sequence[Step]) -> Play:
    """Play a transaction; returns what each step came to."""
    results: list[str] = []
    for step in transaction:
        try:
            result = yield from _step(step)
        except EXPECTED as error:
            results.append(outcome(error))
        else:
            results.append(canonical(result))
    return results


def apply(doc: Any, operation: Step) -> Any:
    """Do something to one document."""
    kind, *args = copy.deepcopy(operation)
    plain: dict[str, Callable[..., Any]] = {
        "set": doc.__setitem__,
        "delete item": doc.__delitem__,
        "item": lambda name: doc[name],
        "in": lambda name: name in doc,
        "append": lambda name, value: doc[name].append(value),
        "nest": lambda name, value: doc[name].__setitem__("x", value),
        "names": lambda: sorted(doc),
        "len": lambda: len(doc),
        "dict": doc.to_dict,
        "exists": lambda: doc.exists,
        "missing": lambda: doc.version == 0,
    }
    return plain[kind](*args) if kind in plain else getattr(doc, kind)(*args)


def on_model(transaction: Sequence[Step]) -> Callable[[ReferenceTx], list[str]]:
    """The transaction as a function for the model."""
    return lambda tx: _drive(play(transaction), tx)


def on_tx(transaction: Sequence[Step]) -> Callable[[Tx], list[str]]:
    """The transaction as a function for a `Store`."""
    return lambda tx: _drive(play(transaction), tx)


def on_async_tx(transaction: Sequence[Step]) -> Callable[[AsyncTx], Any]:
    """The transaction as a function for an `AsyncStore`."""

    async def function(tx: AsyncTx) -> list[str]:
        playing = play(transaction)
        try:
            method, args = next(playing)
            while True:
                try:
                    result = await getattr(tx, method)(*args)
                except EXPECTED as error:
                    method, args = playing.throw(error)
                else:
                    method, args = playing.send(result)
        except StopIteration as stop:
            results: list[str] = stop.value
            return results

    return function


def outcome(error: Exception) -> str:
    """An error, as far as the model can tell."""
    if isinstance(error, VersionMismatch):
        return f"VersionMismatch {error.key} {error.expected == 0} {error.found == 0}"
    return f"{type(error).__name__} {getattr(error, 'key', '')}"


def _drive(playing: Play, tx: Any) -> list[str]:
    try:
        method, args = next(playing)
        while True:
            try:
                result = getattr(tx, method)(*args)
            except EXPECTED as error:
                method, args = playing.throw(error)
            else:
                method, args = playing.send(result)
    except StopIteration as stop:
        results: list[str] = stop.value
        return results


def _step(step: Step) -> Generator[tuple[str, tuple[Any, ...]], Any, Any]:
    kind: str = step[0]
    args = copy.deepcopy(step[1:])
    if kind == "raise":
        raise RolledBackError
    if kind == "on":
        doc = yield "get", args[:2]
        return apply(doc, args[2])
    result = yield "delete" if kind == "remove" else kind, args
    if kind in ("get", "put"):
        return [result.to_dict(), result.exists]
    if kind == "get_many":
        return [doc.exists for doc in result]
    return result if kind != "ttl" else result is not None
