"""The worker processes, seen from their parent: kept over the whole run, started together, ended for certain."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks.load import Done, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.load import Job

_START: Final = 90.0
"""Seconds for workers to import, connect and warm up; 32 at once may have one CPU."""
_PATIENCE: Final = 60.0
"""Seconds that a last operation may take when the time is up."""
_END: Final = 2.0


class PeerError(Exception):
    """A peer failed; the message says how."""


class Crew:
    """Worker processes, made as they are needed. A context manager that leaves none behind."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.load"])  # 32 processes would import for seconds
        self._stop: Any = self._context.RawValue("i", 0)
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection[Any, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """Let as many workers as there are jobs do them, from a common start.

        Returns:
            What each worker did.

        Raises:
            PeerError: one failed, died, or does not come back. The crew is made anew for the next run.
        """
        try:
            while len(self._pipes) < len(jobs):
                self._hire()
            pipes = self._pipes[: len(jobs)]
            self._stop.value = 0
            for pipe, job in zip(pipes, jobs, strict=True):
                pipe.send(job)
            self._collect(pipes, str, max(job.warm_up for job in jobs) + _START)
            begun = time.perf_counter()  # the same clock in all processes
            for pipe in pipes:
                pipe.send(begun)
            return self._collect(pipes, Done, max(job.seconds for job in jobs) + _PATIENCE)
        except PeerError:
            self.renew()
            raise

    def _collect(
        self, pipes: Sequence[connection.Connection[Any, Any]], kind: type[Any], seconds: float
    ) -> list[Any]:
        """One answer of this kind from each; ``"ready"`` is the only str that is no error."""
        deadline = time.monotonic() + seconds
        answers: dict[Any, Any] = {}
        while len(answers) < len(pipes):
            waiting = [pipe for pipe in pipes if pipe not in answers]
            ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise PeerError(
                    f"{len(waiting)} of {len(pipes)} workers do not come back after {seconds:.0f} s"
                )
            for pipe in waiting:
                if pipe in ready:
                    answers[pipe] = self._receive(pipe, kind)
        return [answers[pipe] for pipe in pipes]

    def _receive(self, pipe: connection.Connection[Any, Any], kind: type[Any]) -> Any:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise PeerError("a worker process died") from error
        if not isinstance(answer, kind) or (kind is str and answer != "ready"):
            raise PeerError(str(answer))
        return answer

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._stop), daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def renew(self) -> None:
        """End all workers, by request, by SIGTERM, by SIGKILL; the next run gets new ones."""
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
                    process.join(_END)
        self._pipes.clear()
        self._processes.clear()
