"""What became of a commit whose reply was lost."""

from __future__ import annotations

import enum


class Resolution(enum.Enum):
    """The answer of `store.resolve`."""

    COMMITTED = "committed"
    """Applied, once."""
    NOT_COMMITTED = "not committed"
    """Not applied, and it never will be: a copy still on its way can no longer succeed."""
    UNKNOWN = "unknown"
    """The evidence is gone, or no server could be asked."""
