"""The benchmark suite checks its own results: what it would say about peers that lose, double, fail or starve."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if importlib.util.find_spec("benchmarks") is None:
    # At the end, so that an installed txstate stays the one that is tested.
    sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import machine, peers, scenarios, servers, targets
from benchmarks.load import Done, Job, work
from benchmarks.peers.base import Peer, Place
from benchmarks.results import Case, Measured, Results, Round
from benchmarks.runner import Runner
from benchmarks.servers import MissingError
from benchmarks.workloads import START, Ledger, Op, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from support.servers import ServerHandle

    from benchmarks.workloads import Cell, Document


class Flag:
    """What workers share."""

    value = 0


class Memory(Peer):
    """A peer on a dict; its address says what is wrong with it."""

    title = form = "in memory"
    module = "sys"
    data: dict[str, Document]

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:  # noqa: ARG003 - the protocol
        cls.data = {key: dict(document) for key, document in documents.items()}

    @classmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:  # noqa: ARG003 - the protocol
        return [int(cls.data[key][name]) for key, name in cells]

    def change(self, op: Op) -> None:
        self.attempts += 1
        fault = self.place.address if self.attempts % 10 == 0 else ""
        if fault == "fails":
            raise LookupError("on purpose")
        for key, amount in zip(op.keys, op.by, strict=True):
            times = {"loses": 0, "doubles": 2}.get(fault, 1)
            self.data[key][op.field] = int(self.data[key][op.field]) + amount * times

    def read(self, op: Op) -> None:
        """Nothing to see."""

    def close(self) -> None:
        """Nothing to close."""


class MemoryServers:
    """Where `Memory` is."""

    def __init__(self, address: str) -> None:
        self._address = address

    def place(self, _server: str, transport: str, _delay: float) -> Place:
        return Place(transport, self._address)


class InProcess:
    """A crew without processes."""

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        return [work(job, time.perf_counter, Flag()) for job in jobs]


def measured(address: str, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Round:
    monkeypatch.setitem(peers.PEERS, "memory", Memory)
    where = {"here": machine.Placement("here", (), ())}
    runner = Runner(MemoryServers(address), InProcess(), where, Results(), progress=lambda _line: None)  # type: ignore[arg-type]  # as much of them as it needs
    workload = Workload(name="bank", documents=5, touched=2)
    case = Case(
        scenario="test", peer="memory", workload=workload, transport="tcp", placement="here", **how
    )  # fmt: skip
    return runner.measure(case, 0.02)


def test_an_honest_peer_is_off_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("honest", monkeypatch, processes=2)
    assert found.off_by == 0
    assert found.operations > 20
    assert found.rate > 0
    assert 0 < found.p50_us <= found.p99_us <= found.max_us


@pytest.mark.parametrize("fault", ["loses", "doubles"])
def test_lost_and_doubled_updates_are_seen(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    assert (measured(fault, monkeypatch).off_by or 0) > 0


def test_errors_are_counted_and_are_no_lost_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("fails", monkeypatch)
    assert found.off_by == 0
    number, example = found.errors["LookupError"]
    assert number > 0
    assert example == "on purpose"


def test_a_slow_transaction_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("honest", monkeypatch, thoughts=3)
    assert len(found.thoughts) == 3
    assert [attempts for _, attempts in found.thoughts] == [1, 1, 1]


def test_a_transfer_moves_as_much_as_it_takes() -> None:
    workload = Workload(name="bank", documents=20, touched=10)
    for op in workload.stream("seed"):
        assert len(set(op.keys)) == len(op.by) == 10
        assert sum(op.by) == 0
    assert workload.stream("seed") == workload.stream("seed")
    assert workload.stream("seed") != workload.stream("other")


def test_reads_have_their_share() -> None:
    stream = Workload(name="read-mostly", reads=0.95).stream("seed")
    assert 0.9 < sum(not op.by for op in stream) / len(stream) < 0.99


def test_the_ledger_knows_what_must_be_there() -> None:
    ledger, other = Ledger(), Ledger()
    ledger.enter(Op(("a", "b"), "n", (-1, 1)))
    other.enter(Op(("a", "b"), "n", (-1, 1)))
    ledger.enter(Op(("a",), "n"))
    ledger.merge(other)
    assert ledger.off_by({("a", "n"): START - 2, ("b", "n"): START + 2}) == 0
    assert ledger.off_by({("a", "n"): START - 1, ("b", "n"): START + 4}) == 3


def a_round(rate: float, p50_us: float) -> Round:
    return Round(
        rate=rate, p50_us=p50_us, p99_us=p50_us * 2, max_us=p50_us * 3, operations=10, attempts=10, fairness=0.5,
        off_by=0, errors={"E": (1, "e")}, thoughts=[(0.5, 3)], in_time=1, peak_bytes=1000, needed_bytes=900,
    )  # fmt: skip


def case(peer: str, transport: str, placement: str, **how: Any) -> Case:
    workload = Workload(name="counter")
    return Case(
        scenario="uncontended", peer=peer, workload=workload, transport=transport, placement=placement, **how
    )


def test_results_come_back_from_json(tmp_path: Path) -> None:
    results = Results({"note": "busy"}, {"zodb": "not installed"})
    rounds = results.entry(case("txstate", "tcp", "same")).rounds
    rounds += [a_round(10.0, 5.0), a_round(20.0, 7.0)]
    results.entry(case("zodb", "tcp", "same"))
    results.save(tmp_path)
    again = Results.load(tmp_path)
    assert again.about == results.about
    assert again.skipped == results.skipped
    assert [one.case for one in again.measured] == [case("txstate", "tcp", "same")]  # the other has no round
    assert again.measured[0].median("p50_us") == 6.0
    assert again.measured[0].spread("rate") == (10.0, 20.0)
    assert again.measured[0].failures == 2
    again.entry(case("txstate", "tcp", "same")).rounds.append(a_round(30.0, 9.0))
    again.save(tmp_path)
    assert [len(one.rounds) for one in Results.load(tmp_path).measured] == [3]


def test_results_keep_the_way_to_this_machines_files_to_themselves(tmp_path: Path) -> None:
    told = "no unix:///tmp/txb-1/redis, '/home/me/log' here; but read/write, 1 / 2 and redis://127.0.0.1:1/0"
    Results({"note": told}, {"hot/txstate/tcp": "/usr/lib/postgresql/15/bin/initdb failed"}).save(tmp_path)
    again = Results.load(tmp_path)
    assert (
        again.about["note"] == "no unix://redis, 'log' here; but read/write, 1 / 2 and redis://127.0.0.1:1/0"
    )
    assert again.skipped == {"hot/txstate/tcp": "initdb failed"}


def test_a_figure_is_the_geometric_mean_over_places() -> None:
    results = Results()
    for transport, own, ping in (("tcp", 40.0, 20.0), ("unix", 80.0, 10.0)):
        for peer, cost in (("txstate", own), ("redis-py-ping", ping)):
            results.measured.append(Measured(case(peer, transport, "same"), [a_round(1.0, cost)]))
    figures = {each.target.title: each for each in targets.outcomes(results)}
    over_ping = figures["update of 10 fields: txstate / redis-py PING"]
    assert over_ping.figure == pytest.approx(4.0)
    assert over_ping.met is False
    unmeasured = figures["update of 10 fields: Lua script / txstate"]
    assert unmeasured.figure is None
    assert unmeasured.met is None


def test_a_slow_transaction_that_was_not_done_is_no_figure() -> None:
    results = Results()
    slow = Case(
        scenario="think",
        peer="txstate",
        workload=Workload(name="counter"),
        transport="tcp",
        placement="same",
        thoughts=1,
    )
    results.measured.append(Measured(slow, [a_round(1.0, 40.0)]))
    figures = {each.target.title: each.figure for each in targets.outcomes(results)}
    title = "a transaction of 30 ms beside 6 processes: most attempts"
    assert figures[title] == 3
    results.measured[0].rounds[0].in_time = 0
    assert {each.target.title: each.figure for each in targets.outcomes(results)}[title] == math.inf


def test_a_place_without_its_counterpart_gives_no_figure() -> None:
    results = Results()
    results.measured += [
        Measured(case("txstate", "tcp", "same"), [a_round(1.0, 40.0)]),
        Measured(case("redis-py-ping", "unix", "same"), [a_round(1.0, 20.0)]),
    ]
    assert targets.outcomes(results)[2].figure is None


@pytest.mark.parametrize("quick", [True, False])
def test_the_targets_can_be_measured_from_their_own_run(quick: bool) -> None:  # noqa: FBT001 - a parameter
    results = Results()
    for scenario in scenarios.scenarios(["same", "split", "any"], quick=quick, targets_only=True):
        for each in scenario.cases:
            results.entry(each).rounds.append(a_round(10.0, 5.0))
    assert [each.target.title for each in targets.outcomes(results) if each.figure is None] == []


def test_every_peer_is_measured_and_says_how_it_is_used() -> None:
    found = scenarios.scenarios(["same", "split", "any"], quick=False, targets_only=False)
    used = {each.peer for scenario in found for each in scenario.cases}
    assert used == peers.PEERS.keys() - peers.MANAGERS.keys(), "the managers have a benchmark of their own"
    for name in peers.PEERS:
        assert peers.PEERS[name].title
        assert peers.PEERS[name].form


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins nothing")
def test_placements_use_this_machines_cpus() -> None:
    cpus = set(os.sched_getaffinity(0))
    for placement in machine.placements().values():
        assert set(placement.server) < cpus or len(cpus) == 1
        assert set(placement.clients) <= cpus
    assert math.isclose(machine.busy(0.01) or 0.0, 0.5, abs_tol=0.5)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in peers.PEERS.items()
        if kind.server in ("redis", "file") and peers.lacking(name) is None
    ],
)
def test_peers_do_what_is_asked(name: str, valkey9: ServerHandle, tmp_path: Path) -> None:
    kind = peers.PEERS[name]
    place = Place("file", str(tmp_path / "db")) if kind.server == "file" else Place("tcp", valkey9.url)
    workload = Workload(name="mixed", documents=4, touched=2, reads=0.3)
    kind.seed(place, workload.initial())
    job = Job(
        peer=name, place=place, workload=workload, seconds=0.5, warm_up=0.01, cpus=(), seed="s", tasks=2
    )  # fmt: skip
    done = work(job, time.perf_counter, Flag())
    assert done.errors == {}
    assert sum(done.completed) > 0
    assert done.attempts > 0
    if kind.checked:
        cells = list(done.ledger.added)
        assert cells
        found = dict(zip(cells, kind.counters(place, cells), strict=True))
        # With two tasks at once, all that promise it lose nothing.
        assert done.ledger.off_by(found) == 0


class NoServers:
    """Nothing is installed."""

    def place(self, _server: str, _transport: str, _delay: float) -> Place:
        raise MissingError("not installed: on purpose")


def a_runner(servers: object, results: Results, **how: Any) -> Runner:
    where = {"same": machine.Placement("same", (), ())}
    return Runner(servers, InProcess(), where, results, progress=lambda _line: None, **how)  # type: ignore[arg-type]  # as much of them as it needs


def test_a_missing_server_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "memory", Memory)
    results = Results()
    cases = (case("memory", "tcp", "same"), case("txstate", "tcp", "elsewhere"))
    a_runner(NoServers(), results).run(scenarios.Scenario("uncontended", "", cases, 0.01, 2))
    assert list(results.of("uncontended")) == []
    assert results.skipped["memory"] == "not installed: on purpose"
    assert [name for name in results.skipped if "txstate" in name]


def test_where_postgresql_is_not_installed_that_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_POSTGRES", ())
    monkeypatch.setenv("PATH", "")
    with (
        servers.Servers(()) as none,
        pytest.raises(MissingError, match="PostgreSQL's server is not installed"),
    ):
        none.place("postgres", "tcp")


def test_a_failing_peer_leaves_what_was_measured_and_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Fails(Memory):
        turns = 0

        @classmethod
        def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
            cls.turns += 1
            if cls.turns > 1:
                raise ConnectionError("on purpose")
            return super().counters(place, cells)

    monkeypatch.setitem(peers.PEERS, "fails", Fails)
    monkeypatch.setitem(peers.PEERS, "memory", Memory)
    results = Results()
    runner = a_runner(MemoryServers(""), results, save=lambda: results.save(tmp_path))
    cases = (case("fails", "tcp", "same"), case("memory", "tcp", "same"))
    runner.run(scenarios.Scenario("uncontended", "", cases, 0.01, 3))
    kept = Results.load(tmp_path)
    assert {one.case.peer: len(one.rounds) for one in kept.measured} == {"fails": 1, "memory": 3}
    (note,) = kept.skipped.values()
    assert "1 rounds measured, then: looking at the result: ConnectionError: on purpose" in note


def test_a_place_that_runs_out_of_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "memory", Memory)
    results = Results()
    scenario = scenarios.Scenario("uncontended", "", (case("memory", "tcp", "same"),), 0.01, 1)
    a_runner(MemoryServers(""), results, until=0.0).run(scenario)
    assert results.skipped == {"uncontended": "from round 1 on: no time left (--budget)"}
    a_runner(MemoryServers(""), results).run(scenario)
    assert results.skipped == {}
    assert len(list(results.of("uncontended"))) == 1
