"""One contender's run from beginning to end: documents made, load applied, faults fired, the outcome counted.

Touches nothing on the server but keys under a prefix of its own, which it removes.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import redis

from txstate import Store
from txstate.cli._options import CommandError, say
from txstate.cli._servers import client_of
from txstate.cli._stress import workloads
from txstate.cli._stress.tally import Tally, count
from txstate.cli._stress.worker import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from txstate import JSON
    from txstate.cli._stress.contenders import Name
    from txstate.cli._stress.crew import Crew
    from txstate.cli._stress.worker import Done, Progress
    from txstate.cli._stress.workloads import Workload

_CUTS: Final = 20.0
"""Connections cut per second, with ``--faults``."""
_SETTLE: Final = 0.25
"""Seconds after which nothing late is on its way any more; the proxy delays by 0.05 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is the same for all contenders of one run of the command.

    Attributes:
        url: of the server.
        server: its kind and version, as text.
        namespace: prefix of every key, this run's own.
        workload: what to do.
        processes: how many do it.
        seconds: for how long, each contender.
        seed: of everything that is drawn.
        faults: whether connections are cut.
    """

    url: str
    server: str
    namespace: str
    workload: Workload
    processes: int
    seconds: float
    seed: int
    faults: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one contender fared.

    Attributes:
        name: which one.
        tally: what became of its operations.
        attempts: how often it tried.
        conflicts: how many attempts met another writer.
        txn_per_s: acknowledged transactions per second, all workers together.
        p50_ms: median latency of the acknowledged calls, milliseconds.
        p99_ms: the 99th percentile.
        max_ms: the longest.
        faults: how many connections were cut.
        total: the bank's money before and after.
        errors: how often each kind of failure came, with one example.
    """

    name: Name
    tally: Tally
    attempts: int
    conflicts: int
    txn_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    faults: int
    total: tuple[int, int] | None
    errors: dict[str, tuple[int, str]]

    @property
    def exact(self) -> bool:
        """Whether every acknowledged operation is there exactly once, and nothing else is."""
        return not (self.tally.lost or self.tally.doubled or self.tally.torn)

    def as_json(self, plan: Plan) -> dict[str, Any]:
        """The object that ``--json`` prints for it."""
        shown: dict[str, Any] = {
            "workload": plan.workload,
            "processes": plan.processes,
            "seconds": plan.seconds,
            **asdict(self.tally),
            "conflicts": self.conflicts,
            "attempts": self.attempts,
            "txn_per_s": round(self.txn_per_s, 1),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "max_ms": round(self.max_ms, 3),
            "faults": self.faults,
            "errors": {
                kind: {"times": times, "example": text} for kind, (times, text) in self.errors.items()
            },
            "seed": plan.seed,
            "server": plan.server,
        }
        if self.total is not None:
            shown["total"] = {"before": self.total[0], "after": self.total[1]}
        return shown


def compete(
    name: Name,
    plan: Plan,
    crew: Crew,
    *,
    started: Callable[[], object],
    progress: Callable[[Progress, int], object],
) -> Result:
    """Let one contender run.

    Args:
        name: which one.
        plan: the load.
        crew: the workers.
        started: called when all are connected, just before the start.
        progress: called with what was done so far, and with how many connections were cut.

    Returns:
        The outcome, counted.

    Raises:
        CommandError: a worker failed or died, the server can't be used, or the store shows what nobody wrote.
        txstate.TxStateError: the server can't be used.
    """
    namespace = f"{plan.namespace}{name}:"
    with client_of(plan.url) as client, _reported("preparing the documents"):
        for key, fields in workloads.documents(plan.workload).items():
            client.hset(namespace + key, mapping=fields)
    with _path(plan) as path:
        job = Job(
            name=name,
            workload=plan.workload,
            url=path.url,
            namespace=namespace,
            seconds=plan.seconds,
            seed=plan.seed,
            workers=plan.processes,
        )

        def go() -> None:
            started()
            path.begin()

        done = crew.run(job, started=go, progress=lambda sofar: progress(sofar, path.cuts()))
        path.end()
    found = _read(plan, namespace)
    try:
        tally = count([each.log for each in done], workloads.cells(plan.workload, found))
    except (KeyError, ValueError) as error:
        raise CommandError(
            f"the documents were changed by somebody else, nothing can be counted: {error}"
        ) from error
    return _result(name, tally, done, path.cuts(), workloads.total(plan.workload, found))


def clean_up(plan: Plan) -> None:
    """Remove all keys of the run, the library's own included."""
    try:
        with client_of(plan.url) as client:
            keys = list(client.scan_iter(match=f"{_literal(plan.namespace)}*", count=1000))
            if keys:
                client.unlink(*keys)
    except redis.RedisError as error:
        say(f"the keys that begin with {plan.namespace!r} could not be removed: {error}")


def _literal(text: str) -> str:
    return "".join(f"\\{char}" if char in r"*?[]\^-" else char for char in text)


class _Direct:
    """The workers' way to the server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def begin(self) -> None:
        """Begin with the faults."""

    def end(self) -> None:
        """No more faults; wait until nothing is on its way any more."""

    def cuts(self) -> int:
        """How many connections were cut so far."""
        return 0


class _Cut(_Direct):
    """The way through a proxy that cuts connections, mostly between EXEC and its reply."""

    def __init__(self, proxy: Any, seed: int) -> None:
        super().__init__(proxy.url)
        self._proxy, self._seed = proxy, seed
        self._cuts: Any = None

    def begin(self) -> None:
        self._cuts = self._proxy.cut_randomly(per_second=_CUTS, seed=self._seed)

    def end(self) -> None:
        self._cuts.stop()
        time.sleep(_SETTLE)

    def cuts(self) -> int:
        return int(self._cuts.fired)


@contextlib.contextmanager
def _path(plan: Plan) -> Iterator[_Direct]:
    if not plan.faults:
        yield _Direct(plan.url)
        return
    try:
        from txstate.testing import FaultProxy  # noqa: PLC0415 - of another extra
    except ModuleNotFoundError as error:
        raise CommandError(f"--faults needs {error.name}: pip install 'txstate[testing]'") from error
    with FaultProxy(plan.url) as proxy:
        yield _Cut(proxy, plan.seed)


@contextlib.contextmanager
def _reported(doing: str) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise CommandError(f"{doing} failed: {error}") from error


def _read(plan: Plan, namespace: str) -> Mapping[str, Mapping[str, JSON]]:
    with Store(plan.url, namespace=namespace) as store:
        found = store.get_many(workloads.documents(plan.workload))
    return {key: document for key, document in found.items() if document is not None}


def _result(
    name: Name, tally: Tally, done: Sequence[Done], faults: int, total: tuple[int, int] | None
) -> Result:
    latencies = sorted(seconds * 1000 for each in done for seconds in each.latencies)
    errors: dict[str, tuple[int, str]] = {}
    for each in done:
        for kind, (times, example) in each.errors.items():
            before, first = errors.get(kind, (0, example))
            errors[kind] = before + times, first
    return Result(
        name=name,
        tally=tally,
        attempts=sum(each.attempts for each in done),
        conflicts=sum(each.conflicts for each in done),
        txn_per_s=sum(len(each.latencies) / each.elapsed for each in done),
        p50_ms=_percentile(latencies, 0.50),
        p99_ms=_percentile(latencies, 0.99),
        max_ms=latencies[-1] if latencies else 0.0,
        faults=faults,
        total=total,
        errors=errors,
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed; 0 when there are none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0
