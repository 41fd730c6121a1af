"""The three ways to make the same change: txstate, plain GET/SET, and redis-py's own `transaction`.

Each reads what its workload changes, takes an id for the write, notes it, and writes amount and id together. What
they don't share is the point of the comparison.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import redis

from txstate import CommitUnknown, Store, TxStateError
from txstate.cli._servers import client_of
from txstate.cli._stress.tally import Fate, Log, Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate import Tx
    from txstate.cli._stress.workloads import Change


class Name(enum.StrEnum):
    """Who competes; the values are the keys of the JSON output."""

    TXSTATE = "txstate"
    GET_SET = "get_set"
    TRANSACTION = "redis_py_transaction"

    @property
    def label(self) -> str:
        """How it is called in tables."""
        return _TITLES[self]


_TITLES: Final = {
    Name.TXSTATE: "txstate",
    Name.GET_SET: "GET/SET",
    Name.TRANSACTION: "redis-py transaction",
}


class Notes:
    """A worker's log while it is written. Ids are unique over all workers, and never used again.

    Args:
        worker: its number, from 0.
        workers: how many there are.
    """

    def __init__(self, worker: int, workers: int) -> None:
        self.log = Log()
        self._next, self._step = worker + 1, workers

    def write(self, changes: Sequence[Change], parents: Sequence[int]) -> int:
        """Note one run of a function, before it can have an effect; returns the id to leave in each cell."""
        identity, self._next = self._next, self._next + self._step
        operation = len(self.log.operations)
        for change, parent in zip(changes, parents, strict=True):
            self.log.writes.append(Write(operation, change.cell, identity, parent, change.by))
        return identity

    def end(self, fate: Fate, changes: Sequence[Change]) -> None:
        """Note what the caller of this operation was told."""
        self.log.operations.append((fate, tuple(change.cell for change in changes)))


class GoneError(Exception):
    """A document that the run has made is not there any more."""

    def __init__(self) -> None:
        super().__init__(
            "the documents are gone: the server has been restarted without its data, or somebody has removed them"
        )


class Contender(Protocol):
    """One connection's worth of a way to make changes.

    Attributes:
        failures: what `perform` may raise when the server or the network is to blame.
        attempts: how often it tried.
        conflicts: how many attempts met, or were taken to have met, another writer.
    """

    failures: type[Exception]

    @property
    def attempts(self) -> int: ...

    @property
    def conflicts(self) -> int: ...

    def connect(self) -> None:
        """Connect, so that the start is the same for all."""

    def perform(self, changes: Sequence[Change]) -> None:
        """Make one operation's changes; returning acknowledges them."""

    def fate(self, error: Exception) -> Fate:
        """What a failure tells the caller."""

    def close(self) -> None:
        """Disconnect."""


def contender(name: Name, url: str, namespace: str, notes: Notes) -> Contender:
    """Make one; connects later.

    Args:
        name: which.
        url: of the server, or of the proxy before it.
        namespace: prefix of every key.
        notes: where it notes its writes.
    """
    kinds: dict[Name, type[TxState | GetSet | Transaction]] = {
        Name.TXSTATE: TxState,
        Name.GET_SET: GetSet,
        Name.TRANSACTION: Transaction,
    }
    return kinds[name](url, namespace, notes)


class TxState:
    """A transaction of this library, with its default settings."""

    failures: type[Exception] = TxStateError

    def __init__(self, url: str, namespace: str, notes: Notes) -> None:
        self._store = Store(url, namespace=namespace)
        self._notes = notes

    @property
    def attempts(self) -> int:
        return self._store.stats().attempts

    @property
    def conflicts(self) -> int:
        return self._store.stats().conflicts

    def connect(self) -> None:
        self._store.get("none")

    def perform(self, changes: Sequence[Change]) -> None:
        self._store.run(self._change, changes)

    def _change(self, tx: Tx, changes: Sequence[Change]) -> None:
        docs = tx.get_many([change.key for change in changes])
        identity = self._notes.write(
            changes, [_parent(doc, change) for doc, change in zip(docs, changes, strict=True)]
        )
        for doc, change in zip(docs, changes, strict=True):
            doc[change.mark] = identity
            if change.amount is not None:
                doc[change.amount] += change.by

    def fate(self, error: Exception) -> Fate:
        return Fate.UNKNOWN if isinstance(error, CommitUnknown) else Fate.FAILED

    def close(self) -> None:
        self._store.close()


class _RedisPy:
    """What both ways with redis-py have in common: a client with its default settings."""

    failures: type[Exception] = redis.RedisError

    def __init__(self, url: str, namespace: str, notes: Notes) -> None:
        self._client = client_of(url, decode_responses=True)
        self._namespace, self._notes = namespace, notes
        self.attempts = self.conflicts = 0

    def connect(self) -> None:
        self._client.ping()

    def fate(self, _error: Exception) -> Fate:
        """Whatever it raises may have been sent: it doesn't say."""
        return Fate.UNKNOWN

    def close(self) -> None:
        self._client.close()


class GetSet(_RedisPy):
    """Read the object, change it, save it: no transaction, and a save writes the object as it was read."""

    def perform(self, changes: Sequence[Change]) -> None:
        self.attempts += 1
        client: Any = self._client
        objects = [client.hgetall(self._namespace + change.key) for change in changes]
        identity = self._notes.write(
            changes, [_parent(found, change) for found, change in zip(objects, changes, strict=True)]
        )
        for found, change in zip(objects, changes, strict=True):
            found[change.mark] = identity
            if change.amount is not None:
                found[change.amount] = int(found[change.amount]) + change.by
            client.hset(self._namespace + change.key, mapping=found)


class Transaction(_RedisPy):
    """`Redis.transaction` as its documentation shows it: read under WATCH, then MULTI, the writes, and its EXEC."""

    def perform(self, changes: Sequence[Change]) -> None:
        runs = 0

        def change_all(pipe: Any) -> None:
            nonlocal runs
            runs += 1
            objects = [pipe.hgetall(self._namespace + change.key) for change in changes]
            identity = self._notes.write(
                changes, [_parent(found, change) for found, change in zip(objects, changes, strict=True)]
            )
            pipe.multi()
            for found, change in zip(objects, changes, strict=True):
                new = {change.mark: identity}
                if change.amount is not None:
                    new[change.amount] = int(found[change.amount]) + change.by
                pipe.hset(self._namespace + change.key, mapping=new)

        try:
            self._client.transaction(change_all, *(self._namespace + change.key for change in changes))
        finally:
            self.attempts += runs
            self.conflicts += max(0, runs - 1)


def _parent(found: Mapping[str, Any], change: Change) -> int:
    """The id of the write that this one follows.

    Raises:
        GoneError: there is none.
    """
    try:
        return int(found[change.mark])
    except KeyError:
        raise GoneError from None
