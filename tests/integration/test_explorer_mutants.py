"""Each mutant is caught by the killers that it names, and the real engine passes every one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import evidence, killers
from support.evidence import CAUGHT, Caught
from support.mutants import MISSING, MUTANTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.mutants import Killer, Mutant
    from support.servers import ServerHandle

PAIRS = [(mutant, killer) for mutant in MUTANTS for killer in mutant.killers]
KILLERS = list(dict.fromkeys(killer for _, killer in PAIRS))
LONG = (killers.three_increments_under_any_fault,)


@pytest.mark.parametrize(
    "killer",
    [pytest.param(killer, marks=[pytest.mark.soak] if killer in LONG else []) for killer in KILLERS],
    ids=lambda killer: killer.__name__,
)
def test_the_real_engine_passes(killer: Killer, valkey9: ServerHandle) -> None:
    found = killer(valkey9)
    assert not found.broken, found.told


@pytest.mark.proof
@pytest.mark.parametrize(("mutant", "killer"), PAIRS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_the_mutant_is_caught(
    mutant: Mutant,
    killer: Killer,
    valkey9: ServerHandle,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    mutant.mutate(monkeypatch)
    found = killer(valkey9)
    assert found.broken
    record_property(CAUGHT, Caught(mutant.name, mutant.breaks, killer.__name__, found.told))


@pytest.mark.proof
def test_the_catalogue_is_in_order(record_property: Callable[[str, object], None]) -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len({*names, *MISSING}) == len(names) + len(MISSING)
    assert all(mutant.killers for mutant in MUTANTS)
    assert all(killer.__doc__ and killer.__module__ == killers.__name__ for killer in KILLERS)
    record_property(evidence.MISSING, MISSING)
