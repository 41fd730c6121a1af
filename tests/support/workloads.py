"""What processes do to shared documents in the long tests, and whether what they saw and left can be right.

List-append, register, set of unique elements, counter, bank and write skew. A transaction is planned first, so that what
it would write is known even if its process dies; its function returns what it read and wrote. Knows nothing of
processes and faults.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from support.ledger import Tally

from txstate.testing import check_history

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    import redis

    from txstate import AsyncTx
    from txstate.testing import Verdict

EPOCH: Final = 1.0  # seconds after which new lists are begun, so that none gets long


@dataclass(frozen=True, slots=True)
class Entry:
    """One transaction of one process.

    Attributes:
        id: unique.
        process: who ran it.
        workload: its name.
        plan: what it was to do.
        call: when it began, in nanoseconds of the machine's monotonic clock.
        ret: when its call ended; None: its process died.
        type: ``"ok"``, ``"fail"`` or ``"info"``, as for `txstate.testing.check_history`.
        txn: what the last run of its function returned; empty: there was none.
        error: of the call, by the name of its class.
    """

    id: str
    process: int
    workload: str
    plan: list[Any]
    call: int
    ret: int | None = None
    type: str = "info"
    txn: list[Any] = field(default_factory=list)
    error: str = ""


class Workload(ABC):
    """One kind of transaction, on documents of its own."""

    name: ClassVar[str]
    share: ClassVar[int] = 1
    """How often it is chosen, beside the others."""

    def documents(self) -> Mapping[str, Mapping[str, int]]:
        """What there is at the beginning."""
        return {}

    @abstractmethod
    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        """Decide what the transaction of this name is to do."""

    @abstractmethod
    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        """The transaction's function."""

    def tally(self, entries: Sequence[Entry], client: redis.Redis) -> Tally:
        """Count what is lost, doubled or half there, as far as this workload can tell."""
        return Tally()

    def history(self, entries: Sequence[Entry], client: redis.Redis) -> list[dict[str, Any]]:
        """For the checker, if this workload has a history that it can judge."""
        return []


class ListAppend(Workload):
    """Reads of whole lists, and appends to them, over several documents."""

    name = "list-append"
    share = 4

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        steps: list[Any] = []
        for number in range(rng.randint(1, 4)):
            key = f"list:{epoch}:{rng.randrange(4)}"
            steps.append(["r", key] if rng.random() < 0.5 else ["append", key, f"{name}.{number}"])
        return steps

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        txn = []
        for action, key, *element in plan:
            doc = await tx.get(key)
            items = list(doc.get("items", []))
            if element:
                doc["items"] = items + element
            txn.append([action, key, *(element or [items])])
        return txn

    def history(self, entries: Sequence[Entry], client: redis.Redis) -> list[dict[str, Any]]:
        planned = [[step for step in entry.plan if step[0] == "append"] for entry in entries]
        keys = {step[1] for entry in entries for step in entry.plan}
        last = [["r", key, _items(client, key)] for key in sorted(keys)]
        return _history(
            entries, [entry.txn or plan for entry, plan in zip(entries, planned, strict=True)], last
        )


class Register(Workload):
    """Reads, and writes of unique values, each over the value that was read.

    A write names the value before it, so each value stands for the list of all values up to it.
    """

    name = "register"

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        return [f"register:{epoch}:{rng.randrange(2)}", name if rng.random() < 0.7 else None]

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        key, value = plan
        doc = await tx.get(key)
        before = doc.get("value")
        if value is not None:
            doc["value"] = value
        return [key, before, value]

    def history(self, entries: Sequence[Entry], client: redis.Redis) -> list[dict[str, Any]]:
        parents = {entry.txn[2]: entry.txn[1] for entry in entries if entry.txn}

        def values(last: str | None) -> list[str]:
            found: dict[str, None] = {}
            while last is not None and last not in found:
                found[last] = None
                last = parents[last]
            # A value that was written over itself stands there twice, for the checker to see.
            return [*([] if last is None else [last]), *reversed(found)]

        def steps(entry: Entry) -> list[Any]:
            if not entry.txn:
                return [["append", *entry.plan]] if entry.plan[1] is not None else []
            key, before, value = entry.txn
            return [["r", key, values(before)], *([["append", key, value]] if value is not None else [])]

        keys = sorted({entry.plan[0] for entry in entries})
        last = [["r", key, values(json.loads(client.hget(key, "value") or "null"))] for key in keys]
        return _history(entries, [steps(entry) for entry in entries], last)


class Elements(Workload):
    """Unique elements, added without being read afterwards: losses and doubles can be counted one by one."""

    name = "set"

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        return [f"set:{epoch}:{rng.randrange(2)}", name]

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        key, element = plan
        doc = await tx.get(key, ["items"])
        doc["items"] = [*doc.get("items", []), element]
        return plan

    def tally(self, entries: Sequence[Entry], client: redis.Redis) -> Tally:
        keys = {entry.plan[0] for entry in entries}
        times = Counter(element for key in keys for element in _items(client, key))
        return Tally(
            lost=sum(times[entry.plan[1]] == 0 for entry in entries if entry.type == "ok"),
            doubled=sum(count > 1 for count in times.values()),
            ghosts=sum(times[entry.plan[1]] for entry in entries if entry.type == "fail"),
        )


