"""The pytest plugin: an empty server, and stores on it, for tests of your own transactions.

It gives `txstate_server`, `txstate_store` and `txstate_async_store`; docs/testing.md has a test that finds two bugs by
them. Each test gets an empty database; the server is started once for all of them, and only if a test asks for it.

pytest loads this module in every test suite of the environment, so it imports nothing but pytest until a fixture is
used, and stands outside of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txstate import AsyncStore, Store
    from txstate.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def _txstate_private_server() -> Iterator[EmbeddedServer]:
    from txstate.embedded import open_private  # noqa: PLC0415 - only tests that ask for it pay for it

    server = open_private()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def txstate_server(_txstate_private_server: EmbeddedServer) -> EmbeddedServer:
    """A private server without data: `.url`, or for `txstate.testing.explore(..., server=txstate_server)`."""
    from txstate.embedded.home import ask  # noqa: PLC0415 - as above

    answer = ask(unquote(_txstate_private_server.url.removeprefix("unix://")), "FLUSHALL")
    if not answer.startswith("+OK"):
        pytest.fail(f"the test server could not be emptied: it answered {answer!r}")
    return _txstate_private_server


@pytest.fixture
def txstate_store(txstate_server: EmbeddedServer) -> Iterator[Store]:
    """A `Store` on an empty server."""
    from txstate import Store  # noqa: PLC0415 - as above

    with Store(txstate_server.url) as store:
        yield store


@pytest.fixture
def txstate_async_store(txstate_server: EmbeddedServer) -> Iterator[AsyncStore]:
    """An `AsyncStore` on an empty server, not opened yet: ``async with txstate_async_store as store: ...``.

    It belongs to the event loop of the test, and must be closed in it; with any plugin for async tests, or with
    `asyncio.run`.
    """
    from txstate import AsyncStore  # noqa: PLC0415 - as above

    store = AsyncStore(txstate_server.url)
    yield store
    driver = store._core.driver  # noqa: SLF001 - it belongs to this package
    assert driver is not None  # noqa: S101 - made by the constructor, as there is a URL
    if any(channel.connected for channel in driver.pool.all()):
        pytest.fail(
            "txstate_async_store was left open: use it in the test as `async with txstate_async_store as store:`"
        )
