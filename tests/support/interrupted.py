"""A process whose transactions are interrupted by a signal: `python -m support.interrupted URL UNIX_URL ROUNDS SEED`.

KeyboardInterrupt is raised in the main thread only, at any bytecode, so this needs a process of its own. It prints what
each call said, and what was applied, as one JSON object.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from support.ledger import Ledger
from support.twins import SyncTwin

import txstate
from txstate import CommitUnknown, Resolution, Retry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_STEP = 1.05
"""By which the time is changed in which a signal comes: as many calls return as don't, however busy the machine becomes."""

_LIBRARY = str(Path(txstate.__file__).parent)


@dataclass(frozen=True)
class Address:
    """Where the ledger is counted."""

    unix_url: str


class Outside(KeyboardInterrupt):
    """The signal came when the library had returned already, or had not been called yet."""


def main(url: str, unix_url: str, rounds: int, seed: int) -> None:
    """Interrupt so many transactions, more if none was where it matters most; then see whether the store still works."""
    rng, ledger = random.Random(seed), Ledger(Address(unix_url))
    said: dict[str, list[str]] = {"innocent": [], "committed": [], "unknown": []}
    returned: list[str] = []
    signal.signal(signal.SIGALRM, _interrupt)
    with SyncTwin(url, max_connections=2, retry=Retry(deadline=2)) as twin:
        longest = 2 * _seconds(lambda: ledger.commit(twin))
        while (done := sum(map(len, said.values()))) < rounds or (
            not said["committed"] and done < 10 * rounds
        ):
            # With its connection made, a transaction is interrupted where it matters.
            twin.get(ledger.keys[0])
            marker = ledger.next_marker()
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest))
                twin.run(ledger.append, marker)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Outside:
                continue
            except KeyboardInterrupt as interruption:
                said[_verdict(interruption.__cause__)].append(marker)
                longest *= _STEP
            else:
                returned.append(marker)
                longest /= _STEP
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: ledger.commit(twin), range(20)))
    tally = ledger.tally()
    report = {
        **said,
        "returned": returned,
        "applied": ledger.applied(),
        "torn": tally.torn,
        "uninterrupted": tally.acknowledged,
    }
    print(json.dumps(report))  # noqa: T201 - the report to the test that started it


def _interrupt(_: int, frame: FrameType | None) -> NoReturn:
    inside = False
    while frame is not None:  # in the end it refers to none: a cycle would keep what the library lets go of
        inside = inside or frame.f_code.co_filename.startswith(_LIBRARY)
        frame = frame.f_back
    raise KeyboardInterrupt if inside else Outside


def _seconds(call: Callable[[], object]) -> float:
    """How long a call takes, on a machine as busy as this one."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _verdict(cause: BaseException | None) -> str:
    # Python itself chains some, when it is interrupted inside of a codec.
    if not isinstance(cause, CommitUnknown):
        return "innocent"
    return "committed" if cause.known is Resolution.COMMITTED else "unknown"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
