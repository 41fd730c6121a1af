"""Armed connections in a cluster: what they had read is worth nothing once the slot has been elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.bank import TAG
from support.ledger import Tally
from support.twins import Twin, both_twins, open_twin

from txstate._engine.slots import slot_of

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.figures import Figures

    from txstate import AsyncTx

pytestmark = pytest.mark.fault(number=21)

SLOT = slot_of(TAG)
PAIR = ("{bank}:a", "{bank}:b")


class Odd(Exception):  # noqa: N818 - raised by a function of the user's
    """What the documents held when it was raised."""


async def total(tx: AsyncTx, keys: tuple[str, ...]) -> int:
    return sum([doc["n"] for doc in await tx.get_many(keys)])


async def refuse(tx: AsyncTx, keys: tuple[str, ...]) -> None:
    raise Odd(await total(tx, keys))


async def add(tx: AsyncTx, keys: tuple[str, ...]) -> None:
    for doc in await tx.get_many(keys):
        doc.increment("n")


def returned(twin: Twin, keys: tuple[str, ...]) -> int:
    """What a function saw that returned."""
    return twin.run(total, keys)


def refused(twin: Twin, keys: tuple[str, ...]) -> int:
    """What a function saw that raised."""
    with pytest.raises(Odd) as odd:
        twin.run(refuse, keys)
    return int(odd.value.args[0])


def armed(twin: Twin, keys: tuple[str, ...]) -> int:
    """Read again and again, until that takes one round trip, the proof of what an armed connection had read."""
    for _ in range(3):
        twin.run(total, keys)
    before = twin.stats
    found = twin.run(total, keys)
    after = twin.stats
    assert after.round_trips - before.round_trips == 1
    assert after.connections == before.connections
    return found


@both_twins
@pytest.mark.parametrize("keys", [PAIR[:1], PAIR], ids=["one document", "two"])
def test_what_an_armed_connection_had_read_is_not_used_once_the_slot_was_elsewhere(
    kind: str, keys: tuple[str, ...], any_cluster: Cluster, figures: Figures
) -> None:
    """Another writer changes the documents at the new owner; the old one still holds what was read, and is a primary."""
    cluster = any_cluster
    moves = [cluster.move, cluster.move_at_once] if cluster.version.startswith("9") else [cluster.move]
    seen, expected, disruptions = [], [], 0
    with open_twin(kind, cluster.url) as twin, open_twin("sync", cluster.url) as other:
        for key in keys:
            twin.put(key, {"n": 0})
        count = 0
        for move in moves:
            for look in (returned, refused):
                for back in (False, True):
                    assert armed(twin, keys) == count * len(keys)
                    here, before = cluster.owner(SLOT), twin.stats
                    move(SLOT)
                    other.run(add, keys)
                    if back:
                        move(SLOT, here)
                    count += 1
                    seen.append(look(twin, keys))
                    expected.append(count * len(keys))
                    after = twin.stats
                    assert after.conflicts + after.disruptions > before.conflicts + before.disruptions
                    disruptions += 1
    assert seen == expected
    figures(
        cluster.nodes[0], fired=disruptions, tally=Tally(attempted=count, acknowledged=count, applied=count)
    )


@both_twins
def test_nor_while_the_slot_is_half_way(kind: str, any_cluster: Cluster, figures: Figures) -> None:
    """The old owner still owns the slot, but the documents have left."""
    cluster = any_cluster
    here = cluster.owner(SLOT)
    there = cluster.other_primary(here)
    with open_twin(kind, cluster.url) as twin, open_twin("sync", cluster.url) as other:
        for key in PAIR:
            twin.put(key, {"n": 0})
        assert armed(twin, PAIR) == 0
        before = twin.stats.disruptions
        cluster.begin_move(SLOT, here, there)
        while cluster.move_keys(SLOT, here, there):
            pass
        other.run(add, PAIR)
        assert twin.run(total, PAIR) == 2
        assert twin.get(PAIR[0]) == {"n": 1}
        disrupted = twin.stats.disruptions - before
        # From here on its connection to the new owner is used again, which is no owner yet.
        asked = cluster.calls(there, "asking")
        assert armed(twin, PAIR) == 2
        assert cluster.calls(there, "asking") > asked
        other.run(add, PAIR)
        assert refused(twin, PAIR) == 4
        assert armed(twin, PAIR) == 4
        cluster.end_move(SLOT, here, there)
        other.run(add, PAIR)
        assert twin.run(total, PAIR) == 6
        figures(here, fired=disrupted, tally=Tally(attempted=3, acknowledged=3, applied=3))
