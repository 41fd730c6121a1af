"""Tables that are no grid of peers and cases: slow transactions, memory, targets, who was better, who was wrong, where."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers import PEERS
from benchmarks.tables import Table, grids, number
from benchmarks.targets import memory_grown, memory_needed, outcomes

if TYPE_CHECKING:
    from benchmarks.results import Measured, Results
    from benchmarks.targets import Outcome

MET: Final = "met"
MISSED: Final = "missed"

_COMPARED: Final = {
    "uncontended": "p50_us",
    "processes": "rate",
    "mix": "rate",
    "hash-size": "p50_us",
    "delay": "p50_us",
}
"""In which scenarios others may be better, and by what."""
_CLEAR: Final = 1.05
"""What is less of a difference is none."""


def tables(results: Results) -> list[Table]:
    """All tables of a run; those without anything to say have no rows."""
    found = list(grids(results))
    found += [_think(results), _memory(results), _rivals(results), _wrong(results)]
    found += [_skipped(results), _targets(results), _peers(results), _where(results)]
    return found


def _think(results: Results) -> Table:
    rows = []
    for one in results.of("think"):
        attempts = [thought[1] for each in one.rounds for thought in each.thoughts]
        seconds = [thought[0] for each in one.rounds for thought in each.thoughts]
        rows.append(
            (
                PEERS[one.case.peer].title,
                f"{one.case.transport}, {one.case.placement}",
                f"{sum(each.in_time for each in one.rounds)} of {one.case.thoughts * len(one.rounds)}",
                f"{statistics.median(attempts):.0f}, at most {max(attempts)}" if attempts else "",
                f"{statistics.median(seconds):.2f}, at most {max(seconds):.2f}" if seconds else "",
                number(one.median("rate")),
            )
        )
    heads = ("", "place", "done in time", "attempts", "seconds", "beside: operations a second")
    return Table("think", _title(results, "think"), heads, tuple(rows))


def _memory(results: Results) -> Table:
    rows = []
    for one in results.of("memory"):
        peer, what = PEERS[one.case.peer], "reads" if one.case.workload.reads else "updates"
        shown = [
            "not measured" if found is None else f"{found:.2f} x"
            for found in (memory_needed(one), memory_grown(one))
        ]
        cost = number(one.median("p50_us"))
        rows.append(
            (peer.title, f"{what} {one.case.workload.name}", shown[0], str(peer.holds), shown[1], cost)
        )
    heads = (
        *("", "does", "needs at once, in documents", "of these, the caller's"),
        *("process grows by at most", "microseconds (median)"),
    )
    return Table("memory", _title(results, "memory"), heads, tuple(rows))


def _title(results: Results, scenario: str) -> str:
    title: str = results.about["titles"].get(scenario, scenario)
    return title


def _rivals(results: Results) -> Table:
    """Who was better than txstate, and lost nothing anywhere: in how many cases, and where most.

    Who loses updates where others come in between was only lucky where none did.
    """
    losers = {one.case.peer for one in results.measured if one.off_by}
    cases: dict[str, int] = {}
    better: dict[str, list[tuple[float, str, str, str]]] = {}
    for scenario, figure in _COMPARED.items():
        found = list(results.of(scenario))
        for one in found:
            kind = PEERS[one.case.peer]
            if not kind.checked or kind.module == "txstate" or one.case.peer in losers:
                continue
            ours = [other for other in found if _is_own_of(other, one)]
            values = [other.median(figure) for other in ours]
            if not values or not one.median(figure):
                continue
            cases[one.case.peer] = cases.get(one.case.peer, 0) + 1
            own = max(values) if figure == "rate" else min(values)
            factor = one.median(figure) / own if figure == "rate" else own / one.median(figure)
            if factor > _CLEAR:
                unit = "/s" if figure == "rate" else " us"
                shown = f"{number(one.median(figure))}{unit}", f"{number(own)}{unit}"
                better.setdefault(one.case.peer, []).append((factor, _described(one), *shown))
    rows = []
    for peer, places in better.items():
        factor, where, theirs, own_text = max(places)
        count = f"{len(places)} of {cases[peer]}"
        rows.append((PEERS[peer].title, count, f"{factor:.1f} x", where, theirs, own_text))
    heads = ("", "better than txstate in", "at most by", "there", "its figure", "txstate's")
    return Table("rivals", "Who was better than txstate, of those who lost no update", heads, tuple(rows))


def _is_own_of(other: Measured, one: Measured) -> bool:
    """Whether the other is txstate's measurement of the same case; a file is like any transport."""
    mine, theirs = other.case, one.case
    same = (mine.workload, mine.processes, mine.delay, mine.placement) == (
        theirs.workload, theirs.processes, theirs.delay, theirs.placement,
    )  # fmt: skip
    return PEERS[mine.peer].module == "txstate" and same and theirs.transport in (mine.transport, "file")


