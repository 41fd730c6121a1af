"""Small things that tests do with a store's documents: count in them, copy the store, come between."""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any, TypeVar, cast

from txstate import Doc

if TYPE_CHECKING:
    import redis

    from txstate import AsyncStore, Store

T = TypeVar("T")

add_one = functools.partial(Doc.increment, field="n")
"""A change that another process can unpickle."""


def n_of(store: Store, key: str = "k") -> Any:
    snapshot = store.get(key)
    return None if snapshot is None else snapshot["n"]


async def async_n_of(store: AsyncStore, key: str = "k") -> Any:
    snapshot = await store.get(key)
    return None if snapshot is None else snapshot["n"]


def meddled(doc: Doc, client: redis.Redis) -> None:
    """A change that always loses against somebody else's."""
    client.hincrby(doc.key, "theirs")
    doc["ours"] = 1


def copied(thing: T) -> T:
    return cast("T", pickle.loads(pickle.dumps(thing)))  # noqa: S301 - our own pickle
