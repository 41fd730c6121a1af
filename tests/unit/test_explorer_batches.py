"""What a timeline makes of the engine's batches."""

from __future__ import annotations

import pytest

from txstate._effects import ReplyError
from txstate._engine.guarded import guarded_write
from txstate._engine.reads import FieldTTLsRead
from txstate.testing._explorer.batches import Batch, Kind, documents_in

TOKEN = b"__txstate__:token:1"
CLAIM = b"__txstate__:claim:k"
COMMIT = [
    ("MULTI",),
    ("SET", TOKEN, b"1", "EX", b"3600"),
    ("HSET", b"k", b"__version__", b"2", b"n", b"5"),
    ("HDEL", b"k", b"old"),
    ("EXEC",),
]
TAIL = [
    ("WATCH", TOKEN, b"k"),
    ("HGETALL", b"k"),
    ("TIME",),
    ("MGET", CLAIM),
    ("EXISTS", TOKEN, b"k"),
    ("CLIENT", "INFO"),
]
QUEUED = [b"OK", b"QUEUED", b"QUEUED", b"QUEUED"]
BEHIND = [b"OK", [b"__version__", b"2", b"n", b"5"], [b"1", b"2"], [None], 2, b"id=3 flags=N db=0"]


def test_the_answer_of_a_commit_is_that_of_its_exec_whatever_stands_behind() -> None:
    applied = Batch([*COMMIT, *TAIL], [*QUEUED, [b"OK", 0, 1], *BEHIND])
    assert (applied.kind, applied.arms, applied.applied, applied.conflict) == (Kind.COMMIT, True, True, False)
    assert list(applied.written()) == [("k", "n", "5")]
    assert list(applied.others()) == [("k", "HDEL")]
    assert list(applied.loaded()) == [("k", {"n": "5"})]
    conflict = Batch([*COMMIT, *TAIL], [*QUEUED, None, *BEHIND])
    assert (conflict.applied, conflict.conflict) == (False, True)
    refused = Batch(COMMIT, [b"OK", b"QUEUED", ReplyError("OOM"), b"QUEUED", ReplyError("EXECABORT")])
    assert (refused.applied, refused.conflict) == (False, False)
    assert refused.errors == [ReplyError("OOM"), ReplyError("EXECABORT")]
    in_part = Batch(COMMIT, [*QUEUED, [b"OK", ReplyError("WRONGTYPE"), 1]])
    assert (in_part.applied, in_part.errors) == (True, [ReplyError("WRONGTYPE")])
    unanswered = Batch(COMMIT, None)
    assert (unanswered.applied, unanswered.conflict, unanswered.errors) == (False, False, [])


@pytest.mark.parametrize(("answer", "applied"), [(b"written", True), (b"stale", False)])
def test_a_commit_by_script_is_one_too(answer: bytes, applied: bool) -> None:  # noqa: FBT001 - an example
    read = FieldTTLsRead("k", b"k", [b"n"])
    read.take([[1234567]])
    commands = [("MULTI",), *guarded_write([read], COMMIT[1:-1]), ("EXEC",)]
    batch = Batch(commands, [b"OK", b"QUEUED", [answer]])
    assert batch.kind is Kind.COMMIT
    assert (batch.applied, batch.conflict) == (applied, not applied)
    assert list(batch.written()) == [("k", "n", "5")]
    assert documents_in(commands) == ["k"]


def test_claims_are_told_from_those_of_others() -> None:
    claims = [("SET", CLAIM, b"me", "NX", "PX", b"60000"), ("MGET", CLAIM)]
    read = Batch([*TAIL[:2], *claims], [b"OK", [], b"OK", [b"me"]])
    assert (read.claims(), read.claimed()) == (["k"], [])
    assert Batch([*TAIL[:2], *claims], [b"OK", [], None, [b"you"]]).claimed() == ["k"]
    assert Batch([*TAIL[:2], claims[1]], [b"OK", [], [b"you"]]).claimed() == ["k"]


def test_what_else_there_is() -> None:
    dirty = Batch(TAIL, [*BEHIND[:-1], b"id=3 name=flags=N flags=d db=0"])
    assert (dirty.kind, dirty.stale) == (Kind.READ, True)
    assert not Batch(TAIL, BEHIND).stale
    assert Batch([("EXISTS", TOKEN, b"k"), ("CLIENT", "INFO")], None).kind is Kind.PROVE
    assert Batch([("MULTI",), ("EXEC",)], None).kind is Kind.CONNECT
    assert Batch([("EXPIRE", TOKEN, b"9"), ("GET", TOKEN)], None).kind is Kind.RESOLVE
    assert Batch([("SET", TOKEN, b"fence"), ("GET", TOKEN), ("HGET", b"k", b"f")], None).kind is Kind.FENCE
    assert Batch([("TYPE", b"k")], None).kind is Kind.OTHER
    plain = Batch([("MULTI",), ("HMGET", b"k", b"n"), ("EXEC",)], [b"OK", b"QUEUED", [[b"5"]]])
    assert (plain.kind, list(plain.loaded())) == (Kind.READ, [("k", {"n": "5"})])


def test_a_batch_that_stands_in_line_first_is_told_from_others() -> None:
    wait = ("BZPOPMIN", b"__txstate__:line:k", b"0.1")
    assert [Batch([*before, *TAIL[:2]], None).waits for before in ([], [wait])] == [False, True]
