"""The checker on toy stores: a correct one never fails it, and each one broken on purpose is found out.

The stores are simulated: the clients' calls, steps, commits and returns are events on one made-up clock.
"""

from __future__ import annotations

import collections
import itertools
import random
from typing import Any, TypeAlias

import pytest

from txstate.testing.history import Illegal, Ok, Unknown, check_history

Record: TypeAlias = dict[str, Any]
Lists: TypeAlias = dict[str, list[int]]


class Serial:
    """Correct: a transaction runs as a whole at the instant of its commit."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lists: Lists = collections.defaultdict(list)

    def begin(self, txn: Record) -> None: ...

    def step(self, txn: Record, operation: list[Any]) -> None: ...

    def commit(self, txn: Record) -> bool:
        for operation in txn["txn"]:
            self.run(operation)
        return True

    def run(self, operation: list[Any]) -> None:
        what, key, value = operation
        if what == "append":
            self.append(key, value)
        else:
            operation[2] = list(self.lists[key])

    def append(self, key: str, value: int) -> None:
        self.lists[key].append(value)


class Buffering(Serial):
    """Reads at each step what `view` shows, and writes at the commit."""

    def view(self, txn: Record, key: str) -> list[int]:
        return self.lists[key]

    def step(self, txn: Record, operation: list[Any]) -> None:
        what, key, _ = operation
        if what == "r":
            before = itertools.takewhile(lambda each: each is not operation, txn["txn"])
            operation[2] = self.view(txn, key) + [each[2] for each in before if each[:2] == ["append", key]]

    def commit(self, txn: Record) -> bool:
        for what, key, value in txn["txn"]:
            if what == "append":
                self.append(key, value)
        return True


class Snapshots(Buffering):
    """Snapshot isolation: reads as of the beginning, and the first committer wins."""

    def begin(self, txn: Record) -> None:
        txn["snapshot"] = {key: list(value) for key, value in self.lists.items()}

    def view(self, txn: Record, key: str) -> list[int]:
        return list(txn["snapshot"].get(key, []))

    def commit(self, txn: Record) -> bool:
        written = {key for what, key, _ in txn["txn"] if what == "append"}
        return all(self.view(txn, key) == self.lists[key] for key in written) and super().commit(txn)


class LosingUpdates(Snapshots):
    """Snapshots without the check: reads as of the beginning, and everyone wins."""

    def commit(self, txn: Record) -> bool:
        return Buffering.commit(self, txn)


class Dirty(Serial):
    """Read uncommitted: every step takes effect at once, and stays though the transaction fails."""

    def step(self, txn: Record, operation: list[Any]) -> None:
        self.run(operation)

    def commit(self, txn: Record) -> bool:
        return True


class Stale(Serial):
    """Serial, but some read-only transactions are shown the state of a while ago."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.past: list[Lists] = [{}]

    def commit(self, txn: Record) -> bool:
        if all(what == "r" for what, _, _ in txn["txn"]) and self.rng.random() < 0.3:
            old = self.past[max(0, len(self.past) - 15)]
            for operation in txn["txn"]:
                operation[2] = list(old.get(operation[1], []))
            return True
        done = super().commit(txn)
        self.past.append({key: list(value) for key, value in self.lists.items()})
        return done


class Losing(Serial):
    """Loses some acknowledged appends."""

    def append(self, key: str, value: int) -> None:
        if self.rng.random() > 0.1:
            super().append(key, value)


class Forgetting(Serial):
    """Now and then goes back to what it was before, as after a failover."""

    def commit(self, txn: Record) -> bool:
        if self.rng.random() < 0.03:
            for key in self.lists:
                del self.lists[key][-1:]
        return super().commit(txn)


class Doubling(Serial):
    """Applies some appends twice."""

    def append(self, key: str, value: int) -> None:
        for _ in range(1 + (self.rng.random() < 0.1)):
            super().append(key, value)


