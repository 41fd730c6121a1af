"""Figures that show a broken promise, or nothing at all, fail the test that states them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from report import Collector, render
from support.evidence import CAUGHT, EXPLORED, MISSING, Caught, Explored
from support.figures import PROPERTY, Figures, require
from support.ledger import Tally

from txstate import StoreUnavailable
from txstate.testing import check_history

if TYPE_CHECKING:
    from support.servers import ServerHandle

SERVER = cast("ServerHandle", SimpleNamespace(kind="Valkey", version="9.1.2"))
GOOD = Tally(attempted=3, acknowledged=2, unknown=1, applied=2)


def a_test(*, marked: bool = True) -> pytest.Item:
    marker = pytest.mark.fault(number=4).mark if marked else None
    item = SimpleNamespace(
        name="test_late[sync]",
        originalname="test_late",
        user_properties=[],
        get_closest_marker=lambda _: marker,
    )
    return cast("pytest.Item", item)


@pytest.mark.parametrize(
    ("tally", "fired", "message"),
    [
        (GOOD, 0, "did not fire"),
        (Tally(), 1, "attempted nothing"),
        (Tally(attempted=1, acknowledged=1, lost=1), 1, "lost 1"),
        (Tally(attempted=1, acknowledged=1, applied=1, doubled=1), 1, "doubled 1"),
        (Tally(attempted=1, acknowledged=1, applied=1, torn=1), 1, "half_applied 1"),
        (Tally(attempted=1, failed=1, applied=1, ghosts=1), 1, "fired 1"),
    ],
)
def test_a_broken_promise_fails_the_test(tally: Tally, fired: int, message: str) -> None:
    item = a_test()
    with pytest.raises(AssertionError, match=message):
        Figures(item)(SERVER, tally=tally, fired=fired)
    assert item.user_properties == []


def test_an_illegal_history_fails_the_test() -> None:
    read_nobodys = {"id": 1, "type": "ok", "process": 1, "call": 1, "ret": 2, "txn": [["r", "k", ["?"]]]}
    with pytest.raises(AssertionError, match="garbage"):
        Figures(a_test())(SERVER, tally=GOOD, fired=1, verdict=check_history([read_nobodys]))


def test_the_errors_of_calls_are_shown_if_the_test_fails() -> None:
    shown: list[tuple[str, str, str]] = []
    item: Any = a_test()
    item.add_report_section = lambda *section: shown.append(section)
    ledger: Any = SimpleNamespace(
        failed={"ledger-000001": StoreUnavailable("nobody there")},
        unknown={},
        tally=lambda: Tally(attempted=1, failed=1),
    )
    Figures(item)(SERVER, ledger, fired=1)
    assert shown == [
        ("call", "what calls raised", "ledger-000001: StoreUnavailable('nobody there')"),
    ]


def test_what_a_server_was_made_to_lose_is_reported() -> None:
    lossy = Tally(attempted=1, acknowledged=1, lost=1)
    assert Figures(a_test())(SERVER, tally=lossy, fired=1, lost_to="FLUSHDB").lost == 1


def test_a_fault_test_without_figures_fails() -> None:
    item = a_test()
    with pytest.raises(pytest.fail.Exception, match="states its figures"):
        require(item)
    Figures(item)(SERVER, tally=GOOD, fired=1)
    require(item)
    require(a_test(marked=False))


def test_the_report_adds_up_what_passed_and_names_what_is_missing() -> None:
    item, collector = a_test(), Collector()
    for seed in (1, 2):
        Figures(item)(SERVER, tally=GOOD, fired=5, resolved=3, seed=seed)
    for when, outcome in (("setup", "passed"), ("call", "passed"), ("call", "failed")):
        report: Any = SimpleNamespace(
            when=when, passed=outcome == "passed", user_properties=item.user_properties
        )
        collector.pytest_runtest_logreport(report)
    assert len(collector.lines) == len([name for name, _ in item.user_properties if name == PROPERTY]) == 2
    rows = [line for line in render(collector).splitlines() if line.startswith("| 4 |")]
    assert [row.split("| ", 3)[3] for row in rows] == [
        "10 | 6 | 4 | 2 | 6 | 0 | 0 | 0 | - | 1, 2 |",
        "Valkey 9.1.2 | 10 | 6 | 4 | 2 | 6 | 0 | 0 | 0 | - | 1, 2 |",
    ]
    assert "| 5 |" in render(Collector())
    assert "not tested yet" in render(Collector())


def test_the_report_quotes_explorations_and_mutants() -> None:
    collector = Collector()
    stated = [
        (EXPLORED, Explored("two increments", "Valkey 9.1.2", 1234, 5678, 2.0, 7, "late 3")),
        (CAUGHT, Caught("no WATCH", "P1", "increments", "schedule 3")),
        (MISSING, {"WAIT elsewhere": "durability"}),
    ]
    report: Any = SimpleNamespace(when="call", passed=True, user_properties=stated)
    collector.pytest_runtest_logreport(report)
    page = render(collector)
    assert "| two increments | Valkey 9.1.2 | 1,234 | 5,678 | 617 | 7 | late 3 |" in page
    assert "| no WATCH | P1 | `increments` | schedule 3 |" in page
    assert "as the mechanism is missing: WAIT elsewhere (durability)." in page
