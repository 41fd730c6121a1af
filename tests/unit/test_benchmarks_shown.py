"""What the benchmark suite says of what was measured: ratios, rivals, losers; and that the documentation says the same."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

if importlib.util.find_spec("benchmarks") is None:
    # At the end, so that an installed txstate stays the one that is tested.
    sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import docs, report, scenarios
from benchmarks.results import Case, Results, Round
from benchmarks.summaries import tables
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from benchmarks.tables import Table

ABOUT = {
    "titles": {each.name: each.title for each in scenarios.scenarios(["same", "split", "any"], quick=False)},
    "machine": {"cpu": "AMD", "cpus": 2, "system": "Linux", "python": "3.11.7 (main)"},
    "versions": {"redis": "8.1.0"},
    "source": "abc",
    "placements": {"same": {"server": [0], "clients": [0]}, "any": {"server": [], "clients": []}},
    "calls": [{"started": "today", "busy_before": 0.25}],
}
PLAIN = Round(
    rate=100.0, p50_us=50.0, p99_us=100.0, max_us=200.0, operations=10, attempts=10, fairness=0.5, off_by=0, errors={},
    thoughts=[], in_time=0,
)  # fmt: skip


def results(*measured: tuple[dict[str, Any], dict[str, Any]]) -> Results:
    """Cases, with one round each."""
    found = Results(dict(ABOUT))
    for how, figures in measured:
        case = {"scenario": "uncontended", "workload": Workload(name="counter"), "transport": "tcp"}
        entry = found.entry(Case(**{**case, "placement": "same", **how}))
        entry.rounds.append(replace(PLAIN, **figures))
    return found


def table(found: Results, name: str) -> Table:
    return next(each for each in tables(found) if each.name == name)


def test_a_ratio_is_over_the_places_that_both_have() -> None:
    found = results(
        ({"peer": "txstate"}, {"p50_us": 40.0}),
        ({"peer": "txstate", "transport": "unix"}, {"p50_us": 10.0}),
        ({"peer": "lua-script"}, {"p50_us": 120.0}),
        ({"peer": "sqlite", "transport": "file"}, {"p50_us": 10.0}),
    )
    shown = table(found, "uncontended")
    assert shown.heads[1:-1] == ("tcp, same", "unix, same", "file, same", "txstate is faster by")
    rows = {row[0]: row[1:] for row in shown.rows}
    assert rows["txstate"] == ("40.0", "10.0", "", "1.00 x", "1 round")
    assert rows["Lua script"] == ("120", "", "", "3.00 x", "1 round")
    assert rows["SQLite"] == (
        "",
        "",
        "10.0",
        "0.50 x",
        "1 round",
    )  # over all of txstate's: it has none of a file's


def test_more_is_better_where_it_is() -> None:
    how = {"scenario": "processes", "placement": "any", "processes": 16}
    found = results(
        ({"peer": "txstate", **how}, {"rate": 800.0, "p99_us": 2000.0}),
        ({"peer": "redis-py-transaction", **how}, {"rate": 100.0, "p99_us": 4000.0}),
    )
    assert table(found, "processes-rate").rows[1][1:] == ("100", "8.00 x", "1 round")
    assert table(found, "processes-p99").rows[1][1:] == ("4.00", "2.00 x", "1 round")


def test_the_spread_is_the_farthest_round() -> None:
    found = results(({"peer": "txstate"}, {"p50_us": 10.0}))
    found.measured[0].rounds += [replace(PLAIN, p50_us=20.0), replace(PLAIN, p50_us=22.0)]
    assert table(found, "uncontended").rows[0][1:] == ("20.0", "±50%")


def test_who_loses_updates_is_shown_as_wrong_and_is_no_rival() -> None:
    found = results(
        ({"peer": "txstate"}, {"p50_us": 40.0}),
        ({"peer": "pottery"}, {"p50_us": 10.0, "off_by": 7, "errors": {"OSError": (2, "on purpose")}}),
        ({"peer": "pottery", "placement": "any"}, {"p50_us": 10.0}),  # by luck
        ({"peer": "txstate", "placement": "any"}, {"p50_us": 40.0}),
        ({"peer": "lua-script"}, {"p50_us": 20.0}),
        ({"peer": "redis-py-ping"}, {"p50_us": 1.0}),
        ({"peer": "redis-py-lock"}, {"p50_us": 39.5}),
    )
    shown = table(found, "uncontended")
    assert shown.rows[1][1] == "10.0 WRONG (errors)"
    assert table(found, "wrong").rows == (
        ("pottery RedisDict", "7", "uncontended", "2 OSError: on purpose"),
    )  # fmt: skip
    (rival,) = table(found, "rivals").rows  # the lock's 1% is none
    assert rival == ("Lua script", "1 of 1", "2.0 x", "counter, 1 process, tcp, same", "20.0 us", "40.0 us")


def test_the_best_of_txstate_meets_a_rival() -> None:
    how = {"scenario": "hash-size", "workload": Workload(name="large", fields=1000)}
    found = results(
        ({"peer": "txstate", **how}, {"p50_us": 400.0}),
        ({"peer": "txstate-fields", **how}, {"p50_us": 40.0}),
        ({"peer": "lua-script", **how}, {"p50_us": 39.0}),
    )
    assert table(found, "rivals").rows == ()


def test_slow_transactions_are_counted_over_all_rounds() -> None:
    how = {"peer": "txstate", "scenario": "think", "thoughts": 2, "processes": 7}
    found = results((how, {"thoughts": [(0.1, 3), (0.3, 5)], "in_time": 2}))
    found.measured[0].rounds.append(replace(PLAIN, thoughts=[(0.9, 9)], in_time=1))
    (row,) = table(found, "think").rows
    assert row[2:5] == ("3 of 4", "5, at most 9", "0.30, at most 0.90")


def test_memory_is_told_in_documents() -> None:
    workload = Workload(name="1 MB", fields=2, width=1_000_000)
    how = {"peer": "txstate-put", "scenario": "memory", "workload": workload, "fresh": True}
    found = results((how, {"peak_bytes": 7_000_000, "needed_bytes": 4_500_000}))
    assert table(found, "memory").rows[0][2:5] == ("4.50 x", "2", "7.00 x")
    target = next(row for row in table(found, "targets").rows if "1 MB document" in row[0])
    assert target[1] == "2.5 x", "what the caller holds is not the call's"
    found.measured[0].rounds[0].needed_bytes = None
    assert table(found, "memory").rows[0][2:5] == ("not measured", "2", "7.00 x")


def test_a_terminal_shows_what_there_is() -> None:
    found = results(({"peer": "txstate"}, {}))
    found.skipped["postgresql"] = "not installed: on purpose"
    console = Console(width=200, file=io.StringIO())
    report.show(found, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "One process updates a hash of 10 fields" in text
    assert "not installed: on purpose" in text
    assert "not measured" in text  # targets
    assert "16 processes" in text


def test_places_of_a_page_are_filled_and_nothing_else_changes() -> None:
    found = results(({"peer": "txstate"}, {"p50_us": 40.0}))
    page = (
        "# A\n<!-- table: uncontended -->\nold\n<!-- end -->\nprose\n<!-- table: rivals -->\n<!-- end -->\n"
    )
    filled = docs.filled(page, found)
    assert filled == (
        "# A\n<!-- table: uncontended -->\n| microseconds (median) | tcp, same | spread |\n| :-- | --: | --: |\n"
        "| txstate | 40.0 | 1 round |\n<!-- end -->\nprose\n<!-- table: rivals -->\nNothing.\n<!-- end -->\n"
    )
    assert docs.filled(filled, found) == filled
    with pytest.raises(KeyError):
        docs.filled("<!-- table: unheard-of -->\n<!-- end -->", found)
    with pytest.raises(ValueError, match="which run"):
        docs.run_of(page)


def test_the_documentation_says_what_the_recorded_run_does() -> None:
    page = docs.PAGE.read_text()
    folder = docs.run_of(page)
    assert docs.filled(page, Results.load(folder)) == page
    for name in re.findall(r"\]\((img/[^)]+)\)", page):
        assert (docs.PAGE.parent / name).is_file(), name
        assert (docs.PAGE.parent / name).with_suffix(".png").is_file(), name


def test_recorded_runs_tell_nothing_of_where_files_were() -> None:
    paths = list(docs.run_of(docs.PAGE.read_text()).glob("*.json"))
    assert len(paths) > 10
    for path in paths:
        assert re.search(r"[\"' ]/(home|root|tmp|work|usr)/", path.read_text()) is None, path.name