class Count(Workload):
    """One counter: each number is returned to one caller, and the last one is as many as there were."""

    name = "counter"

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        return []

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        return [(await tx.get("counter")).increment("n")]

    def tally(self, entries: Sequence[Entry], client: redis.Redis) -> Tally:
        final = _number(client, "counter", "n")
        numbers = [entry.txn[0] for entry in entries if entry.type == "ok"]
        possible = len(numbers) + sum(entry.type == "info" for entry in entries)
        return Tally(
            lost=max(len(numbers) - len(set(numbers)), len(numbers) - final, 0),
            doubled=max(final - possible, 0),
        )


class Bank(Workload):
    """Transfers between accounts, and audits: the money stays the same."""

    name = "bank"
    share = 2
    accounts: Final = tuple(f"account:{number}" for number in range(5))

    def documents(self) -> Mapping[str, Mapping[str, int]]:
        return {account: {"balance": 100} for account in self.accounts}

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        return [] if rng.random() < 0.3 else [*rng.sample(self.accounts, 2), rng.randint(1, 50)]

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        if not plan:
            return [sum(doc["balance"] for doc in await tx.get_many(self.accounts))]
        source, target, amount = plan
        for key, by in ((source, -amount), (target, amount)):
            (await tx.get(key)).increment("balance", by)
        return []

    def tally(self, entries: Sequence[Entry], client: redis.Redis) -> Tally:
        final = sum(_number(client, account, "balance") for account in self.accounts)
        audits = [entry.txn[0] for entry in entries if entry.type == "ok" and not entry.plan]
        return Tally(torn=sum(total != 100 * len(self.accounts) for total in [*audits, final]))


class Skew(Workload):
    """Two documents, of which each transaction reads both and writes one: their sum decides, and must be right."""

    name = "write skew"
    share = 2

    def documents(self) -> Mapping[str, Mapping[str, int]]:
        return {f"skew:{pair}:{side}": {"n": 60} for pair in range(3) for side in "xy"}

    def plan(self, rng: random.Random, name: str, epoch: int) -> list[Any]:
        return [rng.randrange(3), rng.randrange(2)]

    async def run(self, tx: AsyncTx, plan: list[Any]) -> list[Any]:
        pair, side = plan
        docs = await tx.get_many([f"skew:{pair}:x", f"skew:{pair}:y"])
        docs[side]["n"] += -100 if sum(doc["n"] for doc in docs) >= 100 else 100
        return [sum(doc["n"] for doc in docs)]

    def tally(self, entries: Sequence[Entry], client: redis.Redis) -> Tally:
        final = [sum(_number(client, f"skew:{pair}:{side}", "n") for side in "xy") for pair in range(3)]
        seen = [entry.txn[0] for entry in entries if entry.type == "ok"]
        return Tally(torn=sum(total not in {20, 120} for total in [*seen, *final]))


WORKLOADS: Final[tuple[Workload, ...]] = (ListAppend(), Register(), Elements(), Count(), Bank(), Skew())


def judge(entries: Sequence[Entry], client: redis.Redis) -> tuple[Tally, Verdict]:
    """Count all workloads, and have the checker judge the histories of those that it can judge, as one."""
    total = Tally(
        attempted=len(entries),
        acknowledged=sum(entry.type == "ok" for entry in entries),
        unknown=sum(entry.error == "CommitUnknown" for entry in entries),
        failed=sum(entry.type == "fail" for entry in entries),
    )
    history: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        own = [entry for entry in entries if entry.workload == workload.name]
        total += workload.tally(own, client)
        history += workload.history(own, client)
    return total, check_history(history)


def _items(client: redis.Redis, key: str) -> list[str]:
    found: list[str] = json.loads(client.hget(key, "items") or "[]")
    return found


def _number(client: redis.Redis, key: str, name: str) -> int:
    found: int = json.loads(client.hget(key, name) or "0")
    return found


def _history(entries: Iterable[Entry], txns: Iterable[list[Any]], last: list[Any]) -> list[dict[str, Any]]:
    """Entries as the checker takes them, and what is there in the end as a last read."""
    history: list[dict[str, Any]] = [
        {"id": each.id, "type": each.type, "process": each.process, "call": each.call, "txn": txn}
        | ({"ret": each.ret} if each.ret is not None else {})
        for each, txn in zip(entries, txns, strict=True)
    ]
    end = max((each["ret"] for each in history if "ret" in each), default=0) + 1
    name = f"the end of {last[0][1] if last else 'nothing'}"
    return [*history, {"id": name, "type": "ok", "process": name, "call": end, "ret": end, "txn": last}]
