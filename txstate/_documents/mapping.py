"""What documents and snapshots have in common with a dict, beyond what `Mapping` brings: ``==`` and ``|``."""

from __future__ import annotations

from collections.abc import Mapping

from txstate._documents.codec import JSON


class DictLike(Mapping[str, JSON]):
    """A mapping that compares by content, and is merged with ``|`` into a plain dict."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        """Equal to any mapping with the same fields; the key and the version don't count."""
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # like every mapping that compares by content

    def __or__(self, other: Mapping[str, JSON]) -> dict[str, JSON]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, JSON]) -> dict[str, JSON]:
        return {**other, **self}
