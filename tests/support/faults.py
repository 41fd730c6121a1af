"""What the tests of faults have in common: servers, a store behind the fault proxy, and what a commit is to the proxy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.servers import BINARIES
from support.twins import open_twin

from txstate.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.twins import Twin

    from txstate.testing import Command

newest_and_oldest: Final = pytest.mark.parametrize("server", ["valkey9", "redis6"], indirect=True)
every_server: Final = pytest.mark.parametrize("name", list(BINARIES))
"""For tests that start a server of their own."""
field_ttl_servers: Final = pytest.mark.parametrize("server", ["valkey9", "redis8"], indirect=True)


def of_commit(command: Command) -> bool:
    """Whether a MULTI or an EXEC belongs to a commit: the first ones on a connection prove that they are allowed."""
    return command.nth > 1


@contextmanager
def proxied(kind: str, url: str, **options: Any) -> Iterator[tuple[FaultProxy, Twin]]:
    """A fault proxy before this address, and a store of this kind behind it; the options are the store's."""
    with FaultProxy(url) as proxy, open_twin(kind, proxy.url, **options) as twin:
        yield proxy, twin
