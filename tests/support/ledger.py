"""Transactions that can be counted afterwards: which were applied, how often, and whether as a whole.

Each transaction has a marker of its own. It appends the marker to a list in each of two documents, and adds to a
counter beside it. A marker that is missing was lost, one that is there twice was doubled; where the documents, or list
and counter, differ, a transaction was applied in part or overwrote another one. The documents are counted through a
plain client, so that the library does not testify for itself. Knows nothing of faults.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import redis

from txstate import AsyncTx, CommitUnknown, NotDurable, ServerRefused, TxStateError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.twins import Twin


class Countable(Protocol):
    """Where a ledger is counted: a server under test."""

    @property
    def unix_url(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of a number of transactions. Tallies can be added up.

    Attributes:
        attempted: calls made.
        acknowledged: calls that returned.
        applied: transactions found in the documents.
        unknown: calls that raised `CommitUnknown`.
        not_durable: calls that raised `NotDurable`; they count as neither acknowledged nor failed.
        failed: calls that raised any other of the library's errors, which says that nothing was applied.
        lost: acknowledged, but not applied.
        doubled: applied more than once.
        ghosts: failed, but applied.
        torn: differences between the two documents, or between list and counter.
    """

    attempted: int = 0
    acknowledged: int = 0
    applied: int = 0
    unknown: int = 0
    not_durable: int = 0
    failed: int = 0
    lost: int = 0
    doubled: int = 0
    ghosts: int = 0
    torn: int = 0

    def __add__(self, other: Tally) -> Tally:
        names = self.__dataclass_fields__
        sums = map(sum, zip(astuple(self), astuple(other), strict=True))
        return Tally(**dict(zip(names, sums, strict=True)))


def all_once(count: int) -> Tally:
    """Every one of so many transactions was acknowledged and applied exactly once."""
    return Tally(attempted=count, acknowledged=count, applied=count)


def total(ledgers: Iterable[Ledger]) -> Tally:
    """The tallies of several ledgers, added up."""
    return sum((ledger.tally() for ledger in ledgers), Tally())


def keys_of(name: str) -> tuple[str, str]:
    """The two documents of the ledger of this name."""
    return f"{name}:1", f"{name}:2"


class Ledger:
    """The transactions made on one pair of documents. Thread-safe.

    Args:
        server: where to count; the transactions may reach it by another way.
        name: of the two documents, with a suffix each.
    """

    def __init__(self, server: Countable, name: str = "ledger") -> None:
        self._server, self.name = server, name
        self.keys = keys_of(name)
        self.acknowledged: set[str] = set()
        self.unknown: dict[str, CommitUnknown] = {}
        self.not_durable: dict[str, NotDurable] = {}
        self.failed: dict[str, BaseException] = {}
        self._markers: list[str] = []
        self._called: dict[str, int] = {}
        self._returned: dict[str, int] = {}
        self._saw: dict[str, dict[str, list[str]]] = {}
        self._lock = threading.Lock()

    def next_marker(self) -> str:
        """Begin a transaction: a marker that no other one has."""
        with self._lock:
            marker = f"{self.name}-{len(self._markers):06}"
            self._markers.append(marker)
            self._called[marker] = time.monotonic_ns()
            return marker

    async def append(self, tx: AsyncTx, marker: str) -> None:
        """The transaction's function."""
        saw = {}
        for doc in await tx.get_many(self.keys):
            # One string for each marker, however often it is read: thousands of readings are kept.
            saw[doc.key] = before = [sys.intern(each) for each in doc.get("markers", [])]
            doc["markers"] = [*before, marker]
            doc.increment("count")
        self._saw[marker] = saw

    def commit(self, twin: Twin) -> str:
        """Make one transaction, and note how it ended. Returns its marker."""
        marker = self.next_marker()
        try:
            twin.run(self.append, marker)
        except CommitUnknown as error:
            self.unknown[marker] = error
        except NotDurable as error:
            self.not_durable[marker] = error
        except TxStateError as error:
            self.failed[marker] = error
        else:
            self.acknowledge(marker)
        return marker

    def acknowledge(self, marker: str) -> None:
        """Note that a transaction's call returned, for who makes it without `commit`."""
        self._returned[marker] = time.monotonic_ns()
        self.acknowledged.add(marker)

    def refusals(self) -> list[str]:
        """The server's codes, of the transactions that it refused."""
        return [error.code for error in self.failed.values() if isinstance(error, ServerRefused)]

    def applied(self) -> list[str]:
        """The markers in the first document, in order."""
        return self._state()[0]

    def tally(self) -> Tally:
        """Count."""
        first, second, *counts = self._state()
        times = Counter(first)
        return Tally(
            attempted=len(self._markers),
            acknowledged=len(self.acknowledged),
            applied=len(times),
            unknown=len(self.unknown),
            not_durable=len(self.not_durable),
            failed=len(self.failed),
            lost=len(self.acknowledged - times.keys()),
            doubled=sum(count > 1 for count in times.values()),
            ghosts=len(self.failed.keys() & times.keys()),
            torn=(first != second) + sum(count != len(first) for count in counts),
        )

    def history(self) -> list[dict[str, Any]]:
        """All transactions for `txstate.testing.check_history`, and a last one that reads what is there now.

        Of an interrupted transaction nothing is known, as of one that ended in `CommitUnknown`.
        """
        first, second, *_ = self._state()
        now = time.monotonic_ns()
        last = [["r", key, markers] for key, markers in zip(self.keys, (first, second), strict=True)]
        return [
            *(self._entry(marker) for marker in self._markers),
            {"id": self.name, "type": "ok", "process": self.name, "call": now, "ret": now, "txn": last},
        ]

    def _entry(self, marker: str) -> dict[str, Any]:
        kind = "ok" if marker in self.acknowledged else "fail" if marker in self.failed else "info"
        saw = self._saw.get(marker, {})
        steps = [
            step
            for key in self.keys
            for step in ([["r", key, saw[key]]] if key in saw else []) + [["append", key, marker]]
        ]
        times = {"call": self._called[marker]}
        if kind == "ok":
            times["ret"] = self._returned[marker]
        return {"id": marker, "type": kind, "process": marker, "txn": steps, **times}

    def _state(self) -> tuple[list[str], list[str], int, int]:
        with redis.Redis.from_url(self._server.unix_url) as client, client.pipeline() as pipeline:
            for key in self.keys:
                pipeline.hmget(key, "markers", "count")
            (first, count), (second, other) = pipeline.execute()
        return json.loads(first or "[]"), json.loads(second or "[]"), int(count or 0), int(other or 0)
