"""What another client can do to a document behind a transaction's back, and the document afterwards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis

KEY: Final = "doc"
BEFORE: Final = {"n": 1, "kept": "yes"}


@dataclass(frozen=True)
class Intruder:
    """One thing that another client does.

    Attributes:
        name: for the test's id.
        act: does it.
        after: the fields of the document then; empty: it is gone.
    """

    name: str
    act: Callable[[redis.Redis], object]
    after: Mapping[str, Any]


def _set_a_field(client: redis.Redis) -> None:
    client.hset(KEY, "n", "10")


def _set_the_same_value(client: redis.Redis) -> None:
    client.hset(KEY, "n", "1")


def _let_it_expire(client: redis.Redis) -> None:
    client.pexpire(KEY, 1)
    time.sleep(0.01)


def _swap_databases(client: redis.Redis) -> None:
    client.swapdb(0, 1)


def _delete_and_recreate(client: redis.Redis) -> None:
    client.delete(KEY)
    client.hset(KEY, mapping={"n": "1", "kept": '"yes"'})


def _replace_by_rename(client: redis.Redis) -> None:
    client.hset("other", mapping={"n": "20"})
    client.rename("other", KEY)


INTRUDERS: Final = [
    Intruder("hset", _set_a_field, {**BEFORE, "n": 10}),
    Intruder("hset-same-value", _set_the_same_value, BEFORE),
    Intruder("expiry", _let_it_expire, {}),
    Intruder("expire", lambda client: client.expire(KEY, 100), BEFORE),
    Intruder("delete", lambda client: client.delete(KEY), {}),
    Intruder("rename-away", lambda client: client.rename(KEY, "elsewhere"), {}),
    Intruder("rename-over", _replace_by_rename, {"n": 20}),
    Intruder("delete-and-recreate", _delete_and_recreate, BEFORE),
    Intruder("flushdb", lambda client: client.flushdb(), {}),
    Intruder("swapdb", _swap_databases, {}),
]
