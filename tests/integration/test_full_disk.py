"""A full disk under the server of a folder: what docs/durability.md says of it. A limit on its files stands for the disk."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import pytest
import redis
from support.wire import eventually

from txstate import CommitUnknown, Retry, ServerRefused, Store, StoreUnavailable, TxStateError, embedded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the limit of another process can be lifted on Linux"
)

LARGE = "x" * 10_000


@pytest.fixture
def limited(tmp_path: Path) -> Path:
    """A server whose log can't grow beyond some 100 kB. The limit's signal is ignored, so that it is an error as ENOSPC is."""
    script = tmp_path / "limited"
    script.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -S -f 200\nexec '{embedded.find_server()}' \"$@\"\n")
    script.chmod(0o700)
    return script


def fill(store: Store) -> tuple[list[str], TxStateError]:
    """Write documents until one can't be written; those that were acknowledged, and why."""
    acknowledged: list[str] = []
    while True:
        key = f"k{len(acknowledged)}"
        try:
            store.put(key, {"large": LARGE})
        except TxStateError as error:
            return acknowledged, error
        acknowledged.append(key)


def missing(folder: Path, keys: list[str]) -> list[str]:
    """What is no longer there when the folder is opened anew, with room on the disk."""
    with Store(folder) as store:
        return [key for key, found in store.get_many(keys).items() if found is None]


def store_of(server: embedded.EmbeddedServer) -> Store:
    return Store(server.url, retry=Retry(deadline=0.5))


def works(call: Callable[[], object]) -> bool:
    try:
        call()
    except TxStateError:
        return False
    return True


def test_with_everysec_writes_are_refused_until_there_is_room_again(tmp_path: Path, limited: Path) -> None:
    server = embedded.open_folder(tmp_path / "state", server=limited)
    with store_of(server) as store:
        acknowledged, error = fill(store)
        assert isinstance(error, ServerRefused)
        assert error.code == "MISCONF"
        assert store.get(acknowledged[-1]) == {"large": LARGE}
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        eventually(lambda: works(lambda: store.put("later", {})))
    server.close()
    assert missing(tmp_path / "state", [*acknowledged, "later"]) == []


def test_with_everysec_a_server_that_ends_meanwhile_may_lose_what_it_acknowledged_last(
    tmp_path: Path, limited: Path
) -> None:
    server = embedded.open_folder(tmp_path / "state", server=limited)
    with store_of(server) as store:
        acknowledged, error = fill(store)
        assert isinstance(error, ServerRefused)
    server.close()
    assert missing(tmp_path / "state", acknowledged) in ([], acknowledged[-1:])


def test_with_always_nothing_is_lost_that_was_acknowledged(tmp_path: Path, limited: Path) -> None:
    server = embedded.open_folder(tmp_path / "state", server=limited, fsync="always")
    with store_of(server) as store:
        acknowledged, error = fill(store)
        assert isinstance(error, CommitUnknown | StoreUnavailable)
    server.close()
    assert acknowledged
    assert missing(tmp_path / "state", acknowledged) == []
