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

from txstate import Stats, Store, Tx, TxStateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

TAG: Final = b"bank"
ACCOUNTS: Final = tuple(f"{{bank}}:{number}" for number in range(4))
_PATIENCE: Final = 60.0


@dataclass
class Report:
    """What one process did.

    Attributes:
        name: its own.
        touched: how often, by account.
        acknowledged: calls that returned.
        errors: those that came out of the store.
        slips: transfers that found another number than was left behind.
        slowest: the longest call, in seconds.
        stats: of its store.
    """

    name: str
    touched: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0))
    acknowledged: int = 0
    errors: list[str] = field(default_factory=list)
    slips: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stats: Stats | None = None


class Clerks:
    """Processes that transfer until they are told to stop. A context manager that ends them.

    Args:
        url: what each opens a store on.
        count: how many.
        seed: of the accounts that they choose.
    """

    def __init__(self, url: str, count: int, *, seed: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            arguments = (url, f"clerk-{number}", seed, self._stop, theirs)
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
    lost = doubled = 0
    for report in reports:
        for account, count in report.touched.items():
            surplus = found[account].get(report.name, 0) - count
            lost, doubled = lost + max(0, -surplus), doubled + max(0, surplus)
        for slip in report.slips:
            lost, doubled = lost + slip.startswith("-"), doubled + slip.startswith("+")
    acknowledged = sum(report.acknowledged for report in reports)
    total = sum(account["balance"] for account in found.values())
    return Tally(
        attempted=acknowledged + sum(len(report.errors) for report in reports),
        acknowledged=acknowledged,
        applied=sum(found[account].get(report.name, 0) for report in reports for account in ACCOUNTS) // 2,
        failed=sum(len(report.errors) for report in reports),
        lost=lost,
        doubled=doubled,
        torn=total != 1000 * len(ACCOUNTS),
    )


def _transfer(tx: Tx, source: str, target: str, amount: int, report: Report) -> list[str]:
    slips = []
    for doc, change in zip(tx.get_many([source, target]), (-amount, amount), strict=True):
        doc.increment("balance", change)
        surplus = doc.get(report.name, 0) - report.touched[doc.key]
        if surplus:
            slips.append(f"{surplus:+} on {doc.key}")
        doc[report.name] = doc.get(report.name, 0) + 1
    return slips


def _work(url: str, name: str, seed: int, stop: Any, pipe: Connection) -> None:
    report, chance = Report(name), random.Random(f"{name} {seed}")
    with Store(url) as store:
        store.get(ACCOUNTS[0])
        pipe.send("ready")
        while not stop.is_set():
            source, target = chance.sample(ACCOUNTS, 2)
            began = time.monotonic()
            try:
                slips = store.run(_transfer, source, target, chance.randrange(1, 10), report)
            except TxStateError as error:
                report.errors.append(f"{type(error).__name__}: {error}")
            else:
                report.acknowledged += 1
                report.slips += slips
                for account in (source, target):
                    report.touched[account] += 1
            report.slowest = max(report.slowest, time.monotonic() - began)
        report.stats = store.stats()
    pipe.send(report)
