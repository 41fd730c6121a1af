"""Processes that run the workloads on one server until they are told to stop, or die, and what each of them saw.

Each writes down what it is about to do before it does it, so that one that is killed leaves its history behind:
`python -m support.hammer URL PROCESS SEED LOG THREADS` is one of them. Their clocks are one: the machine's monotonic clock.
"""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self
from unittest.mock import patch

from support.twins import open_twin
from support.workloads import EPOCH, WORKLOADS, Entry

from txstate import CommitUnknown, Store, TxStateError
from txstate._engine.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.twins import Twin
    from support.workloads import Workload

    from txstate import AsyncTx
    from txstate._engine.group import Member
    from txstate._engine.writeset import Write

TESTS: Final = Path(__file__).parents[1]
_DEADLINE: Final = 30.0  # seconds for one transaction, killed servers included
_MANY: Final = 1000  # threads of a process, at most
_END: Final = 40.0  # seconds to come to an end


class Hammers:
    """Some processes at work. A context manager that starts them when all are ready, and leaves none behind.

    Args:
        url: of the server, or of a proxy before it.
        processes: how many.
        seed: of what they choose.
        folder: for their logs.
        threads: of each; they share a store, and so commits.

    Attributes:
        shared: how many transactions were carried by the commit of another thread, once they have stopped.
    """

    def __init__(self, url: str, *, processes: int, seed: int, folder: Path, threads: int = 1) -> None:
        self._url, self._seed, self._folder, self._threads = url, seed, folder, threads
        self.shared = 0
        self._started = 0
        self._workers = [self._start() for _ in range(processes)]

    def __enter__(self) -> Self:
        with Store(self._url) as store:
            for workload in WORKLOADS:
                for key, document in workload.documents().items():
                    store.put(key, document)
        for worker in self._workers:
            self._go(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()

    @property
    def pids(self) -> list[int]:
        """Of those that are at work."""
        return [worker.pid for worker in self._workers]

    def replace(self, number: int) -> None:
        """Kill one (SIGKILL), wherever it is, and start another one in its place."""
        self._workers[number].kill()
        self._workers[number].communicate()
        self._workers[number] = self._start()
        self._go(self._workers[number])

    def stop(self) -> list[Entry]:
        """Let all end their last transaction. What they, and those before them, did."""
        for worker in self._workers:
            told, errors = worker.communicate(b"\n", timeout=_END)
            assert worker.returncode == 0, errors.decode()
            self.shared += int(told)
        return [entry for number in range(self._started) for entry in read(self._log(number))]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "support.hammer", self._url, str(self._started)]
        command += [str(self._seed), str(self._log(self._started)), str(self._threads)]
        self._started += 1
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=TESTS, stdin=pipe, stdout=pipe, stderr=pipe)

    def _log(self, number: int) -> Path:
        return self._folder / f"process{number}"

    @staticmethod
    def _go(worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n", worker.communicate()[1].decode()
        worker.stdin.write(b"go\n")
        worker.stdin.flush()


def read(log: Path) -> list[Entry]:
    """What a process wrote down."""
    entries: dict[str, dict[str, Any]] = {}
    for line in log.read_bytes().split(b"\n")[:-1]:  # the last one is empty, or was cut short
        fields = json.loads(line)
        entries.setdefault(fields["id"], {}).update(fields)
    return [Entry(**fields) for fields in entries.values()]


def _told_to_stop() -> Callable[[], bool]:
    """Whether the parent has written another line, or is gone."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    return lambda: bool(selector.select(0))


def main(url: str, process: int, seed: int, log: IO[str], threads: int) -> None:
    """Be one of the processes."""
    kind = "async" if process % 2 else "sync"
    shared = 0
    pass_on = Relay.pass_on

    def counted(relay: Relay, member: Member | None, writes: Sequence[Write]) -> None:
        nonlocal shared
        shared += member is not None
        pass_on(relay, member, writes)

    with (
        patch.object(Relay, "pass_on", counted),
        open_twin(kind, url, deadline=_DEADLINE, timeout=1.0) as twin,
        ThreadPoolExecutor(threads) as pool,
    ):
        print("ready", flush=True)  # noqa: T201 - for the parent
        sys.stdin.readline()
        told = _told_to_stop()
        for work in [
            pool.submit(_work, twin, process * _MANY + thread, seed, log, told) for thread in range(threads)
        ]:
            work.result()
    print(shared)  # noqa: T201 - for the parent


def _work(twin: Twin, worker: int, seed: int, log: IO[str], told: Callable[[], bool]) -> None:
    """Be one of its threads: to the checker, which knows of no others, a process."""
    rng = random.Random(f"{seed} {worker}")

    def note(**fields: Any) -> None:
        log.write(json.dumps(fields) + "\n")  # one call, so that lines of several threads don't mix
        log.flush()

    async def body(tx: AsyncTx, workload: Workload, name: str, plan: list[Any]) -> None:
        note(id=name, txn=await workload.run(tx, plan))

    number = 0
    while not told():
        number += 1
        name = f"{worker}-{number}"
        (workload,) = rng.choices(WORKLOADS, [each.share for each in WORKLOADS])
        plan = workload.plan(rng, name, int(time.monotonic() / EPOCH))
        note(id=name, process=worker, workload=workload.name, plan=plan, call=time.monotonic_ns())
        kind, error = "ok", ""
        try:
            twin.run(body, workload, name, plan)
        except TxStateError as raised:
            kind = "info" if isinstance(raised, CommitUnknown) else "fail"
            error = type(raised).__name__
        note(id=name, type=kind, error=error, ret=time.monotonic_ns())


if __name__ == "__main__":
    with Path(sys.argv[4]).open("w") as file:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), file, int(sys.argv[5]))
