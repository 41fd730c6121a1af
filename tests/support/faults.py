"""What the tests of faults have in common: which servers they run on, and what a commit is to the fault proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from txstate.testing import Command

newest_and_oldest: Final = pytest.mark.parametrize("server", ["valkey9", "redis6"], indirect=True)
field_ttl_servers: Final = pytest.mark.parametrize("server", ["valkey9", "redis8"], indirect=True)


def of_commit(command: Command) -> bool:
    """Whether a MULTI or an EXEC belongs to a commit: the first ones on a connection prove that they are allowed."""
    return command.nth > 1
