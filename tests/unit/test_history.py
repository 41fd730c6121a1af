"""Hand-made histories: each anomaly in its smallest form, and legal ones that look suspicious."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from txstate.testing.history import (
    Cycle,
    Finding,
    Illegal,
    Ok,
    Outcome,
    Unknown,
    Verdict,
    check_history,
)


def txn(
    name: str,
    operations: str,
    *,
    at: tuple[float, float] = (0, 100),
    process: str | None = None,
    kind: str = "ok",
) -> dict[str, Any]:
    """A transaction from a text: `x+1` appends 1 to x, `x=1,2` reads x as [1, 2], `x=` as empty."""
    parsed: list[list[Any]] = []
    for word in operations.split():
        if "+" in word:
            key, value = word.split("+")
            parsed.append(["append", key, int(value)])
        else:
            key, values = word.split("=")
            parsed.append(["r", key, [int(each) for each in values.split(",") if each]])
    return {
        "id": name,
        "type": kind,
        "process": process or f"process of {name}",
        "call": at[0],
        "ret": at[1],
        "txn": parsed,
    }


def judged(*transactions: dict[str, Any]) -> Verdict:
    """The verdict, which must not depend on the order in which the history is given."""
    verdicts = [check_history(order) for order in itertools.islice(itertools.permutations(transactions), 24)]
    assert {(each.outcome, tuple(sorted(each.anomalies))) for each in verdicts} == {
        (verdicts[0].outcome, tuple(sorted(verdicts[0].anomalies)))
    }
    return verdicts[0]


def names(*transactions: dict[str, Any]) -> set[str]:
    verdict = judged(*transactions)
    assert (verdict.outcome is Illegal) == bool(verdict.anomalies)
    return set(verdict.anomalies)


def cycle(verdict: Verdict, name: str) -> Cycle:
    (evidence,) = verdict.anomalies[name]
    assert isinstance(evidence, Cycle)
    assert evidence.name == name
    ends = [(edge.source, edge.target) for edge in evidence.edges]
    assert all(ends[at][1] == ends[(at + 1) % len(ends)][0] for at in range(len(ends)))
    return evidence


def kinds(found: Cycle) -> list[str]:
    return sorted(edge.kind for edge in found.edges)


# --- outcomes


def test_a_serial_history_is_ok() -> None:
    verdict = judged(
        txn("a", "x= x+1 x=1", at=(0, 1)),
        txn("b", "x=1 x+2 y+1", at=(2, 3)),
        txn("c", "x=1,2 y=1", at=(4, 5)),
    )
    assert verdict.outcome is Ok
    assert verdict.valid
    assert verdict.anomalies == {}
    assert str(verdict) == "Ok: 3 transactions"


@pytest.mark.parametrize(
    "history",
    [
        [],
        [txn("a", "x+1"), txn("b", "y+1")],
        [txn("a", "x=", at=(0, 1)), txn("b", "x+1", at=(2, 3))],
        [txn("a", "x=1", kind="info"), txn("b", "x+1")],
        [txn("a", "x=1", kind="fail"), txn("b", "x+1")],
    ],
    ids=["empty", "blind writes", "reads of nothing", "reads of info", "reads of fail"],
)
def test_a_history_in_which_nothing_was_seen_is_unknown(history: list[dict[str, Any]]) -> None:
    verdict = check_history(history)
    assert verdict.outcome is Unknown
    assert not verdict.valid
    assert "nothing can be said" in str(verdict)


def test_outcomes_are_their_names() -> None:
    assert [str(each) for each in Outcome] == ["Ok", "Illegal", "Unknown"]
    assert [Ok, Illegal, Unknown] == list(Outcome)


# --- anomalies without a cycle


def test_internal_own_append_not_seen() -> None:
    verdict = judged(txn("a", "x+1 x="), txn("b", "x=1"))
    assert set(verdict.anomalies) == {"internal"}
    (finding,) = verdict.anomalies["internal"]
    assert isinstance(finding, Finding)
    assert finding.transactions == ("a",)
    assert finding.key == "x"
    assert str(finding) == "'a' read 'x' as [], without its own [1] at the end"


def test_internal_own_append_not_last() -> None:
    assert names(txn("a", "x+1 x=1,2"), txn("b", "x+2")) == {"internal"}


def test_internal_read_not_repeatable() -> None:
    assert names(txn("a", "x= x=1"), txn("b", "x+1")) == {"internal"}


def test_internal_read_after_append_disagrees_with_the_read_before() -> None:
    assert names(txn("a", "x=1 x+2 x=2"), txn("b", "x+1")) == {"internal"}


def test_internal_append_seen_before_it_was_made() -> None:
    assert names(txn("a", "x=1 x+1")) == {"internal"}


def test_reads_of_own_appends_are_consistent() -> None:
    assert names(txn("a", "x+1 x=1 x+2 x+3 x=1,2,3 x=1,2,3"), txn("b", "x=1,2,3")) == set()


def test_duplicate_elements() -> None:
    verdict = judged(txn("a", "x+1"), txn("b", "x=1,1"))
    assert set(verdict.anomalies) == {"duplicate-elements"}
    assert str(verdict.anomalies["duplicate-elements"][0]) == "'b' read 'x' as [1, 1], with 1 more than once"


def test_garbage() -> None:
    verdict = judged(txn("a", "x+1"), txn("b", "x=1,9"))
    assert set(verdict.anomalies) == {"garbage"}
    assert str(verdict.anomalies["garbage"][0]) == "'b' read 9 in 'x', which nobody appended"


def test_an_element_of_another_list_is_garbage() -> None:
    assert names(txn("a", "x+1 y+2"), txn("b", "x=1,2")) == {"garbage"}


def test_each_reader_of_garbage_is_named() -> None:
    verdict = judged(txn("a", "x+1"), txn("b", "x=9"), txn("c", "x=9,1"), txn("d", "x="))
    assert {each.transactions for each in verdict.anomalies["garbage"]} == {("b",), ("c",)}


def test_g1a_aborted_read() -> None:
    verdict = judged(txn("a", "x+1", kind="fail"), txn("b", "x=1"))
    assert set(verdict.anomalies) == {"G1a"}
    assert verdict.anomalies["G1a"][0].transactions == ("b", "a")


def test_g1b_intermediate_read() -> None:
    verdict = judged(txn("a", "x+1 x+2"), txn("b", "x=1"), txn("c", "x=1,2"))
    assert set(verdict.anomalies) == {"G1b"}
    assert verdict.anomalies["G1b"][0].transactions == ("b", "a")
    assert str(verdict.anomalies["G1b"][0]) == "'b' read 'x' as [1], up to 1, but 'a' appended 2 after that"


def test_g1b_shows_even_if_the_final_append_was_never_read() -> None:
    assert names(txn("a", "x+1 x+2"), txn("b", "x=1")) == {"G1b"}


def test_incompatible_order() -> None:
    verdict = judged(txn("a", "x+1"), txn("b", "x+2"), txn("c", "x=1,2"), txn("d", "x=2,1"))
    assert set(verdict.anomalies) == {"incompatible-order"}
    assert set(verdict.anomalies["incompatible-order"][0].transactions) == {"c", "d"}


def test_incompatible_order_of_reads_of_different_length() -> None:
    assert names(txn("a", "x+1"), txn("b", "x+2"), txn("c", "x+3"), txn("d", "x=1,2,3"), txn("e", "x=2")) == {
        "incompatible-order"
    }


def test_a_bad_element_is_named_in_a_read_that_is_bad_in_other_ways() -> None:
    history = txn("a", "x+1"), txn("b", "x+2 x=1,2"), txn("f", "x+8", kind="fail")
    assert names(*history, txn("c", "x=9,1")) == {"garbage", "incompatible-order"}
    assert names(*history, txn("c", "x=8,8")) == {"G1a", "duplicate-elements"}
    assert names(*history, txn("c", "x+3 x=1,2,9")) == {"garbage", "internal"}


def test_a_read_at_odds_with_the_others_still_tells_whose_append_it_saw() -> None:
    history = txn("a", "x+1 x+2"), txn("b", "x+3"), txn("c", "x=1,2,3"), txn("d", "x=3,1")
    assert names(*history) == {"incompatible-order", "G1b"}


def test_reads_that_contradict_one_another_prove_no_order() -> None:
    # taken for the order, [1, 2] would have b's 2 come after a's 1, though b ended before a began
    assert names(
        txn("a", "x+1", at=(2, 3)), txn("b", "x+2", at=(0, 1)), txn("c", "x=1,2"), txn("d", "x=2")
    ) == {"incompatible-order"}


def test_no_sound_read_is_measured_by_an_unsound_one() -> None:
    writers = txn("a", "x+1 x+2"), txn("b", "x+3"), txn("c", "x+4")
    assert names(*writers, txn("d", "x=1,2,1,1"), txn("e", "x=1,2,3")) == {"duplicate-elements"}
    assert names(*writers, txn("d", "x+5 x=1,2,3,4"), txn("e", "x=1,2,5")) == {"internal"}


# --- cycles: histories as (name, operations), which share one interval and have a process each unless said otherwise

G0 = (("a", "x+1 y+2"), ("b", "x+2 y+1"), ("c", "x=1,2 y=1,2"))
G1C = (("a", "x+1 y=1"), ("b", "y+1 x=1"))
G_SINGLE = (("a", "x=1 y="), ("b", "x+1 y+1"))
# c and d disagree about which of a and b came first, and reads separate the two rw
G_NONADJACENT = (("a", "x+1"), ("b", "y+1"), ("c", "x=1 y="), ("d", "x= y=1"))
G2_ITEM = (("a", "x= y+1"), ("b", "y= x+1"), ("c", "x=1"), ("d", "y=1"))


@pytest.mark.parametrize(
    ("name", "history", "expected"),
    [
        ("G0", G0, ["ww", "ww"]),
        ("G1c", G1C, ["wr", "wr"]),
        ("G-single", G_SINGLE, ["rw", "wr"]),
        ("G-nonadjacent", G_NONADJACENT, ["rw", "rw", "wr", "wr"]),
        ("G2-item", G2_ITEM, ["rw", "rw"]),
    ],
)
def test_cycles_of_data_alone(name: str, history: tuple[tuple[str, str], ...], expected: list[str]) -> None:
    verdict = judged(*(txn(*each) for each in history))
    assert set(verdict.anomalies) == {name}
    assert kinds(cycle(verdict, name)) == expected


# Each of these is legal while its transactions run at once, and no longer when a ended before b began.
ORDERED = {
    "G0": ((("a", "x+2"), ("b", "x+1"), ("c", "x=1,2")), ["order", "ww"]),
    "G1c": ((("a", "x=1"), ("b", "x+1")), ["order", "wr"]),
    "G-single": ((("a", "x+1"), ("b", "x="), ("c", "x=1")), ["order", "rw"]),
    "G-nonadjacent": (
        (("a", "x+1"), ("b", "y="), ("c", "y+1"), ("d", "y=1 x="), ("e", "x=1 y=1")),
        ["order", "rw", "wr", "rw"],
    ),
    "G2-item": ((("a", "y+1"), ("b", "x="), ("c", "x+1 y="), ("d", "x=1 y=1")), ["order", "rw", "rw"]),
}


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("order", ["process", "realtime"])
def test_cycles_that_need_an_order(name: str, order: str) -> None:
    history, expected = ORDERED[name]
    assert names(*(txn(*each) for each in history)) == set()
    times = {"a": (0, 10), "b": (20, 30)}
    shared = {"a": "p", "b": "p"} if order == "process" else {}
    verdict = judged(
        *(txn(one, text, at=times.get(one, (0, 100)), process=shared.get(one)) for one, text in history)
    )
    assert set(verdict.anomalies) == {f"{name}-{order}"}
    found = cycle(verdict, f"{name}-{order}")
    assert kinds(found) == sorted(each.replace("order", order) for each in expected)
    (because,) = (edge for edge in found.edges if edge.kind == order)
    assert (because.source, because.target, because.key) == ("a", "b", None)
    assert because.text.startswith("'a' returned at 10, 'b' was called at 20")


# --- what the evidence says


def test_a_lost_update_shows_as_one() -> None:
    verdict = judged(txn("a", "x= x+1"), txn("b", "x= x+2"), txn("c", "x=1,2"))
    assert set(verdict.anomalies) == {"G-single"}
    found = cycle(verdict, "G-single")
    assert found.lost_update
    assert set(found.transactions) == {"a", "b"}
    assert str(check_history([txn("a", "x= x+1"), txn("b", "x= x+2"), txn("c", "x=1,2")])) == (
        "Illegal: 3 transactions\n"
        "G-single: 1\n"
        "  G-single (lost update of 'x'): 'a' -> 'b' -> 'a'\n"
        "    'a' -ww-> 'b': 'b' appended 2 to 'x' after 1 of 'a'\n"
        "    'b' -rw-> 'a': 'b' read 'x' empty, without 1, which 'a' appended"
    )


def test_a_lost_update_that_nobody_saw_shows_as_one() -> None:
    verdict = judged(txn("a", "x= x+1"), txn("b", "x= x+2"))
    assert set(verdict.anomalies) == {"G2-item"}
    assert cycle(verdict, "G2-item").lost_update


def test_other_cycles_are_no_lost_updates() -> None:
    for name, history in (("G0", G0), ("G-single", G_SINGLE), ("G2-item", G2_ITEM)):
        assert not cycle(judged(*(txn(*each) for each in history)), name).lost_update


def test_a_lost_append_shows_as_a_stale_read() -> None:
    verdict = judged(txn("a", "x+1", at=(0, 1)), txn("b", "x+2", at=(0, 3)), txn("c", "x=2", at=(4, 5)))
    assert set(verdict.anomalies) == {"G-single-realtime"}
    found = cycle(verdict, "G-single-realtime")
    assert set(found.transactions) == {"a", "c"}
    assert "'c' read 'x' up to 2, without 1, which 'a' appended (no read saw it" in str(found)


def test_a_wr_edge_names_key_and_element() -> None:
    found = cycle(judged(*(txn(*each) for each in G1C)), "G1c")
    assert {str(edge) for edge in found.edges} == {
        "'a' -wr-> 'b': 'b' read 'x' up to 1, which 'a' appended",
        "'b' -wr-> 'a': 'a' read 'y' up to 1, which 'b' appended",
    }


def test_a_cycle_is_shown_once_with_the_fewest_assumptions() -> None:
    # a and b form a G0, which real time and reads could close as well
    verdict = judged(txn("a", "x+1 y+2", at=(0, 1)), txn("b", "x+2 y+1", at=(2, 3)), txn("c", "x=1,2 y=1,2"))
    assert set(verdict.anomalies) == {"G0"}


def test_every_component_shows_its_cycle() -> None:
    histories = [
        [txn(one + str(n), text.replace("x", f"x{n}").replace("y", f"y{n}")) for one, text in G_SINGLE]
        for n in range(5)
    ]
    verdict = check_history(list(itertools.chain.from_iterable(histories)))
    assert set(verdict.anomalies) == {"G-single"}
    assert {frozenset(each.transactions) for each in verdict.anomalies["G-single"]} == {
        frozenset({f"a{n}", f"b{n}"}) for n in range(5)
    }
    assert "... and 2 more" in str(verdict)


def test_long_lists_are_printed_by_their_end() -> None:
    appends = " ".join(f"x+{n}" for n in range(20))
    verdict = judged(txn("a", appends), txn("b", "x=" + ",".join(map(str, range(15)))))
    assert "[..., 7, 8, 9, 10, 11, 12, 13, 14], up to 14, but 'a' appended 19" in str(verdict)


def test_an_append_that_no_read_saw_comes_after_those_that_were_seen() -> None:
    verdict = judged(txn("a", "x+1", at=(2, 3)), txn("b", "x+2", at=(0, 1)), txn("c", "x=1"))
    assert set(verdict.anomalies) == {"G0-realtime", "G-single-realtime"}
    assert "'b' appended 2 to 'x' after 1 of 'a' (no read saw it" in str(cycle(verdict, "G0-realtime"))


# --- legal, though it looks suspicious


def test_an_append_that_no_read_saw_may_come_last() -> None:
    assert names(txn("a", "x+1"), txn("b", "x+2"), txn("c", "x=2")) == set()


def test_info_that_was_never_seen_may_not_have_happened() -> None:
    assert (
        names(txn("a", "x+1", at=(0, 1), kind="info"), txn("b", "x+2", at=(2, 3)), txn("c", "x=2", at=(4, 5)))
        == set()
    )


def test_info_may_take_effect_long_after_it_was_given_up() -> None:
    assert (
        names(txn("a", "x+1", at=(0, 1), kind="info"), txn("b", "x=", at=(2, 3)), txn("c", "x=1", at=(4, 5)))
        == set()
    )


def test_info_without_an_end() -> None:
    lost = txn("a", "x+1", at=(0, 1), kind="info")
    lost["ret"] = None
    assert names(lost, txn("b", "x=", at=(2, 3)), txn("c", "x=1", at=(4, 5))) == set()


def test_info_that_was_seen_happened_as_a_whole() -> None:
    assert names(txn("a", "x+1 y+1", kind="info"), txn("b", "x=1 y=")) == {"G-single"}


def test_info_does_not_take_effect_before_its_call() -> None:
    assert names(txn("a", "x=1", at=(0, 1)), txn("b", "x+1", at=(2, 3), kind="info")) == {"G1c-realtime"}


def test_at_one_instant_a_return_does_not_come_before_a_call() -> None:
    assert names(txn("a", "x+1", at=(0, 5)), txn("b", "x=", at=(5, 9)), txn("c", "x=1")) == set()
    assert names(txn("a", "x+1", at=(0, 4)), txn("b", "x=", at=(5, 9)), txn("c", "x=1")) == {
        "G-single-realtime"
    }


def test_order_within_a_process_holds_even_at_one_instant() -> None:
    assert names(
        txn("a", "x+1", at=(0, 5), process="p"), txn("b", "x=", at=(5, 9), process="p"), txn("c", "x=1")
    ) == {"G-single-process"}


def test_failed_transactions_order_nothing() -> None:
    assert (
        names(txn("a", "x+1", at=(0, 1), kind="fail"), txn("b", "x= x+2", at=(2, 3)), txn("c", "x=2"))
        == set()
    )


def test_real_time_order_is_found_through_others() -> None:
    # a is long out of the sweep's buffer when the stale read begins
    between = [txn(f"t{n}", f"y+{n}", at=(10 * n + 2, 10 * n + 5)) for n in range(20)]
    verdict = check_history(
        [txn("a", "x+1", at=(0, 1)), *between, txn("b", "x=", at=(900, 901)), txn("c", "x=1")]
    )
    assert set(verdict.anomalies) == {"G-single-realtime"}


def test_a_long_transaction_is_followed_by_no_one_it_overlaps() -> None:
    between = [txn(f"t{n}", f"y+{n}", at=(10 * n + 2, 10 * n + 5)) for n in range(20)]
    legal = [
        txn("a", "x+1", at=(0, 1000)),
        *between,
        txn("b", "x=", at=(900, 901)),
        txn("c", "x=1", at=(950, 2000)),
    ]
    assert check_history(legal).outcome is Ok


def test_what_a_process_did_in_between_is_left_out() -> None:
    def ran(process: str, *texts: str) -> list[dict[str, Any]]:
        return [
            txn(f"{process}{at}", text, at=(20 * at, 20 * at + 10), process=process)
            for at, text in enumerate(texts)
        ]

    verdict = judged(*ran("p", "x+1", "z=", "y="), *ran("q", "y+1", "z=", "x="), txn("e", "x=1 y=1"))
    found = cycle(verdict, "G-nonadjacent-process")
    assert set(found.transactions) == {"p0", "p2", "q0", "q2"}
    assert kinds(found) == ["process", "process", "rw", "rw"]


def test_anything_hashable_will_do() -> None:
    history = [
        {
            "id": ("t", 1),
            "type": "ok",
            "process": 1.5,
            "call": 0.5,
            "ret": 1.5,
            "txn": (("append", None, ("a", 1)),),
        },
        {
            "id": 2,
            "type": "ok",
            "process": None,
            "call": 2,
            "ret": 3,
            "txn": [("r", None, (("a", 1),))],
            "more": 1,
        },
    ]
    assert check_history(history).outcome is Ok
