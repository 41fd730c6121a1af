"""One worker process of `stress`: does what the parent's jobs say, and tells what it did.

It talks with its parent over one pipe, and ends when that breaks: no orphan goes on hammering. It knows nothing of
the other workers, and counts nothing but its own calls.
"""

from __future__ import annotations

import gc
import random
from array import array
from collections import Counter
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

from txstate.cli._stress.contenders import GoneError, Notes, contender
from txstate.cli._stress.tally import Fate
from txstate.cli._stress.workloads import operation

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from txstate.cli._stress.contenders import Contender, Name
    from txstate.cli._stress.tally import Log
    from txstate.cli._stress.workloads import Workload

_REPORT: Final = 0.1
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One contender's run.

    Attributes:
        name: the contender.
        workload: what to do.
        url: of the server, or of the proxy before it.
        namespace: prefix of every key.
        seconds: for how long.
        seed: of what is drawn; each worker adds its number.
        workers: how many take part.
    """

    name: Name
    workload: Workload
    url: str
    namespace: str
    seconds: float
    seed: int
    workers: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected, waiting for the start."""


@dataclass(frozen=True, slots=True)
class Go:
    """The parent's answer when all are ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What was done so far."""

    acknowledged: int = 0
    conflicts: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done.

    Attributes:
        log: for the count.
        latencies: of the acknowledged calls, in seconds.
        elapsed: seconds from the start to the end of the last call.
        attempts: as the contender counts them.
        conflicts: the same.
        errors: how often each kind of failure came, with one example.
    """

    log: Log
    latencies: array[float]
    elapsed: float
    attempts: int
    conflicts: int
    errors: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Broken:
    """The worker can't go on.

    Attributes:
        reason: the error.
    """

    reason: str


def serve(pipe: Connection, worker: int) -> None:
    """Take jobs until the parent sends None, or is gone.

    Args:
        pipe: to the parent.
        worker: this one's number, from 0.
    """
    try:
        while (job := pipe.recv()) is not None:
            try:
                answer: Done | Broken = _work(pipe, worker, job)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return
            except GoneError as error:
                answer = Broken(str(error))
            except Exception as error:  # noqa: BLE001 - the parent reports it, and ends
                answer = Broken(f"{type(error).__name__}: {error}")
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _work(pipe: Connection, worker: int, job: Job) -> Done:
    notes = Notes(worker, job.workers)
    runner = contender(job.name, job.url, job.namespace, notes)
    try:
        runner.connect()
        pipe.send(Ready())
        pipe.recv()
        return _load(pipe, runner, notes, job, random.Random(f"{job.seed}/{worker}"))  # noqa: S311 - to be repeatable
    finally:
        runner.close()


def _load(pipe: Connection, runner: Contender, notes: Notes, job: Job, rng: random.Random) -> Done:
    latencies = array("d")
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    unknown = 0
    started = ended = perf_counter()
    report = started + _REPORT
    while ended - started < job.seconds:
        changes = operation(job.workload, rng)
        begun = perf_counter()
        try:
            runner.perform(changes)
        except runner.failures as error:
            fate = runner.fate(error)
            unknown += fate is Fate.UNKNOWN
            counts[type(error).__name__] += 1
            examples.setdefault(type(error).__name__, str(error))
            ended = perf_counter()
        else:
            fate = Fate.ACKNOWLEDGED
            ended = perf_counter()
            latencies.append(ended - begun)
        notes.end(fate, changes)
        if ended > report:
            report = ended + _REPORT
            pipe.send(Progress(acknowledged=len(latencies), conflicts=runner.conflicts, unknown=unknown))
            gc.freeze()  # the log only grows: the collector need not go through it again and again
    return Done(
        log=notes.log,
        latencies=latencies,
        elapsed=ended - started,
        attempts=runner.attempts,
        conflicts=runner.conflicts,
        errors={kind: (number, examples[kind]) for kind, number in counts.items()},
    )
