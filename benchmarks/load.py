"""What one worker process does: one peer's operations, back to back, until the time is up.

Counts what was acknowledged, and measures each call from outside. Knows the peers' two protocols, sync and asyncio,
and nothing of other workers.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final, Protocol

from benchmarks import machine
from benchmarks.peers import PEERS
from benchmarks.peers.base import AsyncPeer, Peer
from benchmarks.workloads import Ledger, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Op

_WARM: Final = 5
"""Operations that a warm-up should have: libraries import, look and cache in their first ones."""
_WARM_LONGER: Final = 0.3
"""Seconds by which a warm-up may take longer for that."""
_TOO_MANY: Final = 1000
"""Errors one after the other that make a peer broken rather than unlucky."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One worker's part of a measurement.

    Attributes:
        peer: its name.
        place: where its data is.
        workload: what to do.
        seconds: for how long to measure.
        warm_up: seconds of the same before that, and a little longer where so few operations were done; 0: none.
        cpus: where to run; none: anywhere.
        seed: of the stream of operations.
        tasks: of an asyncio peer, at once.
        thoughts: stop after as many operations, and stop the other workers too; 0: until the time is up.
        frugal: give freed memory back at once.
    """

    peer: str
    place: Place
    workload: Workload
    seconds: float
    warm_up: float
    cpus: tuple[int, ...]
    seed: str
    tasks: int = 1
    thoughts: int = 0
    frugal: bool = False


@dataclass(slots=True)
class Done:
    """What a worker did.

    Attributes:
        completed: operations of each task that ended within the time.
        latencies: seconds of each acknowledged operation, those that ended late included.
        ledger: what was acknowledged, the warm-up included.
        attempts: how often changes were tried.
        errors: how often each kind came, and one example of it.
        thoughts: seconds and attempts of each operation, where `Job.thoughts` asked for it.
        peak_bytes: the most that the process grew by; None: can't be told here.
        cpu: seconds that the process had of a processor.
    """

    completed: list[int] = field(default_factory=list)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    ledger: Ledger = field(default_factory=Ledger)
    attempts: int = 0
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    thoughts: list[tuple[float, int]] = field(default_factory=list)
    peak_bytes: int | None = None
    cpu: float = 0.0


class Flag(Protocol):
    """Shared by all workers: whether to stop."""

    value: int


def work(job: Job, start: Callable[[], float], stop: Flag) -> Done:
    """Do a job.

    Args:
        job: which.
        start: called when warm; returns when all workers are, and tells the time, by `perf_counter`, of their common
            start: who gets the CPU late has done less in the same time.
        stop: set by a worker with `Job.thoughts` when it is done.
    """
    kind = PEERS[job.peer]
    if job.frugal:
        machine.give_back()
    if issubclass(kind, AsyncPeer):
        return asyncio.run(_work_async(kind(job.place), job, start, stop))
    assert issubclass(kind, Peer)  # noqa: S101 - there are these two
    with kind(job.place) as peer:
        tally = _Tally(peer, job)
        if job.warm_up:
            until = perf_counter() + job.warm_up
            _hammer(peer, tally, until, stop)
            if tally.operations < _WARM:
                _hammer(peer, tally, until + _WARM_LONGER, stop, most=_WARM)
        tally.begin()
        _hammer(peer, tally, start() + job.seconds, stop)
        return tally.result()


async def _work_async(peer: AsyncPeer, job: Job, start: Callable[[], float], stop: Flag) -> Done:
    async with peer:
        tally = _Tally(peer, job)
        if job.warm_up:
            until = perf_counter() + job.warm_up
            warm = [_hammer_async(peer, tally, until, stop, task=task) for task in range(job.tasks)]
            await asyncio.gather(*warm)
            if tally.operations < _WARM:
                await _hammer_async(peer, tally, until + _WARM_LONGER, stop, most=_WARM)
        tally.begin()
        until = start() + job.seconds
        await asyncio.gather(
            *(_hammer_async(peer, tally, until, stop, task=task) for task in range(job.tasks))
        )
        return tally.result()


class _Tally:
    """What is counted while the load runs.

    Attributes:
        ops: what to do, without end.
        operations: how many were acknowledged so far.
    """

    def __init__(self, peer: Peer | AsyncPeer, job: Job) -> None:
        self.operations = 0
        self.ops: Iterator[Op] = itertools.cycle(job.workload.stream(job.seed))
        self._peer, self._job = peer, job
        self._measuring = False
        self._before = 0
        self._done = Done(completed=[0] * job.tasks)
        self._memory: int | None = None
        self._cpu = 0.0
        self._failing = 0
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    @property
    def full(self) -> bool:
        """Whether enough has been thought."""
        return 0 < self._job.thoughts <= len(self._done.thoughts)

    def begin(self) -> None:
        """The warm-up is over: from now on it counts."""
        self._measuring = True
        self._before = self._peer.attempts
        self._memory = machine.memory()
        self._cpu = process_time()

    def done(self, op: Op, begun: float, ended: float, until: float, task: int = 0) -> None:
        """Enter an acknowledged operation."""
        done = self._done
        self.operations += 1
        self._failing = 0
        if op.by:
            done.ledger.enter(op)
        if not self._measuring:
            return
        done.latencies.append(ended - begun)
        if ended <= until:
            done.completed[task] += 1
        if self._job.thoughts:
            before = sum(attempts for _, attempts in done.thoughts)
            done.thoughts.append((ended - begun, self._peer.attempts - self._before - before))

    def failed(self, error: Exception) -> None:
        """Enter an operation that was not acknowledged.

        Raises:
            RuntimeError: nothing but errors comes.
        """
        kind = type(error).__name__
        self._errors[kind] += 1
        self._examples.setdefault(kind, str(error))
        self._failing += 1
        if self._failing >= _TOO_MANY:
            raise RuntimeError(f"{_TOO_MANY} errors, such as {kind}: {error}") from error

    def result(self) -> Done:
        """All of it."""
        self._done.cpu = process_time() - self._cpu
        self._done.attempts = self._peer.attempts - self._before
        if self._memory is not None:
            self._done.peak_bytes = machine.peak_memory() - self._memory
        self._done.errors = {kind: (number, self._examples[kind]) for kind, number in self._errors.items()}
        return self._done


def _hammer(peer: Peer, tally: _Tally, until: float, stop: Flag, most: int = sys.maxsize) -> None:
    ops = tally.ops
    while (begun := perf_counter()) < until and tally.operations < most and not stop.value:
        op = next(ops)
        try:
            if op.by:
                peer.change(op)
            else:
                peer.read(op)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is counted, and shown
            tally.failed(error)
            continue
        tally.done(op, begun, perf_counter(), until)
        if tally.full:
            stop.value = 1


async def _hammer_async(
    peer: AsyncPeer, tally: _Tally, until: float, stop: Flag, *, task: int = 0, most: int = sys.maxsize
) -> None:
    ops = tally.ops
    while (begun := perf_counter()) < until and tally.operations < most and not stop.value:
        op = next(ops)
        try:
            if op.by:
                await peer.change(op)
            else:
                await peer.read(op)
        except Exception as error:  # noqa: BLE001 - as above
            tally.failed(error)
            continue
        tally.done(op, begun, perf_counter(), until, task)


def serve(pipe: Any, stop: Flag) -> None:
    """A worker process's life: jobs from the parent until it sends None, or is gone.

    Args:
        pipe: to the parent. For each job it gets ``"ready"``, answers with the time of the start, and gets `Done` or the error as a str.
        stop: shared by all workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers in order
    try:
        while (job := pipe.recv()) is not None:
            machine.pin(0, job.cpus)

            def start() -> float:
                pipe.send("ready")
                begun: float = pipe.recv()
                return begun

            try:
                answer: Done | str = work(job, start, stop)
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001 - the parent reports it
                answer = f"{type(error).__name__}: {error}"
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
