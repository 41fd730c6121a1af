"""A transaction over two documents of which the second can't be written: the first must stay as it was, too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
from support.wire import client_of

from txstate import TxStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.servers import ServerHandle
    from support.twins import Twin

    from txstate import AsyncTx, Doc

E = TypeVar("E", bound=TxStateError)

GOOD: Final = "good"
BAD: Final = "bad"


@contextmanager
def good_and_bad(server: ServerHandle) -> Iterator[redis.Redis]:
    """The two documents, and another client to look at them."""
    with client_of(server.unix_url) as client:
        client.hset(GOOD, mapping={"n": "1", "list": "[1]"})
        client.hset(BAD, mapping={"n": "1", "text": '"one"', "list": "[1]"})
        yield client


def refused(twin: Twin, admin: redis.Redis, error: type[E], spoil: Callable[[Doc], object]) -> E:
    """Change the good document, spoil the bad one, and see that none was written, at the first attempt.

    Returns:
        The error, of exactly that class.
    """
    calls = 0

    async def body(tx: AsyncTx) -> None:
        nonlocal calls
        calls += 1
        (await tx.get(GOOD)).increment("n")
        spoil(await tx.get(BAD))

    before = state(admin)
    with pytest.raises(error) as caught:
        twin.run(body)
    assert type(caught.value) is error
    assert state(admin) == before
    assert calls == 1
    assert twin.update(GOOD, lambda doc: doc.update(n=1)).to_dict() == {"n": 1, "list": [1]}  # still usable
    return caught.value


def nothing(_: Doc) -> None:
    """Spoil nothing: reading the document must fail already."""


def state(admin: redis.Redis) -> dict[str, Any]:
    """All keys but the library's own, with their contents."""
    names = (name.decode() for name in admin.scan_iter())
    return {name: admin.dump(name) for name in names if not name.startswith("__txstate__:")}
