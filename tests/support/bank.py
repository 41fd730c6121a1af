"""Transfers between documents by several processes, in a way that shows each lost or doubled one.

Each process numbers what it does to each account. A transfer that finds another number there than its process left
behind shows that one was lost, or applied twice; and in the end the numbers, the processes' own counts and the total
must agree. The accounts share a hash tag, so the same load runs on one server and on a cluster.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from support.ledger import Tally
from support.twins import open_twin

from txstate import CommitUnknown, NotDurable, Stats, Store, TxStateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

    from txstate import AsyncTx, Durability

TAG: Final = b"bank"
ACCOUNTS: Final = tuple(f"{{bank}}:{number}" for number in range(4))
_PATIENCE: Final = 60.0


@dataclass
class Report:
    """What one process did.

    Attributes:
        name: its own.
        touched: how often it has touched each account, by its own count.
        acknowledged: calls that returned.
        not_durable: calls that raised `NotDurable`; like those that returned, they were applied.
        unknown: calls that raised `CommitUnknown`.
        errors: what else came out of the store.
        lost: touches that it had counted, and that were gone; also of transfers that were not durable.
        doubled: touches that it had not counted, and that were there.
        slowest: the longest call, in seconds.
        stats: of its store.
    """

    name: str
    touched: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0))
    acknowledged: int = 0
    not_durable: int = 0
    unknown: int = 0
    errors: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    slowest: float = 0.0
    stats: Stats | None = None
    _may_be: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0))

    def unsure(self, source: str, target: str, error: CommitUnknown) -> None:
        """A transfer may have happened."""
        self.unknown += 1
        for account in (source, target):
            self._may_be[account] += 1
        assert error.token

    def found(self, before: Mapping[str, int]) -> None:
        """A transfer was made that found these numbers."""
        for account, number in before.items():
            self.compare(account, number)
            self.touched[account] = number + 1

    def compare(self, account: str, number: int) -> None:
        """Compare the number in an account with the own count; what is unknown may be in it."""
        surplus = number - self.touched[account]
        self.lost += max(0, -surplus)
        self.doubled += max(0, surplus - self._may_be[account])
        self._may_be[account] = 0


class Clerks:
    """Processes that transfer until they are told to stop, every other one under asyncio. A context manager that ends them.

    Args:
        url: what each opens a store on.
        count: how many.
        durability: what each asks for.
    """

    def __init__(self, url: str, count: int, *, durability: Durability | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            arguments = (url, number, durability, self._stop, theirs)
            self._processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self._pipes.append(ours)
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            assert pipe.poll(_PATIENCE), "a clerk did not begin"
            pipe.recv()

    def finish(self) -> list[Report]:
        """Let them finish what they are at, and report."""
        self._stop.set()
        reports = []
        for pipe in self._pipes:
            assert pipe.poll(_PATIENCE), "a clerk did not report"
            reports.append(pipe.recv())
        for process in self._processes:
            process.join()
        return reports

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def opened(url: str) -> None:
    """Create the accounts."""
    with Store(url) as store:
        for account in ACCOUNTS:
            store.put(account, {"balance": 1000})


def audit(reports: list[Report], found: Mapping[str, Mapping[str, Any]]) -> Tally:
    """Compare what the processes say with what is there.

    Args:
        reports: of the processes.
        found: the accounts, by key.
    """
    for report in reports:
        for account in ACCOUNTS:
            report.compare(account, found[account].get(report.name, 0))
    acknowledged = sum(report.acknowledged for report in reports)
    failed = sum(len(report.errors) for report in reports)
    unknown = sum(report.unknown for report in reports)
    not_durable = sum(report.not_durable for report in reports)
    total = sum(account["balance"] for account in found.values())
    return Tally(
        attempted=acknowledged + not_durable + failed + unknown,
        acknowledged=acknowledged,
        applied=sum(found[account].get(report.name, 0) for report in reports for account in ACCOUNTS) // 2,
        failed=failed,
        unknown=unknown,
        not_durable=not_durable,
        lost=sum(report.lost for report in reports),
        doubled=sum(report.doubled for report in reports),
        torn=int(total != 1000 * len(ACCOUNTS)),
    )


async def _transfer(tx: AsyncTx, source: str, target: str, amount: int, name: str) -> dict[str, int]:
    """Transfer. Returns how often this process has touched the accounts, as far as they know."""
    before = {}
    for doc, change in zip(await tx.get_many([source, target]), (-amount, amount), strict=True):
        doc.increment("balance", change)
        before[doc.key] = doc.get(name, 0)
        doc[name] = before[doc.key] + 1
    return before


def _work(url: str, number: int, durability: Durability | None, stop: Any, pipe: Connection) -> None:
    name = f"clerk-{number}"
    report, chance = Report(name), random.Random(name)
    with open_twin("async" if number % 2 else "sync", url, durability=durability) as twin:
        twin.get(ACCOUNTS[0])
        pipe.send("ready")
        while not stop.is_set():
            source, target = chance.sample(ACCOUNTS, 2)
            began = time.monotonic()
            try:
                report.found(twin.run(_transfer, source, target, chance.randrange(1, 10), name))
                report.acknowledged += 1
            except NotDurable as error:
                report.found(error.result)
                report.not_durable += 1
            except CommitUnknown as error:
                report.unsure(source, target, error)
            except TxStateError as error:
                report.errors.append(f"{type(error).__name__}: {error}")
            report.slowest = max(report.slowest, time.monotonic() - began)
        report.stats = twin.stats
    pipe.send(report)
