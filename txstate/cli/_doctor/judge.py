"""Facts in, verdicts out: all of them, for one server or several. Pure code."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from txstate.cli._doctor.standing import Standing, Verdict
from txstate.cli._doctor.survival import failover, survival
from txstate.cli._doctor.verdicts import promises, without

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate.cli._doctor.facts import Facts, Sentinels

_NOBODY: Final[Mapping[str, str]] = MappingProxyType({})


def judge(facts: Facts, sentinels: Sentinels | None = None) -> list[Verdict]:
    """Judge the promises, in order, and what an acknowledged commit survives, for one server."""
    return [*promises(facts), *survival(facts, sentinels)]


def judge_all(
    nodes: Sequence[Facts], sentinels: Sentinels | None, silent: Mapping[str, str] = _NOBODY
) -> list[Verdict]:
    """Judge for several nodes: a promise stands as it does on the worst of them.

    Args:
        nodes: what they told.
        sentinels: around the only one.
        silent: nodes that could not be asked, and why.
    """
    judged = [(node.address, judge(node, sentinels)) for node in nodes]
    found = [
        _worst([(address, verdicts[at]) for address, verdicts in judged]) for at in range(len(judged[0][1]))
    ]
    if silent:
        found = [without(silent, verdict) if verdict.promise == "P6" else verdict for verdict in found]
    return found if sentinels is None else [*found, failover(sentinels)]


def _worst(found: Sequence[tuple[str, Verdict]]) -> Verdict:
    """The worst verdict on one promise; it names its nodes, unless it is the same everywhere."""
    ranks = list(Standing)
    worst = max((verdict.standing for _, verdict in found), key=ranks.index)
    reasons: dict[str, list[str]] = {}
    for address, verdict in found:
        if verdict.standing is worst:
            reasons.setdefault(verdict.reason, []).append(address)
    first = next(verdict for _, verdict in found if verdict.standing is worst)
    if len(reasons) == 1 and len(next(iter(reasons.values()))) == len(found):
        return first
    named = "; ".join(f"{', '.join(addresses)}: {reason}" for reason, addresses in reasons.items())
    return replace(first, reason=named)
