"""Errors: each says whether the write may have happened, and survives the way to another process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import txstate
from txstate import errors
from txstate._effects import ReplyError
from txstate.errors import (
    CodecError,
    CommitUnknown,
    ConflictError,
    CrossSlotError,
    FieldNotLoaded,
    NotDurable,
    ServerRefused,
    StoreUnavailable,
    TxStateError,
    UsageError,
    VersionMismatch,
    WrongType,
)
from txstate.resolution import Resolution

DOUBT = "1@t"
ALL: list[tuple[TxStateError, dict[str, object], str]] = [
    (
        ConflictError(7, 1.5, {"a": 1, "b": 6}),
        {"attempts": 7, "elapsed": 1.5, "keys": {"b": 6, "a": 1}},
        "'b' 6 times",
    ),
    (
        VersionMismatch("a", 5, 7),
        {"key": "a", "expected": 5, "found": 7},
        "has version 7, expected to have version 5",
    ),
    (VersionMismatch("a", 0, 7), {"expected": 0, "found": 7}, "expected not to exist"),
    (VersionMismatch("a", 5, 0), {"expected": 5, "found": 0}, "does not exist"),
    (StoreUnavailable("no server; nothing was applied"), {}, "no server"),
    (ServerRefused("out of memory; nothing was applied", code="OOM"), {"code": "OOM"}, "out of memory"),
    (WrongType("a", "list"), {"key": "a", "found": "list"}, "holds a Redis list"),
    (CodecError("is no JSON", key="a", field="f"), {"key": "a", "field": "f"}, "'a', field 'f': is no JSON"),
    (CodecError("is no version", key="a"), {"key": "a", "field": None}, "'a': is no version"),
    (FieldNotLoaded("a", "f"), {"key": "a", "field": "f"}, "field 'f' was not fetched"),
    (FieldNotLoaded("a"), {"key": "a", "field": None}, "all fields are needed"),
    (CrossSlotError("two slots; nothing was applied", keys=["a", "b"]), {"keys": ("a", "b")}, "two slots"),
    (UsageError("not like this; nothing was applied"), {}, "not like this"),
    (NotDurable("applied, but not on disk", result={"n": 1}), {"result": {"n": 1}}, "applied"),
    (
        CommitUnknown(
            "who knows", token=DOUBT, known=Resolution.UNKNOWN, replies=[b"OK", ReplyError("OOM x")]
        ),
        {"token": DOUBT, "known": Resolution.UNKNOWN, "replies": (b"OK", ReplyError("OOM x"))},
        "who knows",
    ),
]
EACH = pytest.mark.parametrize(
    ("error", "attributes", "text"), ALL, ids=[type(error).__name__ for error, _, _ in ALL]
)


@EACH
def test_attributes_and_message(error: TxStateError, attributes: dict[str, object], text: str) -> None:
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert text in str(error)


@EACH
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_everything(
    error: TxStateError, attributes: dict[str, object], text: str, protocol: int
) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert {name: getattr(again, name) for name in attributes} == attributes
    assert str(again) == str(error)


@EACH
def test_copies_keep_everything(error: TxStateError, attributes: dict[str, object], text: str) -> None:
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert {name: getattr(again, name) for name in attributes} == attributes
        assert str(again) == str(error)


@EACH
def test_the_message_says_whether_it_was_applied(
    error: TxStateError, attributes: dict[str, object], text: str
) -> None:
    if not isinstance(error, CommitUnknown | NotDurable):
        assert "nothing was applied" in str(error)


def test_notes_survive_pickling() -> None:
    error = ServerRefused("no", code="OOM")
    error.add_note("seen at night")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert again.__notes__ == ["seen at night"]


def test_a_conflict_names_the_busiest_key_first() -> None:
    error = ConflictError(9, 2.0, {"quiet": 1, "busy": 8})
    assert list(error.keys) == ["busy", "quiet"]
    assert str(error).index("busy") < str(error).index("quiet")
    assert "9 attempts in 2.00 s" in str(error)
    assert "Retry(" in str(error), "what would help"
    assert "not known" in str(ConflictError(1, 0.0, {}))


def test_field_not_loaded_is_no_key_error() -> None:
    assert not issubclass(FieldNotLoaded, KeyError | AttributeError)


def classes() -> list[type[TxStateError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TxStateError)]


@pytest.mark.parametrize("kind", classes())
def test_each_class_is_public_and_says_in_its_docstring_whether_the_write_happened(
    kind: type[TxStateError],
) -> None:
    assert getattr(txstate, kind.__name__) is kind
    assert kind.__name__ in txstate.__all__
    assert kind.__doc__ is not None
    if kind is not TxStateError:
        assert "applied" in kind.__doc__.partition("Attributes:")[0].lower()


def test_every_class_is_tested_here() -> None:
    assert {type(error) for error, _, _ in ALL} == set(classes()) - {TxStateError}
