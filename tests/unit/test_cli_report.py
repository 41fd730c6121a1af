"""What `stress` prints: no figure is cut, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from txstate.cli._stress.contenders import Name
from txstate.cli._stress.contest import Plan, Result
from txstate.cli._stress.report import show
from txstate.cli._stress.tally import Tally
from txstate.cli._stress.workloads import Workload

PLAN = Plan(
    url="unix:///nowhere",
    server="Valkey",
    namespace="n:",
    workload=Workload.BANK,
    processes=4,
    seconds=5,
    seed=1,
    faults=True,
)
FIGURES = ["1,234,567", "1,234,555", "24,691", "8,641,969", "246,913", "12,345.67", "17", "12"]


def result(name: Name) -> Result:
    tally = Tally(acknowledged=1_234_567, applied=1_234_555, lost=12, doubled=0, unknown=0, failed=0, torn=0)
    return Result(
        name=name,
        tally=tally,
        attempts=8_641_969,
        conflicts=24_691,
        txn_per_s=246_913,
        p50_ms=0.15,
        p99_ms=1.23,
        max_ms=12_345.67,
        faults=17,
        total=None,
        errors={},
    )


@pytest.mark.parametrize("width", [36, 40, 50, 59, 80])
def test_no_figure_is_cut_in_a_narrow_terminal(width: int) -> None:
    out = io.StringIO()
    show(
        Console(file=out, width=width, force_terminal=True, color_system=None), PLAN, list(map(result, Name))
    )
    assert "…" not in out.getvalue()
    words = out.getvalue().split()
    assert {figure: words.count(figure) >= len(Name) for figure in FIGURES} == dict.fromkeys(FIGURES, True)
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_a_pipe_gets_one_table_whatever_its_width() -> None:
    out = io.StringIO()
    show(Console(file=out, width=30), PLAN, list(map(result, Name)))
    assert out.getvalue().count("acknowledged  ") == 1
    assert "1,234,567  1,234,567             1,234,567" in out.getvalue()
