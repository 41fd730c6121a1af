"""The pytest plugin, as a user's own test suite would use it."""

from __future__ import annotations

import pytest

pytest_plugins = ("pytester",)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A test suite that has the plugin, whether or not the package is installed."""
    pytester.makeini("[pytest]\naddopts = -p no:txstate -p pytest_txstate\n")
    return pytester


def test_a_side_effect_inside_of_a_transaction_is_found(suite: pytest.Pytester) -> None:
    """The second of the two bugs in docs/testing.md, once the first is mended; the first one's test runs there."""
    suite.makepyfile("""
from txstate.testing import explore

sent = []

def seed(store):
    sent.clear()
    store.put("seats", {"free": 1})

def take_one_if_free(tx):
    seats = tx.get("seats")
    if seats["free"] > 0:
        seats.increment("free", -1)
        sent.append("a seat is yours")

def book(store):
    store.run(take_one_if_free)

def each_seat_is_sold_once(store):
    return store.get("seats")["free"] + len(sent) == 1

def test_two_people_want_the_last_seat(txstate_server):
    explore([book, book], setup=seed, invariant=each_seat_is_sold_once, server=txstate_server).check()
""")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*-> conflict, not applied*", "*wrong: each_seat_is_sold_once returned False*"]
    )


def test_stores_are_empty_in_each_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
import asyncio
import pytest

@pytest.mark.parametrize("round", [1, 2])
def test_sync(txstate_store, round):
    assert list(txstate_store.keys()) == []
    txstate_store.put("a", {"n": round})
    assert txstate_store.get("a")["n"] == round

@pytest.mark.parametrize("round", [1, 2])
def test_async(txstate_async_store, round):
    async def use():
        async with txstate_async_store as store:
            assert [key async for key in store.keys()] == []
            await store.put("a", {"n": round})
    asyncio.run(use())

def test_both_share_a_server(txstate_store, txstate_async_store, txstate_server):
    assert txstate_store.url == txstate_async_store.url == txstate_server.url
""")
    suite.runpytest_inprocess().assert_outcomes(passed=5)


def test_an_async_store_that_is_left_open_is_told(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
import asyncio

def test_async(txstate_async_store):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(txstate_async_store.get("a"))
    globals()["kept"] = loop
""")
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*async with txstate_async_store as store*"])


def test_nothing_is_imported_by_it_until_a_fixture_is_used(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
import sys

def test_imports():
    assert "pytest_txstate" in sys.modules
    assert not {"txstate", "redis", "orjson", "hypothesis", "typer"} & sys.modules.keys()
""")
    result = suite.runpytest_subprocess("-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)


def test_it_can_be_named_as_a_part_of_the_test_kit(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naddopts = -p no:txstate -p txstate.testing.plugin\n")
    pytester.makepyfile("def test_it(txstate_store, txstate_async_store, txstate_server): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