def _described(one: Measured) -> str:
    case = one.case
    processes = f"{case.processes} process{'es' if case.processes > 1 else ''}"
    delay = f", +{case.delay:g} ms" if case.delay else ""
    return f"{case.workload.name}, {processes}{delay}, {case.transport}, {case.placement}"


def _wrong(results: Results) -> Table:
    """Who lost or doubled updates, or raised errors: one line a peer."""
    rows = []
    for peer in dict.fromkeys(one.case.peer for one in results.measured):
        found = [one for one in results.measured if one.case.peer == peer]
        kinds: dict[str, tuple[int, str]] = {}
        for each in (each for one in found for each in one.rounds):
            for kind, (number_of, example) in each.errors.items():
                kinds[kind] = kinds.get(kind, (0, ""))[0] + number_of, example
        errors = "; ".join(f"{many:,} {kind}: {example[:120]}" for kind, (many, example) in kinds.items())
        off_by = sum(one.off_by for one in found)
        if off_by or errors:
            tables_of = ", ".join(dict.fromkeys(one.case.scenario for one in found if one.off_by))
            rows.append((PEERS[peer].title, f"{off_by:,}", tables_of, errors))
    heads = ("", "updates lost or doubled, at least", "in", "errors")
    return Table(
        "wrong", "Who lost or doubled updates that it had acknowledged, or failed", heads, tuple(rows)
    )


def _skipped(results: Results) -> Table:
    return Table("skipped", "Not measured", ("what", "why"), tuple(results.skipped.items()))


def _targets(results: Results) -> Table:
    rows = tuple((outcome.target.title, *_judged(outcome)) for outcome in outcomes(results))
    return Table("targets", "Targets", ("", "measured", "target", ""), rows)


def _judged(outcome: Outcome) -> tuple[str, str, str]:
    target = outcome.target
    bound = f"{'>=' if target.at_least else '<='} {target.bound:g} {target.unit}".rstrip()
    if outcome.figure is None:
        return "", bound, "not measured"
    if math.isinf(outcome.figure):
        return "not all done", bound, MISSED
    return f"{outcome.figure:.3g} {target.unit}".rstrip(), bound, MET if outcome.met else MISSED


def _peers(results: Results) -> Table:
    used = dict.fromkeys(one.case.peer for one in results.measured if one.rounds)
    rows = tuple((PEERS[peer].title, PEERS[peer].form) for peer in used)
    return Table("peers", "What was measured", ("", "in this form"), rows)


def _where(results: Results) -> Table:
    about = results.about
    machine: dict[str, Any] = about["machine"]
    calls = about["calls"]
    rows = {
        "machine": f"{machine['cpu']}, {machine['cpus']} CPUs; {machine['system']}",
        "Python": machine["python"].split()[0],
        "servers": ", ".join(about.get("programs", {}).values()),
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "txstate's code": about["source"],
        "placements": "; ".join(_placed(name, each) for name, each in about["placements"].items()),
        "calls that measured began": ", ".join(call["started"] for call in calls),
        "others' share of the CPUs before a call": f"at most {max(call['busy_before'] or 0 for call in calls):.0%}",
    }
    return Table("where", "Where", ("", ""), tuple(rows.items()))


def _placed(name: str, placement: dict[str, list[int]]) -> str:
    server, clients = (" ".join(map(str, placement[side])) or "anywhere" for side in ("server", "clients"))
    return f"{name}: server on CPU {server}, clients on {clients}"
