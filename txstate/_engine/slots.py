"""Slots of a cluster: which one a name is in, and how a name gets into one.

A transaction lives in one slot, and so do its token and its claims, which are the library's own keys. They get there by
a hash tag out of a table with one short tag for each slot. Wrapping the user's key in braces would not do: the names
``{u1}:x``, ``foo{}bar`` and ``a}b`` show why.
"""

from __future__ import annotations

import os.path
from binascii import crc_hqx
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Final

from txstate.errors import CrossSlotError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOTS: Final = 16384
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
_SHOWN: Final = 5
"""Keys that an error message shows, at most."""
_SEPARATORS: Final = ":/.-_|"


def slot_of(name: bytes) -> int:
    """The slot of a key: CRC16 of its hash tag, or of all of it, as the cluster specification says."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def tag_for(namespace: str, slot: int | None) -> str:
    """What puts a name that starts with this namespace into a slot, behind it; "" if nothing is needed."""
    return "" if slot is None or "{" in namespace else f"{{{_tags()[slot]}}}"


def check_namespace(namespace: str) -> None:
    """Refuse a namespace under which the library's own keys could not share the slot of a document.

    A hash tag in it is fine: it decides the slot of everything.

    Raises:
        UsageError: it opens a brace, and no hash tag comes of it.
    """
    before, brace, rest = namespace.partition("{")
    tag, closing, _ = rest.partition("}")
    if brace and not (tag and closing):
        raise UsageError(
            f"the namespace {namespace!r} can't be used in a cluster: the first brace of a key decides its slot, and "
            f"this one makes no hash tag. Use {before + '{name}:'!r}, or no brace"
        )


def one_slot(names: Mapping[str, bytes]) -> int:
    """The slot that all these keys are in.

    Args:
        names: the user's keys, with the names that they have on the server.

    Raises:
        CrossSlotError: there are several.
    """
    slots = {key: slot_of(name) for key, name in names.items()}
    first = next(iter(slots.values()))
    if any(slot != first for slot in slots.values()):
        firsts: dict[int, str] = {}
        for key, slot in slots.items():
            firsts.setdefault(slot, key)
        apart = list(firsts.values())
        shown = list(slots) if len(slots) <= _SHOWN else apart[:_SHOWN]
        where = ", ".join(f"{key!r} is in slot {slots[key]}" for key in shown)
        more = f", and {len(slots) - len(shown):,} keys more" if len(slots) > len(shown) else ""
        raise CrossSlotError(
            f"a transaction lives in one slot of a cluster, but {where}{more}; nothing was applied. Give the "
            f"keys a common hash tag, as in {_advice(apart)}, or the store a namespace with one, as in '{{app}}:'",
            keys=tuple(slots),
        )
    return first


def _advice(keys: list[str]) -> str:
    """The same keys with a common hash tag."""
    bare = [key.replace("{", "").replace("}", "") for key in keys[:2]]
    common = os.path.commonprefix(bare).rstrip(_SEPARATORS)  # noqa: RUF071 - character by character is what is wanted
    tag, separator = (common, "") if common else ("shared", ":")
    return " and ".join(repr(f"{{{tag}}}{separator}{key[len(common) :]}") for key in bare)


@cache
def _tags() -> list[str]:
    """For each slot a short text that is in it; the first in alphabetical order."""
    tags: list[str | None] = [None] * SLOTS
    missing = SLOTS
    for letters in product(_LETTERS, repeat=4):
        text = bytes(letters)
        slot = crc_hqx(text, 0) % SLOTS
        if tags[slot] is None:
            tags[slot] = text.decode()
            missing -= 1
            if not missing:
                break
    return [tag for tag in tags if tag is not None]
