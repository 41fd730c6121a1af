"""What users of other libraries complain of, where no other test shows it: state that comes back from the dead, and lies.

A session that a slow request brings back after a logout; a value from before a broken connection; a version that repeats
or resets; an object in memory that has changed though its commit has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.twins import both_twins, open_twin
from support.wire import client_of

from txstate import ConflictError, Retry, Store, VersionMismatch

if TYPE_CHECKING:
    from support.servers import ServerHandle

    from txstate import AsyncTx


@both_twins
def test_a_slow_request_does_not_undo_a_logout(kind: str, valkey9: ServerHandle) -> None:
    """It has read the session, and saves it when that is gone."""
    found: list[bool] = []
    with open_twin(kind, valkey9.url) as slow, Store(valkey9.url) as other:
        other.put("session", {"user": "ann", "cart": []})

        async def request(tx: AsyncTx) -> None:
            session = await tx.get("session")
            found.append(session.exists)
            if tx.attempt == 1:
                assert other.delete("session")  # the logout
            if session.exists:
                session["cart"].append("book")

        slow.run(request)
        assert found == [True, False]
        assert other.get("session") is None


def test_a_session_that_was_loaded_and_is_saved_as_a_whole_is_not_brought_back_either(
    valkey9: ServerHandle,
) -> None:
    with Store(valkey9.url) as slow, Store(valkey9.url) as other:
        loaded = slow.put("session", {"user": "ann"})
        other.delete("session")
        with pytest.raises(VersionMismatch) as refused:
            slow.put("session", {**loaded, "seen": 1}, if_version=loaded.version)
        assert refused.value.found == 0
        # Nor is one that begins anew under its name taken for it.
        again = other.put("session", {"user": "bob"})
        assert again.version > loaded.version
        with pytest.raises(VersionMismatch):
            slow.put("session", {**loaded, "seen": 1}, if_version=loaded.version)
        assert other.get("session") == {"user": "bob"}


@both_twins
def test_requests_that_change_different_fields_of_a_session_keep_each_other_s(
    kind: str, valkey9: ServerHandle
) -> None:
    with open_twin(kind, valkey9.url) as one, Store(valkey9.url) as other:
        one.put("session", {"user": "ann"})

        async def request(tx: AsyncTx) -> None:
            session = await tx.get("session")
            if tx.attempt == 1:
                other.update("session", lambda doc: doc.update(language="de"))
            session["theme"] = "dark"

        one.run(request)
        assert one.get("session") == {"user": "ann", "language": "de", "theme": "dark"}


@both_twins
@pytest.mark.parametrize("fields", [None, ["n"]], ids=["whole", "fields"])
def test_what_was_read_ahead_on_a_connection_that_broke_is_never_used(
    kind: str, fields: list[str] | None, valkey9: ServerHandle
) -> None:
    """Repeated transactions have read ahead; then the connection breaks, others write, and nobody is told."""

    async def look(tx: AsyncTx) -> Any:
        return (await tx.get("doc", fields))["n"]

    async def add(tx: AsyncTx) -> Any:
        return (await tx.get("doc", fields)).increment("n")

    with client_of(valkey9.unix_url) as admin, open_twin(kind, valkey9.url) as twin:
        twin.put("doc", {"n": 0})
        for round_ in range(3):
            for transaction in (look, add):
                for _ in range(4):
                    twin.run(add)  # so that the next one is read ahead
                admin.client_kill_filter(_type="normal", skipme=True)
                admin.hset("doc", "n", 1000 * (round_ + 1))
                assert twin.run(transaction) == 1000 * (round_ + 1) + (transaction is add)
        assert twin.stats.round_trips < 2 * twin.stats.commits, "nothing was read ahead"


def test_versions_only_grow_whoever_writes_whatever_the_way(valkey9: ServerHandle) -> None:
    """Blindly, by update, by a document that others made, and after a deletion."""
    with client_of(valkey9.unix_url) as admin, Store(valkey9.url) as store, Store(valkey9.url) as other:
        versions = [
            store.put("doc", {"a": 1}).version,
            other.put("doc", {"a": 1, "b": 2}).version,  # which it had not read
            store.update("doc", lambda doc: doc.update(a=2)).version,
        ]
        other.delete("doc")
        versions.append(store.put("doc", {"a": 1}).version)
        admin.delete("doc")
        admin.hset("doc", "a", "1")  # by another client, without a version: it counts as 1
        versions.append(store.update("doc", lambda doc: doc.update(a=2)).version)
    assert versions == sorted(set(versions))


def test_what_a_caller_holds_is_as_it_was_when_its_commit_has_failed(valkey9: ServerHandle) -> None:
    with Store(valkey9.url) as store, Store(valkey9.url) as other:
        hasty = store.options(retry=Retry(deadline=0.2))
        held = store.put("doc", {"tags": ["a"], "n": 1})
        before = (held.version, held.to_dict())
        mine = held.to_dict()
        mine["n"] = 2
        other.update("doc", lambda doc: doc["tags"].append("b"))
        with pytest.raises(VersionMismatch):
            store.put("doc", mine, if_version=held.version)
        with pytest.raises(ConflictError):
            hasty.update("doc", lambda doc: (doc["tags"].append("c"), other.update("doc", _count)))
        assert (held.version, held.to_dict()) == before
        assert mine == {"tags": ["a"], "n": 2}
        found = store.get("doc")
        assert found is not None
        assert found["tags"] == ["a", "b"]


def _count(doc: Any) -> None:
    doc.increment("n")
