"""Small transactions for the explorer, on one document, that want to share commits; and what must hold of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txstate import CommitUnknown, Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate import Doc, Store
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
