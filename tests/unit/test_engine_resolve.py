"""In doubt (design 4.5): what the resolver asks, what it concludes, and when there is no doubt at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.scripted import QUEUED, TIME, Wire, error, lost

from txstate import events
from txstate._effects import Acquire, Connect, Send, Unreachable
from txstate._engine.plain import resolve_token
from txstate.errors import CommitUnknown, ServerRefused, UsageError
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from support.scripted import Fields

    from txstate.tx import Tx

TOKEN = b"__txstate__:token:id1"
ASK = [("EXPIRE", TOKEN, b"3600"), ("GET", TOKEN)]
FENCE = [
    ("SET", TOKEN, b"fence", "NX", "EX", b"3600"),
    ("GET", TOKEN),
    ("HGET", b"a", b"__version__"),
]


def add_one(tx: Tx) -> int:
    doc = tx.get("a")
    doc["n"] += 1
    return int(doc["n"])


def in_doubt(*asked: list[object], **documents: Fields) -> Wire:
    """A wire that loses the first commit, and answers the resolver so."""
    wire = Wire(documents or {"a": {"n": 1}})
    wire.next("commit", lost(b"OK", QUEUED))
    wire.next("ask", *asked)
    return wire


def test_the_resolver_touches_then_looks_plainly_on_a_fresh_connection() -> None:
    wire = in_doubt([1, b"1"])
    wire.transact(add_one)
    assert wire.batches("ask") == [ASK]
    commit, connect, ask = wire.effects[-3:]
    assert isinstance(commit, Send)
    assert isinstance(connect, Connect)
    assert isinstance(ask, Send)
    assert (commit.commands[0], ask.commands) == (("MULTI",), ASK)
    wire.assert_settled()


def test_own_number_is_committed_and_the_result_is_returned() -> None:
    wire = in_doubt([1, b"1"])
    runs: list[int] = []
    called: list[int] = []

    def change(tx: Tx) -> int:
        runs.append(tx.attempt)
        doc = tx.get("a")
        tx.on_commit(lambda: called.append(doc.committed_version))
        return add_one(tx)

    assert wire.transact(change) == 2
    assert (runs, called) == ([1], [TIME])
    assert wire.kinds() == ["read", "commit", "ask"]
    token = "1@" + TOKEN.decode()
    assert wire.events[:2] == [
        events.InDoubt(token=token, attempt=1),
        events.Resolved(token=token, resolution=Resolution.COMMITTED),
    ]
    stats = wire.settings.counters.stats()
    assert (stats.in_doubt, stats.resolved_committed, stats.commits) == (1, 1, 1)


def test_another_value_is_not_committed_and_retried_from_watch() -> None:
    wire = in_doubt([1, b"0"])
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit", "ask", "read", "commit"]
    retry = wire.batches("read")[1]
    assert retry[0][:2] == ("SET", b"__txstate__:token:id2"), "a token is retired with its connection"
    assert retry[1] == ("WATCH", b"__txstate__:token:id2", b"a")
    assert wire.settings.counters.stats().resolved_aborted == 1
    wire.assert_settled()


@pytest.mark.parametrize(
    "answers", [lost(), lost(1), Unreachable("refused"), error("LOADING"), [error("LOADING"), b"1"]]
)
def test_both_are_repeated_if_either_reply_is_missing(answers: object) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost())
    wire.next("ask", answers, [1, b"1"])  # type: ignore[arg-type]  # a list of Answer
    assert wire.transact(add_one) == 2
    assert wire.batches("ask") == [ASK, ASK]
    wire.assert_settled()


def test_an_expire_without_its_get_is_no_answer() -> None:
    """An old EXEC may run between the two: a late EXPIRE and an early GET must not be put together."""
    wire = in_doubt(lost(1), [1, b"0"])  # type: ignore[arg-type]  # a failure in place of an answer
    wire.transact(add_one)
    assert wire.batches("ask") == [ASK, ASK]


@pytest.mark.parametrize(
    "replies",
    [
        [b"OK", QUEUED, QUEUED, [b"OK", 1]],
        [b"OK", QUEUED, QUEUED, None],
        [b"OK", QUEUED, QUEUED, error("EXECABORT because of: OOM x")],
    ],
    ids=["committed", "conflict", "refused"],
)
def test_nothing_is_in_doubt_once_the_reply_to_exec_was_read(replies: list[object]) -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost(*replies))
    if isinstance(replies[-1], Exception):
        with pytest.raises(ServerRefused):
            wire.transact(add_one)
    else:
        assert wire.transact(add_one) == 2
    assert "ask" not in wire.kinds()
    assert wire.settings.counters.stats().in_doubt == 0
    wire.assert_settled()


def test_nothing_is_in_doubt_if_nothing_was_sent() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost(sent=False))
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit", "read", "commit"]
    assert wire.settings.counters.stats().in_doubt == 0
    wire.assert_settled()


def test_queue_errors_without_the_reply_to_exec_are_still_in_doubt() -> None:
    wire = Wire(a={"n": 1})
    wire.next("commit", lost(b"OK", error("OOM"), QUEUED))
    wire.next("ask", [1, b"0"])
    wire.transact(add_one)
    assert "ask" in wire.kinds()


# The token is gone


@pytest.mark.parametrize("asked", [[0, None], [1, None], [0, b"fence"], [1, b"fence"]])
def test_without_the_token_fence_and_versions_decide(asked: list[object]) -> None:
    wire = in_doubt(asked)
    wire.next("fence", [b"OK", b"fence", b"7"])
    assert wire.transact(add_one) == 2
    assert wire.batches("fence") == [FENCE]
    assert wire.kinds() == ["read", "commit", "ask", "fence", "read", "commit"]


@pytest.mark.parametrize(
    "fenced",
    [[b"OK", b"fence", b"8"], [b"OK", b"fence", None], [None, b"other", b"7"], [b"OK", None, b"7"]],
    ids=["written since", "gone", "no fence", "fence gone"],
)
@pytest.mark.parametrize("asked", [[0, None], [1, b"fence"]], ids=["absent", "an old fence"])
def test_without_the_token_anything_else_is_unknown(asked: list[object], fenced: list[object]) -> None:
    wire = in_doubt(asked)
    wire.next("fence", fenced)
    with pytest.raises(CommitUnknown) as unknown:
        wire.transact(add_one)
    assert unknown.value.known is Resolution.UNKNOWN
    assert unknown.value.token == "1@" + TOKEN.decode()
    assert wire.kinds() == ["read", "commit", "ask", "fence"]
    assert wire.settings.counters.stats().unknown == 1
    wire.assert_settled()


def test_the_old_exec_may_have_run_before_the_fence() -> None:
    wire = in_doubt([0, None])
    wire.next("fence", [None, b"1", b"9"])
    assert wire.transact(add_one) == 2
    assert wire.kinds() == ["read", "commit", "ask", "fence"]


def test_the_token_may_come_back_between_expire_and_get() -> None:
    wire = in_doubt([0, b"1"])
    wire.next("fence", [None, b"1", b"9"])
    assert wire.transact(add_one) == 2


def test_another_value_that_expire_did_not_touch_shows_nothing() -> None:
    """The token is gone and back, so whoever watched it may not have been told."""
    wire = in_doubt([0, b"0"])
    wire.next("fence", [None, b"0", b"7"])
    with pytest.raises(CommitUnknown):
        wire.transact(add_one)


def test_a_lost_reply_to_the_fence_asks_again_from_the_beginning() -> None:
    wire = in_doubt([0, None], [1, b"fence"])
    wire.next("fence", lost(b"OK", b"fence"), [None, b"fence", b"7"])
    assert wire.transact(add_one) == 2
    assert wire.kinds()[2:6] == ["ask", "fence", "ask", "fence"]


@pytest.mark.parametrize(
    "function", [add_one, lambda tx: tx.put("b", {"n": 1})], ids=["made by others", "missing"]
)
def test_documents_without_a_version_cannot_testify(function: object) -> None:
    wire = in_doubt([0, None])
    wire.hashes[b"a"] = {b"n": b"1"}
    with pytest.raises(CommitUnknown, match="once or not at all"):
        wire.transact(function)  # type: ignore[arg-type]  # either is one of a Tx
    assert wire.kinds() == ["read", "commit", "ask"]


def test_all_documents_written_must_testify() -> None:
    wire = in_doubt([0, None], a={"n": 1}, b={"n": 1})
    wire.next("fence", [b"OK", b"fence", b"7", b"8"])

    def change(tx: Tx) -> None:
        add_one(tx)
        tx.get("b")["n"] = 5

    with pytest.raises(CommitUnknown):
        wire.transact(change)
    assert wire.batches("fence")[0][2:] == [("HGET", b"a", b"__version__"), ("HGET", b"b", b"__version__")]


# Nobody to ask


def test_no_server_until_the_deadline_is_unknown() -> None:
    wire = Wire(a={"n": 1}, deadline=3.0)
    wire.next("commit", lost())
    wire.next("connect", {}, *[Unreachable("refused")] * 1000)
    with pytest.raises(CommitUnknown) as unknown:
        wire.transact(add_one)
    assert unknown.value.token == "1@" + TOKEN.decode()
    assert isinstance(unknown.value.__cause__, Unreachable)
    assert 2.5 < wire.now <= 3.01
    wire.assert_settled()


def test_a_resolver_that_is_refused_for_good_does_not_go_on() -> None:
    wire = in_doubt([error("NOPERM no rights"), error("NOPERM no rights")])
    with pytest.raises(CommitUnknown, match="NOPERM"):
        wire.transact(add_one)
    assert wire.kinds() == ["read", "commit", "ask"]
    wire.assert_settled()


def test_the_commit_leaves_half_of_the_time_to_resolve_in() -> None:
    wire = Wire(a={"n": 1}, deadline=1.0)
    wire.transact(add_one)
    commit = wire.effects[-1]
    assert isinstance(commit, Send)
    assert commit.timeout <= 0.5


# Later, by hand


@pytest.mark.parametrize(
    ("asked", "resolution"),
    [
        ([1, b"5"], Resolution.COMMITTED),
        ([1, b"6"], Resolution.NOT_COMMITTED),
        ([1, b"4"], Resolution.NOT_COMMITTED),
        ([1, b"fence"], Resolution.UNKNOWN),
        ([0, None], Resolution.UNKNOWN),
        ([error("NOPERM no"), None], Resolution.UNKNOWN),
    ],
)
def test_store_resolve(asked: list[object], resolution: Resolution) -> None:
    wire = Wire()
    wire.next("ask", asked)
    assert wire.run(resolve_token(wire.settings, "5@" + TOKEN.decode())) is resolution
    assert wire.batches("ask") == [ASK]
    assert "fence" not in wire.kinds()
    wire.assert_settled()


@pytest.mark.parametrize(
    "token", ["", "5", "x@__txstate__:token:1", "5@elsewhere:token:1", "5@__txstate__:claim:1", 5]
)
def test_store_resolve_refuses_what_is_no_token(token: str) -> None:
    wire = Wire()
    with pytest.raises(UsageError, match="is not the token"):
        wire.run(resolve_token(wire.settings, token))
    assert not any(isinstance(effect, Acquire) for effect in wire.effects)


def test_store_resolve_of_an_error_without_a_token_asks_nobody() -> None:
    wire = Wire()
    assert wire.run(resolve_token(wire.settings, None)) is Resolution.UNKNOWN
    assert wire.effects == []


def test_store_resolve_gives_an_answer_within_the_deadline() -> None:
    wire = Wire(deadline=2.0)
    wire.next("connect", *[Unreachable("refused")] * 1000)
    assert wire.run(resolve_token(wire.settings, "5@" + TOKEN.decode())) is Resolution.UNKNOWN
    assert wire.now <= 2.01
    wire.assert_settled()
