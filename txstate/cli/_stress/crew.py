"""The worker processes, seen from their parent: started together, kept in step, and ended for certain.

Owns processes and pipes. What the workers do is their jobs' business.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final, Self

from txstate.cli._options import CommandError
from txstate.cli._stress.worker import Broken, Done, Go, Progress, Ready, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from txstate.cli._stress.worker import Job

_START: Final = 30.0
"""Seconds for all workers to start and to connect."""
_PATIENCE: Final = 30.0
"""Seconds that a last call may take when the time is up; a transaction's deadline is 10."""
_END: Final = 2.0
"""Seconds for a worker to end by itself."""


class Crew:
    """Some worker processes. A context manager that starts them, and leaves none behind.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[connection.Connection[Any, Any]] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        try:
            with _uninterrupted():
                for worker in range(self._workers):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=serve, args=(theirs, worker), name=f"txstate-stress-{worker}", daemon=True
                    )
                    process.start()
                    theirs.close()
                    self._pipes.append(ours)
                    self._processes.append(process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(
        self, job: Job, *, started: Callable[[], object], progress: Callable[[Progress], object]
    ) -> list[Done]:
        """Let all workers do the job, from a common start.

        Args:
            job: what to do.
            started: called when all are connected, just before the start.
            progress: called with the sum of what all have done so far.

        Returns:
            What each worker did.

        Raises:
            CommandError: a worker failed, died, or does not come back.
        """
        self._tell(job)
        for _ in self._collect(Ready, _START):
            pass
        started()
        self._tell(Go())
        done: dict[int, Done] = {}
        latest = [Progress()] * self._workers
        for worker, message in self._collect(Done, job.seconds + _PATIENCE):
            if isinstance(message, Done):
                done[worker] = message
            else:
                latest[worker] = message
                progress(_sum(latest))
        return [done[worker] for worker in range(self._workers)]

    def _tell(self, message: Job | Go) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # one that has died is missed when its answer is waited for
                pipe.send(message)

    def _collect(self, last: type[Ready | Done], seconds: float) -> Iterator[tuple[int, Any]]:
        """Yield what the workers send, until each has sent its last message of this kind."""
        deadline = time.monotonic() + seconds
        pending = dict(enumerate(self._pipes))
        while pending:
            readable = connection.wait(pending.values(), max(0.0, deadline - time.monotonic()))
            if not readable:
                raise CommandError(f"worker {min(pending)} does not come back after {seconds:.0f} s")
            for worker in [worker for worker, pipe in pending.items() if pipe in readable]:
                message = self._receive(worker)
                if isinstance(message, last):
                    del pending[worker]
                yield worker, message

    def _receive(self, worker: int) -> Any:
        try:
            message = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._processes[worker]
            process.join(_END)
            raise CommandError(
                f"worker {worker} died (exit code {process.exitcode}), and with it what it knew: nothing can be counted"
            ) from error
        if isinstance(message, Broken):
            raise CommandError(f"worker {worker} failed: {message.reason}")
        return message

    def _end(self) -> None:
        """End all workers, by request, by SIGTERM, by SIGKILL."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it may have ended already
                pipe.send(None)
            pipe.close()
        deadline = time.monotonic() + _END
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for end in ("terminate", "kill"):
            for process in self._processes:
                if process.is_alive():
                    getattr(process, end)()
            for process in self._processes:
                process.join(_END)


def _sum(parts: Sequence[Progress]) -> Progress:
    return Progress(
        acknowledged=sum(part.acknowledged for part in parts),
        conflicts=sum(part.conflicts for part in parts),
        unknown=sum(part.unknown for part in parts),
    )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start children that ignore Ctrl-C: the terminal sends it to them too, and their parent ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
