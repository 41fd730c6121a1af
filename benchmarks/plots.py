"""Three plots, each as PNG and SVG: processes, size of the hash, network delay. The only place that knows matplotlib."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.results import Case, Results

_MARKS: Final = "os^vD<>Pph*X"
_COLOURS: Final = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#000000",
)  # fmt: skip


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what was measured; a plot without data is left out.

    Args:
        results: of a run.
        folder: where to put the files.

    Returns:
        The files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import_module("matplotlib").use("Agg")
    plt: Any = import_module("matplotlib.pyplot")
    plt.rcParams["svg.hashsalt"] = "txstate"  # the same results give the same file
    plt.rcParams["svg.fonttype"] = "none"  # text as text: a fifth of the size
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, panels in _PLOTS.items():
        if not any(results.of(name)):
            continue
        figure, axes = plt.subplots(
            1, len(panels), figsize=(6.5 * len(panels), 5.5), squeeze=False, layout="constrained"
        )
        for axis, (value, label, scale) in zip(axes[0], panels, strict=True):
            _lines(axis, results, name, value, scale)
            axis.set(xlabel=_X[name][0], ylabel=label)
            axis.set_yscale("log")
            axis.grid(visible=True, alpha=0.3)
        lines, names = axes[0][0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=2 * len(panels), fontsize=8)
        figure.suptitle(_TITLES[name])
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            figure.savefig(path, dpi=90, metadata={"Date": None} if kind == "svg" else None)
            made.append(path)
        plt.close(figure)
    return made


def _lines(axis: Any, results: Results, scenario: str, value: str, scale: float) -> None:
    """A line a peer, with its spread; dashed where it lost updates."""
    x = _X[scenario][1]
    found = list(results.of(scenario))
    for number, peer in enumerate(dict.fromkeys(one.case.peer for one in found)):
        points = sorted((one for one in found if one.case.peer == peer), key=lambda one: x(one.case))
        wrong = any(one.off_by for one in points)
        middles = [one.median(value) * scale for one in points]
        spreads = [one.spread(value) for one in points]
        below = [middle - low * scale for middle, (low, _) in zip(middles, spreads, strict=True)]
        above = [high * scale - middle for middle, (_, high) in zip(middles, spreads, strict=True)]
        axis.errorbar(
            [x(one.case) for one in points],
            middles,
            yerr=(below, above),
            label=PEERS[peer].title + (" (loses updates)" if wrong else ""),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKS[number % len(_MARKS)],
            markersize=4,
            linewidth=2.2 if peer.startswith("txstate") else 1.0,
            linestyle="--" if wrong else "-",
            capsize=2,
        )
    if scenario != "delay":
        axis.set_xscale("log", base=2 if scenario == "processes" else 10)
        axis.xaxis.set_major_formatter(lambda place, _position: f"{place:,g}")


_PLOTS: Final[dict[str, tuple[tuple[str, str, float], ...]]] = {
    "processes": (("rate", "operations a second", 1.0), ("p99_us", "p99, ms", 1e-3)),
    "hash-size": (("p50_us", "microseconds an update", 1.0),),
    "delay": (("p50_us", "microseconds an update", 1.0),),
}
_X: Final[dict[str, tuple[str, Callable[[Case], float]]]] = {
    "processes": ("processes that update one hash", lambda case: case.processes),
    "hash-size": ("fields of the hash", lambda case: case.workload.fields),
    "delay": ("milliseconds added to a round trip", lambda case: case.delay),
}
_TITLES: Final = {
    "processes": "Processes that update one hash",
    "hash-size": "Updating one field of a hash",
    "delay": "Updating a hash of 10 fields over a slower network",
}
