"""Small transactions for the explorer, on one document, that want to share commits; and what must hold of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txstate import CommitUnknown, Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate import Doc, Store, Tx
    from txstate.testing import Outcome


def seed(store: Store) -> None:
    store.put("doc", {"items": []})


def another_client(store: Store) -> None:
    """Appends something, too: what others do to a document that they read before is then no beginning of it."""
    document = store.get("doc")
    assert document is not None
    store.put("doc", {"items": [*document["items"], 100 + len(document["items"])]})


def appends(value: int, *, refuse: bool = False) -> Callable[[Store], list[int]]:
    def append(store: Store) -> list[int]:
        def function(doc: Doc) -> None:
            doc["items"] = [*doc["items"], value]
            if refuse:
                raise LookupError(doc["items"])

        snapshot = store.update("doc", function)
        return list(snapshot["items"])

    append.__name__ = f"append_{value}"
    return append


def reads(store: Store) -> list[int]:
    """A read-only transaction."""
    return store.run(lambda tx: list(tx.get("doc")["items"]))


def looks(*ways: str) -> Callable[[Store], list[int]]:
    """Looks at the document in these ways, one after the other; how many items each has seen. None of them changes anything."""

    def look(store: Store) -> list[int]:
        return [_WAYS[way](store) for way in ways]

    look.__name__ = f"look_by_{'_and_'.join(ways)}"
    return look


def _by_get(store: Store) -> int:
    document = store.get("doc")
    assert document is not None
    return len(document["items"])


def _by_an_exception(store: Store) -> int:
    def refuse(tx: Tx) -> None:
        raise LookupError(len(tx.get("doc")["items"]))

    try:
        store.run(refuse)
    except LookupError as error:
        count: int = error.args[0]
        return count
    raise AssertionError("nothing was raised")


_WAYS: Final[dict[str, Callable[[Store], int]]] = {
    "get": _by_get,
    "run": lambda store: len(store.run(lambda tx: list(tx.get("doc")["items"]))),
    "update": lambda store: len(store.update("doc", lambda _: None)["items"]),
    "raise": _by_an_exception,
}


def none_goes_back(_: Store, outcomes: Sequence[Outcome]) -> None:
    """Whoever looks again sees no less: what a call has returned was written before the next one begins (real time)."""
    for outcome in outcomes:
        assert not isinstance(outcome.error, CommitUnknown), "there was no commit"
        assert outcome.value is None or outcome.value == sorted(outcome.value), "it was shown the past"


def each_once_and_as_told(store: Store, outcomes: Sequence[Outcome]) -> None:
    """Applied once if it returned, never if it raised, and what it saw is a beginning of what came to be."""
    document = store.get("doc")
    assert document is not None
    items = list(document["items"])
    assert len(items) == len(set(items)), "doubled"
    for value, outcome in enumerate(outcomes, 1):
        error = outcome.error
        if error is None:
            seen = list(outcome.value)
            assert seen == items[: len(seen)], "it saw what never was"
            assert value not in items or seen[-1] == value
        elif isinstance(error, LookupError):
            assert value not in items
            seen = error.args[0][:-1]
            assert seen == items[: len(seen)], "it raised because of what never was"
        else:
            cause = error if isinstance(error, CommitUnknown) else error.__cause__
            if not isinstance(cause, CommitUnknown):
                assert value not in items, "it said that nothing was applied"
            elif cause.known is Resolution.COMMITTED:
                assert value in items
