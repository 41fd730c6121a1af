"""What numbers of the caller's must be, refused in the same words everywhere."""

from __future__ import annotations

import math

from txstate.errors import UsageError


def check_count(what: str, value: object, least: int) -> None:
    """Refuse what is not an int, or too small.

    Args:
        what: the argument, as people write it: ``limit=``.
        value: what was passed.
        least: the smallest that will do.

    Raises:
        UsageError: it won't do.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{what} takes an int of {least} or more, not {value!r}")


def check_seconds(what: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is not a time to wait.

    Args:
        what: as above.
        value: the same.
        zero: whether 0 will do.

    Raises:
        UsageError: it won't do.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < math.inf and (zero or value)):  # type: ignore[operator]  # it is a number
        least = "seconds, 0 or more" if zero else "a positive, finite number of seconds"
        raise UsageError(f"{what} takes {least}, not {value!r}")