class Halving(Serial):
    """Applies only half of some transactions, and says nothing."""

    def commit(self, txn: Record) -> bool:
        done = txn["txn"][: len(txn["txn"]) // 2] if self.rng.random() < 0.1 else txn["txn"]
        for operation in txn["txn"]:
            if operation in done or operation[0] == "r":
                self.run(operation)
        return True


def simulate(
    store: type[Serial],
    seed: int,
    *,
    transactions: int = 40,
    processes: int = 4,
    keys: int = 3,
    uncertain: float = 0.15,
) -> list[Record]:
    """Run transactions of several processes against a store; some fail, some end without an answer.

    Args:
        store: the store's class.
        seed: of all that is random.
        transactions: how many, a last one that reads everything not counted.
        processes: how many run at once.
        keys: how many lists there are.
        uncertain: the share of `info` ones, and that of `fail` ones.
    """
    rng = random.Random(seed)
    elements = itertools.count(1)
    free = [rng.uniform(0, 10) for _ in range(processes)]
    history: list[Record] = []
    events: list[tuple[float, int, Any]] = []
    for number in range(transactions):
        process = rng.randrange(processes)
        operations: list[list[Any]] = []
        read_only = rng.random() < 0.3
        for _ in range(rng.randint(1, 4)):
            key = f"k{rng.randrange(keys)}"
            append = not read_only and rng.random() < 0.5
            operations.append(["append", key, next(elements)] if append else ["r", key, None])
        call = free[process] + rng.uniform(0.1, 5)
        ret = call + rng.choice([1, 10, 50]) * rng.uniform(0.1, 1)
        steps = sorted(rng.uniform(call, ret) for _ in range(len(operations) + 2))
        kind = rng.choices(["ok", "info", "fail"], [1 - 2 * uncertain, uncertain, uncertain])[0]
        txn: Record = {
            "id": number,
            "type": kind,
            "process": process,
            "call": call,
            "ret": ret,
            "txn": operations,
        }
        if kind == "info":  # given up at some time; it takes effect before or after that, or never
            txn["ret"] = rng.choice([None, rng.uniform(call, ret)])
            txn["applies"] = rng.random() < 0.5
            steps[-1] += rng.choice([0, 30])
        free[process] = txn["ret"] or ret
        history.append(txn)
        events += [
            (at, number, what) for at, what in zip(steps, ["begin", *operations, "commit"], strict=True)
        ]
    toy = store(rng)
    for _, number, what in sorted(events, key=lambda event: event[0]):
        txn = history[number]
        if what == "begin":
            toy.begin(txn)
        elif what != "commit":
            toy.step(txn, what)
        elif (
            txn["type"] != "fail" and txn.get("applies", True) and not toy.commit(txn) and txn["type"] == "ok"
        ):
            txn["type"] = "fail"
    end = max((at for at, _, _ in events), default=0) + 100
    last = [["r", f"k{key}", list(toy.lists[f"k{key}"])] for key in range(keys)]
    history.append({"id": "last", "type": "ok", "process": "last", "call": end, "ret": end + 1, "txn": last})
    rng.shuffle(history)
    return history


def found(store: type[Serial], seeds: range) -> tuple[int, set[str]]:
    """How many histories of a store are illegal, and what they show."""
    verdicts = [check_history(simulate(store, seed, transactions=100)) for seed in seeds]
    return (
        sum(each.outcome is Illegal for each in verdicts),
        set(itertools.chain.from_iterable(each.anomalies for each in verdicts)),
    )


def stem(names: set[str]) -> set[str]:
    return {each.removesuffix("-realtime").removesuffix("-process") for each in names}


# --- no false alarm


@pytest.mark.parametrize("part", range(6))
def test_a_correct_store_passes(part: int) -> None:
    for seed in range(part * 500, part * 500 + 500):
        rng = random.Random(seed)
        history = simulate(
            Serial,
            seed,
            transactions=rng.choice([1, 5, 20, 60]),
            processes=rng.choice([1, 2, 5, 20]),
            keys=rng.choice([1, 2, 6]),
            uncertain=rng.choice([0, 0.1, 0.3]),
        )
        verdict = check_history(history)
        saw = any(
            value for one in history if one["type"] == "ok" for what, _, value in one["txn"] if what == "r"
        )
        assert verdict.outcome is (Ok if saw else Unknown), (seed, str(verdict))


def test_the_histories_of_the_correct_store_have_what_makes_it_hard() -> None:
    history = simulate(Serial, 1, transactions=500, processes=10)
    kinds = collections.Counter(one["type"] for one in history)
    assert min(kinds["info"], kinds["fail"]) > 30
    ok = [one for one in history if one["type"] == "ok"]
    assert sum(one["call"] < other["call"] < one["ret"] for one in ok for other in ok) > 500
    seen = {element for one in ok for what, _, read in one["txn"] if what == "r" for element in read}
    late = {
        element
        for one in history
        if one["type"] == "info"
        for what, _, element in one["txn"]
        if what == "append"
    }
    assert seen & late
    assert late - seen


# --- no miss


def test_snapshot_isolation_shows_write_skew_and_nothing_weaker() -> None:
    illegal, names = found(Snapshots, range(100))
    assert illegal > 25
    assert stem(names) == {"G2-item"}
    assert "G2-item" in names


def test_lost_updates_are_found() -> None:
    illegal, names = found(LosingUpdates, range(15))
    assert illegal == 15
    assert "G-single" in names or "incompatible-order" in names
    assert not stem(names) & {"G0", "G1a", "G1b", "G1c"}
    verdicts = [check_history(simulate(LosingUpdates, seed)) for seed in range(15)]
    assert any("lost update of 'k" in str(each) for each in verdicts)


def test_read_committed_is_found() -> None:
    illegal, names = found(Buffering, range(15))
    assert illegal >= 14
    assert {"internal", "G-single"} <= names
    assert not stem(names) & {"G0", "G1a", "G1b", "G1c"}


def test_read_uncommitted_is_found() -> None:
    illegal, names = found(Dirty, range(15))
    assert illegal == 15
    assert {"G0", "G1a", "G1b", "G1c", "internal"} <= names


def test_stale_reads_are_found() -> None:
    illegal, names = found(Stale, range(15))
    assert illegal >= 14
    # states of the past are consistent ones: only the order of time is broken
    assert all(each.endswith(("-process", "-realtime")) for each in names)
    assert {"G-single-process", "G-single-realtime"} <= names


def test_losing_an_acknowledged_append_is_found() -> None:
    illegal, names = found(Losing, range(15))
    assert illegal >= 14
    assert "G-single-realtime" in names


@pytest.mark.parametrize("seed", range(20))
def test_losing_a_single_acknowledged_append_is_found(seed: int) -> None:
    history = simulate(Serial, seed)
    rng = random.Random(seed)
    last = next(one for one in history if one["id"] == "last")
    acknowledged = {
        value for one in history if one["type"] == "ok" for what, _, value in one["txn"] if what == "append"
    }
    lost = rng.choice(
        sorted(acknowledged & set(itertools.chain.from_iterable(each[2] for each in last["txn"])))
    )
    for one in history:
        for operation in one["txn"]:
            if operation[0] == "r" and operation[2]:
                operation[2] = [each for each in operation[2] if each != lost]
    assert check_history(history).outcome is Illegal


def test_forgetting_what_was_seen_is_found() -> None:
    illegal, names = found(Forgetting, range(15))
    assert illegal >= 14
    assert "incompatible-order" in names


def test_doubling_is_found() -> None:
    illegal, names = found(Doubling, range(15))
    assert illegal == 15
    assert "duplicate-elements" in names


def test_half_applied_transactions_are_found() -> None:
    illegal, _ = found(Halving, range(15))
    assert illegal >= 12


# --- against the definition


def serializable(history: list[Record]) -> bool:
    """Strict serializability by trying every order, with every choice of the `info` ones that happened."""
    tried = [one for one in history if one["type"] != "fail"]

    def extend(done: frozenset[int], lists: dict[str, tuple[int, ...]]) -> bool:
        rest = [at for at in range(len(tried)) if at not in done]
        if all(tried[at]["type"] == "info" for at in rest):
            return True
        first_return = min(tried[at]["ret"] for at in rest if tried[at]["type"] == "ok")
        for at in rest:
            if tried[at]["call"] > first_return:
                continue
            state, fits = dict(lists), True
            for what, key, value in tried[at]["txn"]:
                if what == "append":
                    state[key] = (*state.get(key, ()), value)
                elif tried[at]["type"] == "ok" and state.get(key, ()) != tuple(value):
                    fits = False
                    break
            if fits and extend(done | {at}, state):
                return True
        return False

    return extend(frozenset(), {})


@pytest.mark.parametrize(
    "store",
    [Serial, Snapshots, LosingUpdates, Buffering, Dirty, Stale, Losing, Forgetting, Doubling, Halving],
)
def test_the_verdict_is_that_of_trying_every_order(store: type[Serial]) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(300):
        history = simulate(store, seed, transactions=6, processes=3, keys=2, uncertain=0.1)
        verdict = check_history(history)
        outcomes[verdict.outcome] += 1
        assert (verdict.outcome is not Illegal) == serializable(history), (seed, str(verdict))
    assert outcomes[Illegal] > 0 or store is Serial
    assert outcomes[Ok] > 0


def test_an_illegal_verdict_is_right_even_without_a_last_read_of_everything() -> None:
    illegal = 0
    for seed, store in itertools.product(
        range(100), [Snapshots, LosingUpdates, Buffering, Dirty, Losing, Halving]
    ):
        history = simulate(store, seed, transactions=7, processes=4, keys=1, uncertain=0.2)
        history = [one for one in history if one["id"] != "last"]
        if check_history(history).outcome is Illegal:
            illegal += 1
            assert not serializable(history), seed
    assert illegal > 50


# --- size


def test_ten_thousand_transactions() -> None:
    history = simulate(Serial, 0, transactions=10_000, processes=20, keys=200)
    assert check_history(history).outcome is Ok


def test_thousands_of_reads_before_thousands_of_appends_that_nobody_reads() -> None:
    # millions of pairs of rw, and as many of real time
    def one(number: int, *operations: list[Any], later: bool) -> Record:
        times = {"call": 2, "ret": 3} if later else {"call": 0, "ret": 1}
        return {"id": number, "type": "ok", "process": number, "txn": operations, **times}

    def history(*, reads_later: bool) -> list[Record]:
        reads = [one(at, ["r", "x", []], ["r", "y", [1]], later=reads_later) for at in range(2000)]
        appends = [one(at, ["append", "x", at], later=not reads_later) for at in range(2000, 4000)]
        return [*reads, *appends, one(4000, ["append", "y", 1], later=False)]

    assert check_history(history(reads_later=False)).outcome is Ok
    assert set(check_history(history(reads_later=True)).anomalies) == {"G-single-realtime"}
