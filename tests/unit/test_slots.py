"""Slots: the same as redis-py's, and the library's own keys in the slot of the documents."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from txstate import CrossSlotError, UsageError
from txstate._engine.claims import claim_names
from txstate._engine.settings import RESERVED, Settings
from txstate._engine.slots import SLOTS, check_namespace, one_slot, slot_of, tag_for

names = st.text(st.one_of(st.sampled_from("{}ab:"), st.characters(exclude_categories=["Cs"])), max_size=12)


@given(names)
@example("{u1}:x")
@example("foo{}bar")
@example("a}b")
@example("a{b")
@example("{a}{b}")
@example("{{a}}")
def test_a_slot_is_what_redis_py_says(name: str) -> None:
    assert slot_of(name.encode()) == key_slot(name.encode())


@given(names, names, st.text(st.sampled_from("0123456789abcdef"), max_size=24))
@example("{u1}:x", "", "1")
@example("foo{}bar", "n:", "1")
@example("a}b", "n}", "1")
@example("a", "{app}:", "1")
def test_the_librarys_own_keys_share_the_slot_of_any_document(key: str, namespace: str, rest: str) -> None:
    assume(not key.startswith(RESERVED))  # Hypothesis reads our sources for such names
    settings = Settings(namespace=namespace, clustered=True)
    slot = key_slot(f"{namespace}{key}".encode())
    try:
        check_namespace(namespace)
    except UsageError:
        assert "{" in namespace
        return
    assert settings.slot([key]) == slot
    token = settings.reserved_name("token", slot, rest)
    assert token.startswith(settings.reserved)
    (claim,) = claim_names(settings, [key], slot)
    assert key_slot(token.encode()) == key_slot(claim) == slot


def test_there_is_a_tag_for_each_slot() -> None:
    tags = [tag_for("", slot) for slot in range(SLOTS)]
    assert [slot_of(f"x{tag}y".encode()) for tag in tags] == list(range(SLOTS))
    assert max(map(len, tags)) == 6


def test_without_a_cluster_nothing_has_a_slot_and_names_are_bare() -> None:
    settings = Settings(namespace="n:")
    assert settings.slot(["a", "b"]) is None
    assert settings.reserved_name("token", None, "1") == "n:__txstate__:token:1"
    assert claim_names(settings, ["{x}"]) == [b"n:__txstate__:claim:{x}"]


@pytest.mark.parametrize("namespace", ["", "app:", "a}b:", "{app}:", "x{app}:y", "{{app}:", "{a}{"])
def test_namespaces_that_a_cluster_can_have(namespace: str) -> None:
    check_namespace(namespace)


@pytest.mark.parametrize("namespace", ["{", "{}", "app{", "{}{app}:", "a{b:"])
def test_namespaces_that_make_no_hash_tag_are_refused(namespace: str) -> None:
    with pytest.raises(UsageError, match="makes no hash tag"):
        check_namespace(namespace)


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (["acct:1", "acct:2"], "'{acct}:1' and '{acct}:2'"),
        (["user:1:cart", "user:1:orders"], "'{user:1}:cart' and '{user:1}:orders'"),
        (["cart", "stock"], "'{shared}:cart' and '{shared}:stock'"),
        (["{a}:x", "{b}:x"], "'{shared}:a:x' and '{shared}:b:x'"),
        (["a{}1", "a{}2"], "'{a}1' and '{a}2'"),
        (["a", "ab", "b"], "'{a}' and '{a}b'"),
        (["{u:1}a", "{u:1}b", "{u:2}a"], "'{u}:1a' and '{u}:2a'"),
    ],
)
def test_what_is_advised_puts_keys_into_one_slot(keys: list[str], advice: str) -> None:
    with pytest.raises(CrossSlotError) as caught:
        one_slot({key: key.encode() for key in keys})
    assert caught.value.keys == tuple(keys)
    assert advice in str(caught.value)
    assert all(f"{key!r} is in slot {slot_of(key.encode())}" in str(caught.value) for key in keys)
    first, second = (part.strip("'").encode() for part in advice.split(" and "))
    assert slot_of(first) == slot_of(second)


def test_of_many_keys_a_few_are_shown_that_lie_apart() -> None:
    keys = [*(f"{{a}}:{number}" for number in range(1000)), "{b}:1"]
    with pytest.raises(CrossSlotError) as caught:
        one_slot({key: key.encode() for key in keys})
    assert "but '{a}:0' is in slot 15495, '{b}:1' is in slot 3300, and 999 keys more; nothing" in str(
        caught.value
    )
    assert len(caught.value.keys) == 1001
