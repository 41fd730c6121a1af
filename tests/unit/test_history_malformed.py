"""Histories that contradict themselves are refused, naming the transaction."""

from __future__ import annotations

import re
from typing import Any

import pytest

from txstate.testing.history import Ok, check_history


def record(**changes: Any) -> dict[str, Any]:
    return {
        "id": "t1",
        "type": "ok",
        "process": "p1",
        "call": 0,
        "ret": 10,
        "txn": [["append", "x", 1]],
    } | changes


def other(**changes: Any) -> dict[str, Any]:
    return record(id="t2", process="p2", txn=[["r", "x", [1]]]) | changes


@pytest.mark.parametrize("history", [None, 5])
def test_what_is_no_history(history: Any) -> None:
    with pytest.raises(ValueError, match="a history is a list of mappings"):
        check_history(history)


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in record().items() if name != field}


def test_the_examples_are_well_formed_but_for_what_they_show() -> None:
    assert check_history([record(), other()]).outcome is Ok


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (other(id="t1"), "transaction 't1': the id is there twice"),
        (other(txn=[["append", "x", 1]]), "transaction 't2': appends 1 to 'x', and 't1' does so too"),
        (other(txn=[["append", "y", 1], ["append", "y", 1]]), "transaction 't2': appends 1 to 'y'"),
        (other(type="fail", txn=[["append", "x", 1]]), "transaction 't2': appends 1 to 'x'"),
        (other(ret=-1), "transaction 't2': returned at -1, before its call at 0"),
        (other(type="info", ret=-1), "transaction 't2': returned at -1, before its call at 0"),
        (
            other(process="p1", call=9, ret=20),
            "transaction 't2': called at 9 while 't1' of the same process 'p1'",
        ),
        (other(process="p1", call=9, ret=20, type="info"), "transaction 't2': called at 9 while 't1'"),
        (other(process="p1", call=2, ret=3), "transaction 't2': called at 2 while 't1'"),
    ],
)
def test_contradictions(second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_history([record(), second])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("append", "transaction 0 of the history is no mapping: 'append'"),
        (without("id"), "transaction 0 of the history: has no id"),
        (without("type"), "transaction 't1': has no type"),
        (without("process"), "transaction 't1': has no process"),
        (without("call"), "transaction 't1': has no call"),
        (without("txn"), "transaction 't1': has no txn"),
        (without("ret"), "transaction 't1': has no ret; only info and fail transactions may lack one"),
        (record(id=[]), "transaction []: its id must be hashable"),
        (record(process={}), "transaction 't1': its process must be hashable"),
        (record(type="done"), "transaction 't1': type is 'ok', 'info' or 'fail', not 'done'"),
        (record(call="0"), "transaction 't1': call is a number of nanoseconds"),
        (record(call=None), "transaction 't1': call is a number"),
        (record(ret=float("nan")), "transaction 't1': ret is a number"),
        (record(ret=True), "transaction 't1': ret is a number"),
        (record(txn="r"), "transaction 't1': txn is a list of operations"),
        (record(txn=["rx1"]), "transaction 't1': an operation is"),
        (record(txn=[["r", "x"]]), "transaction 't1': an operation is"),
        (record(txn=[["w", "x", 1]]), "transaction 't1': an operation is 'append' or 'r', not 'w'"),
        (record(txn=[["append", [], 1]]), "transaction 't1': a key must be hashable"),
        (record(txn=[["append", "x", [1]]]), "transaction 't1': an element of 'x' must be hashable"),
        (
            record(txn=[["r", "x", None]]),
            "transaction 't1': its read of 'x' holds no list but None; an empty one is",
        ),
        (record(txn=[["r", "x", "ab"]]), "transaction 't1': its read of 'x' holds no list but 'ab'"),
        (record(txn=[["r", "x", [[1]]]]), "transaction 't1': its read of 'x' must be hashable"),
    ],
)
def test_malformed_transactions(broken: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_history([broken])


def test_what_info_and_fail_read_is_ignored() -> None:
    unknown = [record(type=kind, id=kind, process=kind, txn=[["r", "x", None]]) for kind in ("info", "fail")]
    assert check_history([record(), other(), *unknown]).outcome is Ok


def test_a_process_may_go_on_after_an_info_of_which_the_end_is_not_known() -> None:
    lost = record(type="info", ret=None)
    assert check_history([lost, other(process="p1", call=1, ret=2)]).outcome is Ok


def test_instantaneous_transactions_of_one_process() -> None:
    history = [
        record(call=5, ret=5),
        other(process="p1", call=5, ret=7),
        other(id="t3", process="p1", call=7, ret=7),
    ]
    assert check_history(history).outcome is Ok
    assert check_history(reversed(history)).outcome is Ok
