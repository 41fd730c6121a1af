"""The count of `txstate stress` must be able to fail: losses and doubles that cancel in every total are found."""

from __future__ import annotations

import random

import pytest

from txstate.cli._stress.contenders import Notes
from txstate.cli._stress.tally import ROOT, Cell, Fate, Log, Tally, Write, count
from txstate.cli._stress.workloads import Workload, cells, documents, operation, total


def tally(**changed: int) -> Tally:
    names = ["acknowledged", "applied", "lost", "doubled", "unknown", "failed", "torn"]
    return Tally(**{**dict.fromkeys(names, 0), **changed})


def chain(*entries: tuple[int, int, int], fates: list[Fate], cell: str = "c") -> Log:
    """A log of one worker: (operation, id, parent) of each write, each of amount 1."""
    writes = [Write(operation, cell, identity, parent, 1) for operation, identity, parent in entries]
    return Log([(fate, (cell,)) for fate in fates], writes)


def test_every_acknowledged_operation_once() -> None:
    log = chain((0, 1, ROOT), (1, 2, 1), fates=[Fate.ACKNOWLEDGED, Fate.ACKNOWLEDGED])
    assert count([log], {"c": Cell(2, 2)}) == tally(acknowledged=2, applied=2)


def test_a_loss_and_a_double_of_one_worker_do_not_cancel() -> None:
    # Operation 0 is applied by two of its runs, operation 1 is overwritten: two acknowledged, two in the store.
    log = chain((0, 1, ROOT), (0, 2, 1), (1, 3, 2), fates=[Fate.ACKNOWLEDGED, Fate.ACKNOWLEDGED])
    assert count([log], {"c": Cell(2, 2)}) == tally(acknowledged=2, applied=2, lost=1, doubled=1)


def test_an_overwritten_write_is_lost_even_when_it_reached_the_server() -> None:
    first = chain((0, 1, ROOT), fates=[Fate.ACKNOWLEDGED])
    second = chain((0, 2, ROOT), fates=[Fate.ACKNOWLEDGED])
    assert count([first, second], {"c": Cell(2, 1)}) == tally(acknowledged=2, applied=1, lost=1)


@pytest.mark.parametrize(("runs", "doubled"), [(0, 0), (1, 0), (2, 1)])
def test_an_unknown_operation_may_be_there_or_not_but_not_twice(runs: int, doubled: int) -> None:
    log = chain((0, 1, ROOT), (0, 2, 1), fates=[Fate.UNKNOWN])
    assert count([log], {"c": Cell(runs, runs)}) == tally(unknown=1, applied=runs, doubled=doubled)


def test_a_failed_operation_must_not_be_there() -> None:
    log = chain((0, 1, ROOT), fates=[Fate.FAILED])
    assert count([log], {"c": Cell(1, 1)}) == tally(failed=1, applied=1, doubled=1)


def test_a_transfer_that_is_there_by_half_is_torn_and_lost() -> None:
    log = Log([(Fate.ACKNOWLEDGED, ("a", "b"))], [Write(0, "a", 1, ROOT, -5), Write(0, "b", 1, ROOT, 5)])
    found = {"a": Cell(1, -5), "b": Cell(ROOT, 0)}
    assert count([log], found) == tally(acknowledged=1, lost=1, torn=1)


def test_an_amount_that_parted_from_its_history_is_torn() -> None:
    log = chain((0, 1, ROOT), fates=[Fate.ACKNOWLEDGED])
    assert count([log], {"c": Cell(1, 2)}) == tally(acknowledged=1, applied=1, torn=1)


def test_a_write_that_nobody_made_is_no_result() -> None:
    with pytest.raises(ValueError, match="no worker made"):
        count([Log()], {"c": Cell(7, 1)})


@pytest.mark.parametrize("workload", Workload)
@pytest.mark.parametrize("losing", [False, True])
def test_against_a_model_of_a_store(workload: Workload, losing: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Stale writes and repeated ones by a toy store; the same is counted from its full history."""
    rng = random.Random(7)
    store = documents(workload)
    history: dict[str, list[int]] = {}  # per cell, the operation of each write that is still in effect
    notes = Notes(0, 1)
    for number in range(300):
        changes = operation(workload, rng)
        for _ in range(2 if losing and rng.random() < 0.1 else 1):  # applied again after a lost reply
            parents = [store[change.key][change.mark] for change in changes]
            identity = notes.write(changes, parents)
            if losing and rng.random() < 0.1:
                continue  # never arrived
            for change in changes:
                store[change.key][change.mark] = identity
                if change.amount is not None:
                    store[change.key][change.amount] += change.by
                history.setdefault(change.cell, []).append(number)
        notes.end(Fate.ACKNOWLEDGED, changes)
    met = [
        [history.get(cell, []).count(number) for cell in cells_]
        for number, (_, cells_) in enumerate(notes.log.operations)
    ]
    result = count([notes.log], cells(workload, store))
    assert result.lost == sum(min(each) == 0 for each in met)
    assert result.doubled == sum(max(0, max(each) - 1) for each in met)
    assert (result.lost > 0) == (result.doubled > 0) == losing
    assert result.torn == 0
    money = total(workload, store)
    assert money is None or money[0] == money[1]


def test_ids_of_workers_never_meet() -> None:
    notes = [Notes(worker, 3) for worker in range(3)]
    changes = operation(Workload.COUNTER, random.Random(1))
    ids = [each.write(changes, [ROOT]) for each in notes for _ in range(50)]
    assert len(set(ids)) == 150
    assert ROOT not in ids
