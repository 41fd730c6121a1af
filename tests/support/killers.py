"""What finds a broken engine or driver: small explorations, and scenes with real connections and the fault proxy.

Each plays on a server and tells what it found. The real engine passes all of them; each mutant (`mutants`) is caught by
those that it names.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as Again
from support import sharing
from support.cluster import start_cluster
from support.counting import (
    ANY_LOSS,
    Noted,
    add_one,
    each_exactly_once,
    increment,
    increment_both,
    repeated,
    seed,
)
from support.faults import of_commit, proxied
from support.ledger import Ledger
from support.replication import Replication, stopped
from support.twins import open_twin
from support.users import url_of
from support.wire import client_of, eventually
from tenacity import stop_after_attempt, wait_none

from txstate import (
    CommitUnknown,
    Doc,
    FieldNotLoaded,
    NotDurable,
    Replicas,
    Resolution,
    Retry,
    ServerRefused,
    Store,
    StoreUnavailable,
    Tx,
)
from txstate._engine.slots import slot_of
from txstate.testing import DropReply, FaultProxy, HoldRequest, Outcome, ScheduleDiverged, explore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.servers import ServerHandle

    from txstate import AsyncTx
    from txstate.testing import Report


@dataclass(frozen=True)
class Found:
    """What a killer found.

    Attributes:
        broken: whether a promise was broken.
        told: by what, or how much was tried.
    """

    broken: bool
    told: str


def found_by(report: Report) -> Found:
    """What an exploration found."""
    if report.violations:
        return Found(broken=True, told=f"schedule {report.violations[0].number}")
    report.check()
    return Found(broken=False, told=f"{report.schedules} schedules")


# Counting.


def increments(server: ServerHandle) -> Found:
    """Two increments in every order."""
    return _increments(server)


def increments_under_any_fault(server: ServerHandle) -> Found:
    """Two increments, at most one preemption, and any single fault at any step."""
    return _increments(server, faults=ANY_LOSS, preemptions=1)


def increments_with_two_lost_replies(server: ServerHandle) -> Found:
    """Two increments one after the other, and any two replies lost: the second one may be the resolution's."""
    return _increments(server, faults=["drop_reply"], max_faults=2, preemptions=0)


def increments_on_armed_connections(server: ServerHandle) -> Found:
    """One transaction three times on one store, beside another: armed connections and claims come into it."""
    return _increments_on_armed_connections(server, Noted())


def increments_of_two_on_armed_connections(server: ServerHandle) -> Found:
    """The same by a function that asks for two documents."""
    return _increments_on_armed_connections(server, Noted(increment_both))


def three_increments_under_any_fault(server: ServerHandle) -> Found:
    """Three increments, at most three preemptions, and any single fault at any step: two minutes if all is well."""
    return _increments(server, 3, faults=ANY_LOSS, preemptions=3)


def _increments_on_armed_connections(server: ServerHandle, noted: Noted) -> Found:
    report = explore(
        [repeated(noted.increment, 3), noted.increment],
        setup=noted.seed,
        invariant=noted.each_exactly_once,
        violations=1,
        server=server.unix_url,
    )
    if not report.violations:
        assert min(report.reached[name] for name in ("armed", "claim", "conflict")) > 0, str(report)
    return found_by(report)


def _increments(server: ServerHandle, count: int = 2, **options: Any) -> Found:
    return found_by(
        explore(
            [increment] * count,
            setup=seed,
            invariant=each_exactly_once,
            violations=1,
            server=server.unix_url,
            **options,
        )
    )


# Calls that share a commit.


def shared_appends(server: ServerHandle) -> Found:
    """Three threads of one process; another client writes at any step, or a reply gets lost."""
    return _shared(server, sharing.another_client, "drop_reply")


def shared_appends_that_lose_patience(server: ServerHandle) -> Found:
    """The same, of which any may stop waiting for the others."""
    return _shared(server, "impatience")


def _shared(server: ServerHandle, *faults: str | Callable[[Store], None]) -> Found:
    return found_by(
        explore(
            [sharing.appends(1), sharing.appends(2, refuse=True), sharing.appends(3)],
            setup=sharing.seed,
            invariant=sharing.each_once_and_as_told,
            faults=faults,
            preemptions=1,
            violations=1,
            server=server.unix_url,
            shared=True,
        )
    )


def shared_reads(server: ServerHandle) -> Found:
    """Three threads of one process only read, one of them twice, beside another client that writes at any step."""
    return found_by(
        explore(
            [sharing.looks("run"), sharing.looks("update"), sharing.looks("get", "raise")],
            setup=sharing.seed,
            invariant=sharing.none_goes_back,
            faults=[sharing.another_client],
            preemptions=1,
            violations=1,
            server=server.unix_url,
            shared=True,
        )
    )


def one_that_joins_a_reader(server: ServerHandle) -> Found:
    """A thread begins to read after another client's write was acknowledged, and is carried by one that had read before."""
    stale, rounds = 0, 5
    with Store(server.url) as store, Store(server.url) as other, ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            other.put("doc", {"n": 2 * number})
            inside, go_on = threading.Event(), threading.Event()
            slow = pool.submit(store.run, _look_slowly, inside, go_on)
            assert inside.wait(10)
            other.put("doc", {"n": 2 * number + 1})
            late = pool.submit(store.run, _look)
            groups = store._settings.groups
            assert groups is not None
            eventually(
                lambda late=late, groups=groups: (
                    late.done()  # type: ignore[misc]  # bound here
                    or any(each.group and each.group.waiting for each in tuple(groups._leaders.values()))
                )
            )
            go_on.set()
            stale += late.result() != 2 * number + 1
            slow.result()
    return Found(broken=stale > 0, told=f"{stale} of {rounds} saw what was before they began")


def _look(tx: Tx) -> int:
    found: int = tx.get("doc")["n"]
    return found


def _look_slowly(tx: Tx, inside: threading.Event, go_on: threading.Event) -> int:
    found = _look(tx)
    inside.set()
    assert go_on.wait(10)
    return found


def readers_who_meet_while_others_write(server: ServerHandle) -> Found:
    """Two threads read together, and whenever the first one's function runs another client writes."""
    again = Retry(stop=stop_after_attempt(5), wait=wait_none())
    inside, late = threading.Event(), list[Future[int]]()
    with Store(server.url, retry=again) as store, Store(server.url) as other, ThreadPoolExecutor(2) as pool:
        groups = store._settings.groups
        assert groups is not None
        groups._lag = 2.0  # nobody loses patience

        def look(tx: Tx) -> int:
            found = _look(tx)
            other.update("doc", lambda doc: doc.increment("n"))
            inside.set()
            eventually(
                lambda: (
                    late
                    and (
                        late[0].done()
                        or any(each.group and each.group.waiting for each in tuple(groups._leaders.values()))
                    )
                )
            )
            return found

        other.put("doc", {"n": 0})
        first = pool.submit(store.run, look)
        assert inside.wait(10)
        late.append(pool.submit(store.run, _look))
        failed = [error for error in (first.exception(), late[0].exception()) if error is not None]
    return Found(broken=bool(failed), told=f"{len(failed)} of 2 gave up after 5 attempts")


def one_after_an_attempt_that_read_a_part(server: ServerHandle) -> Found:
    """A document is replaced, by a call that comes right behind one whose later attempt had read a part of it only."""
    with Store(server.url) as store, Store(server.url) as other:
        other.put("doc", {"a": 1, "b": 2})
        store.run(_narrow, other)
        store.run(_narrow, other)  # now that it is repeated
        try:
            store.put("doc", {"z": 1})
        except FieldNotLoaded as error:
            return Found(broken=True, told=f"put: {error!r}")
        return _replaced(other)


def one_after_a_function_that_was_refused_the_whole(server: ServerHandle) -> Found:
    """A function goes on with a part of a document; the next call asks for the whole, which the server refuses."""

    def part(tx: Tx) -> None:
        with contextlib.suppress(ServerRefused):
            tx.get("doc")
        tx.get("doc", ["a"])

    with client_of(server.unix_url) as admin, Store(url_of(server, "-hgetall")) as store:
        admin.hset("doc", mapping={"a": 1, "b": 2})
        store.run(part)
        store.run(part)  # now that it is repeated
        try:
            found = store.run(lambda tx: tx.get("doc").to_dict())
        except ServerRefused:
            return Found(broken=False, told="the whole was refused")
        return Found(broken=True, told=f"got {found} for the whole")


def one_that_joins_an_attempt_that_read_a_part(server: ServerHandle) -> Found:
    """The same by a call that is carried by that attempt."""
    inside, go_on = threading.Event(), threading.Event()

    def then() -> None:
        inside.set()
        assert go_on.wait(10)

    with Store(server.url) as store, Store(server.url) as other, ThreadPoolExecutor(2) as pool:
        other.put("doc", {"a": 1, "b": 2})
        first = pool.submit(store.run, _narrow, other, then)
        assert inside.wait(10)
        late = pool.submit(store.put, "doc", {"z": 1})
        groups = store._settings.groups
        assert groups is not None
        eventually(
            lambda: (
                late.done()
                or any(each.group and each.group.waiting for each in tuple(groups._leaders.values()))
            )
        )
        go_on.set()
        first.result()
        late.result()
        return _replaced(other)


def _narrow(tx: Tx, other: Store, then: Callable[[], None] = lambda: None) -> None:
    """Reads all of a document at first, meets a conflict, and then reads a part."""
    if tx.attempt == 1:
        tx.get("doc")["a"] += 1
        other.update("doc", lambda doc: doc.increment("b"))
        return
    tx.get("doc", ["a"])["a"] += 1
    then()


def _replaced(store: Store) -> Found:
    document = store.get("doc")
    assert document is not None
    return Found(
        broken=document.to_dict() != {"z": 1}, told=f"after put of z alone it has {sorted(document)}"
    )


def one_that_leaves_its_leader(server: ServerHandle) -> Found:
    """A call's time is over while the commit that carries it is on its way; later it asks what became of it."""
    wrong = asked = 0
    with FaultProxy(server.url) as proxy, Store(proxy.url) as store, ThreadPoolExecutor(2) as pool:
        short = store.options(retry=Retry(deadline=0.5))
        for number in range(5):
            doubt = _left_behind(f"doc:{number}", store, short, proxy, pool)
            if doubt is None or doubt.token is None:
                continue  # it lost its patience before it was carried
            asked += 1
            found = store.get(f"doc:{number}")
            assert found is not None
            applied = store.resolve(doubt.token) is Resolution.COMMITTED
            wrong += applied is not ("second" in found)
    assert asked
    return Found(broken=wrong > 0, told=f"{wrong} of {asked} told the contrary")


def _left_behind(
    key: str, store: Store, short: Store, proxy: FaultProxy, pool: ThreadPoolExecutor
) -> CommitUnknown | None:
    inside, go_on = threading.Event(), threading.Event()

    def lead(doc: Doc) -> None:
        inside.set()
        assert go_on.wait(10)
        doc["first"] = 1

    held = proxy.inject(HoldRequest(), "EXEC", where=of_commit)
    leader = pool.submit(store.update, key, lead)
    assert inside.wait(10)
    other = pool.submit(short.update, key, lambda doc: doc.update(second=2))
    settings = store._settings
    assert settings.groups is not None
    while not other.done() and not any(
        leader.group and leader.group.waiting for leader in tuple(settings.groups._leaders.values())
    ):
        time.sleep(0.001)
    go_on.set()
    held.wait()
    error = other.exception()
    held.release()
    leader.result()
    store.update(key, lambda doc: doc.increment("n"))
    return error if isinstance(error, CommitUnknown) else None


# Several documents.


def withdrawals(server: ServerHandle) -> Found:
    """Write skew: each withdraws from one of two accounts, as long as both together have enough."""

    def withdraw(tx: Tx, key: str) -> None:
        accounts = tx.get_many(["x", "y"])
        if sum(account["balance"] for account in accounts) >= 100:
            tx.get(key)["balance"] -= 100

    def not_overdrawn(store: Store) -> None:
        found = store.get_many(["x", "y"])
        assert sum(account["balance"] for account in found.values() if account is not None) >= 0

    return found_by(
        explore(
            [lambda store: store.run(withdraw, "x"), lambda store: store.run(withdraw, "y")],
            setup=lambda store: [store.put(key, {"balance": 60}) for key in ("x", "y")],
            invariant=not_overdrawn,
            violations=1,
            server=server.unix_url,
        )
    )


def audit(server: ServerHandle) -> Found:
    """A transaction that only reads, one document after the other, beside one that moves money between them."""

    def move(tx: Tx) -> None:
        a, b = tx.get_many(["a", "b"])
        a["balance"] -= 5
        b["balance"] += 5

    def total(tx: Tx) -> int:
        return int(tx["a"]["balance"] + tx["b"]["balance"])

    return found_by(
        explore(
            [lambda store: store.run(total), lambda store: store.run(move)],
            setup=lambda store: [store.put(key, {"balance": 50}) for key in ("a", "b")],
            invariant=lambda _, outcomes: outcomes[0].value == 100,
            violations=1,
            server=server.unix_url,
        )
    )


def watching_a_counter(server: ServerHandle) -> Found:
    """A transaction that only reads, again and again on one store, is never behind a plain read made before it."""

    def look(store: Store) -> None:
        for _ in range(3):
            before = store.get("counter", fields=["n"])
            assert before is not None
            assert store.run(lambda tx: tx["counter"]["n"]) >= before["n"]

    report = explore(
        [look, increment],
        setup=seed,
        invariant=lambda _, outcomes: outcomes[0].ok,
        violations=1,
        server=server.unix_url,
    )
    if not report.violations:
        assert report.reached["proof"] > 0, str(report)
    return found_by(report)


def a_session_that_expires(server: ServerHandle) -> Found:
    """One document expires untouched, and another client then writes a second one that says so."""

    def look(tx: Tx) -> tuple[bool, bool]:
        return tx["session"].exists, tx["log"]["session_is_over"]

    def once(seconds: float = 0.05) -> Found:
        def begin(store: Store) -> None:
            store.put("log", {"session_is_over": False})
            store.put("session", {"user": "ann"}, expire=seconds)

        def end_session(store: Store) -> None:
            time.sleep(1.1 * seconds)
            store.put("log", {"session_is_over": True})

        try:
            return found_by(
                explore(
                    [lambda store: store.run(look)],
                    setup=begin,
                    invariant=lambda _, outcomes: outcomes[0].value != (True, True),
                    faults=[end_session],
                    violations=1,
                    server=server.unix_url,
                )
            )
        except ScheduleDiverged:  # a busy machine lets it expire before its time
            if seconds > 1:
                raise
            return once(2 * seconds)

    # The server's own cycle of expiries may come between, which every engine would notice.
    return next((found for _ in range(10) if (found := once()).broken), once())


def payments_to_a_broken_account(server: ServerHandle) -> Found:
    """The field to be incremented was not read by the function, and is no integer: nothing is debited."""

    def nothing_is_debited(store: Store) -> bool:
        a = store.get("a")
        return a is not None and a["balance"] == 50

    return _payments(server, nothing_is_debited)


def payments_that_return(server: ServerHandle) -> Found:
    """The same: a call that returns has credited what it debited."""

    def both_or_none(_: Store, outcomes: Sequence[Outcome]) -> bool:
        return not outcomes[0].ok

    return _payments(server, both_or_none)


def _payments(server: ServerHandle, invariant: Callable[..., bool]) -> Found:
    def pay(tx: Tx) -> None:
        a, b = tx.get("a"), tx.get("b", fields=["owner"])
        a["balance"] -= 5
        b.increment("balance", 5)

    def open_accounts(store: Store) -> None:
        store.put("a", {"balance": 50})
        store.put("b", {"balance": "fifty", "owner": "ann"})

    report = explore(
        [lambda store: store.run(pay)],
        setup=open_accounts,
        invariant=invariant,
        violations=1,
        server=server.unix_url,
    )
    # No `check`: the transaction never returns.
    return (
        found_by(report) if report.violations else Found(broken=False, told=f"{report.schedules} schedules")
    )


# Real connections.


def lost_replies(server: ServerHandle) -> Found:
    """The reply to every commit is lost once, with the sync and the async store."""
    doubled = rounds = 0
    for kind in ("sync", "async"):
        with proxied(kind, server.url) as (proxy, twin):
            ledger = Ledger(server, kind)
            for _ in range(5):
                rule = proxy.inject(DropReply(), "EXEC", where=of_commit)
                ledger.commit(twin)
                rule.wait()
            doubled += ledger.tally().doubled
            rounds += 5
    return Found(broken=doubled > 0, told=f"{doubled} of {rounds} doubled")


def lost_replies_whose_token_is_gone(server: ServerHandle) -> Found:
    """The reply to a commit is lost, and its token is deleted before anybody looks at it; with both stores."""
    doubled = 0
    for kind in ("sync", "async"):
        ledger = Ledger(server, kind)
        with (
            proxied(kind, server.url) as (proxy, twin),
            client_of(server.unix_url) as admin,
            ThreadPoolExecutor(1) as pool,
        ):
            ledger.commit(twin)
            lost = proxy.inject(DropReply(), "EXEC", where=of_commit)
            resolver = proxy.inject(HoldRequest(), "EXPIRE")
            call = pool.submit(ledger.commit, twin)
            lost.wait()
            resolver.wait()
            assert admin.delete(*admin.keys("__txstate__:token:*")) > 0
            resolver.release()
            call.result()
        doubled += ledger.tally().doubled
    return Found(broken=doubled > 0, told=f"{doubled} of 2 doubled")


def lost_replies_beside_another_client(server: ServerHandle) -> Found:
    """The reply to a commit is lost, and before the next connection brings anything, another client writes."""
    updates = kept = 0
    for kind in ("sync", "async"):
        with (
            proxied(kind, server.url) as (proxy, twin),
            Store(server.url) as other,
            ThreadPoolExecutor(1) as pool,
        ):
            other.put(kind, {"n": 0})
            twin.update(kind, add_one)
            lost = proxy.inject(DropReply(), "EXEC", where=of_commit)
            held = proxy.inject(HoldRequest(), connection=2)
            done = pool.submit(twin.update, kind, add_one)
            lost.wait()
            held.wait()
            other.update(kind, add_one)
            held.release()
            done.result()
            found = other.get(kind)
            assert found is not None
            kept += found["n"]
            updates += 3
    return Found(broken=kept != updates, told=f"{updates - kept} of {updates} updates lost")


def cuts_between_watch_and_exec(server: ServerHandle) -> Found:
    """Between reading and committing another client writes, and the connection is cut; with both stores."""
    updates = kept = 0
    for kind in ("sync", "async"):
        with proxied(kind, server.url) as (proxy, twin), Store(server.url) as other:
            other.put(kind, {"n": 0})
            for _ in range(5):
                twin.run(_count_once_disturbed(kind, other, proxy))
            found = other.get(kind)
            assert found is not None
            kept += found["n"]
            updates += 2 * 5
    return Found(broken=kept != updates, told=f"{updates - kept} of {updates} updates lost")


def _count_once_disturbed(key: str, other: Store, proxy: FaultProxy) -> Callable[[AsyncTx], Any]:
    disturbed: list[int] = []

    async def count(tx: AsyncTx) -> None:
        doc = await tx.get(key)
        doc["n"] += 1
        if not disturbed:
            other.update(key, add_one)
            disturbed.append(proxy.kill())
            assert disturbed == [1]

    return count


def connecting_in_vain(server: ServerHandle) -> Found:
    """No server listens: each attempt of txstate's is one try to connect."""
    tries: list[None] = []

    class Counted(redis.UnixDomainSocketConnection):
        def _connect(self) -> Any:
            tries.append(None)
            return super()._connect()  # type: ignore[no-untyped-call]  # redis-py's

    pool = redis.ConnectionPool(
        connection_class=Counted, path=f"{server.unix_path}.gone", retry=Again(NoBackoff(), 5)
    )
    with Store(client=redis.Redis(connection_pool=pool), retry=Retry(deadline=0.3)) as store:
        with contextlib.suppress(StoreUnavailable):
            store.update("counter", add_one)
        attempts = store.stats().disruptions
    return Found(broken=len(tries) > attempts, told=f"{len(tries)} tries in {attempts} attempts")


def a_replica_that_stands_still(_server: ServerHandle) -> Found:
    """A commit that must reach a replica, while that one is stopped; with both stores, on servers of its own."""
    missed = 0
    with Replication("valkey9") as pair:
        for kind in ("sync", "async"):
            with open_twin(kind, pair.primary.url, durability=Replicas(1, timeout=0.1)) as twin:
                seeded = open_twin(kind, pair.primary.url, durability=Replicas(1, timeout=5.0))
                with seeded:
                    seeded.put("counter", {"n": 0})
                with stopped(*pair.replicas):
                    try:
                        twin.update("counter", add_one)
                    except NotDurable:
                        continue
                    missed += 1
    return Found(broken=missed > 0, told=f"{missed} of 2 called durable without a replica")


def a_slot_that_moves_away(_server: ServerHandle) -> Found:
    """The slot moves between a transaction's read and its EXEC, and another writer is faster where it is now."""
    with (
        start_cluster(primaries=2, replicas=False) as cluster,
        Store(cluster.url) as store,
        Store(cluster.url) as other,
    ):
        store.put("a", {"n": 0})

        def slow(tx: Tx) -> None:
            doc = tx["a"]
            if tx.attempt == 1:
                cluster.move(slot_of(b"a"))
                other.update("a", lambda doc: doc.increment("n"))
            doc.increment("n")

        store.run(slow)
        snapshot = store.get("a")
        found = None if snapshot is None else snapshot["n"]
        return Found(found != 2, f"the counter is {found} after 2 increments")


def a_slot_that_moves(_server: ServerHandle) -> Found:
    """A document is read over a new connection, while it has not moved yet, and its slot does."""
    with start_cluster(primaries=2, replicas=False) as cluster, Store(cluster.url) as store:
        store.put("a", {"n": 0})
        slot = slot_of(b"a")
        here = cluster.owner(slot)
        cluster.begin_move(slot, here, cluster.other_primary(here))
        with Store(cluster.url) as late:
            missing = late.get("a") is None
    return Found(missing, "it was missing" if missing else "it was there")


def a_slot_that_moved_since(_server: ServerHandle) -> Found:
    """What a connection had read before its slot moved, asked for once another writer has changed it where it is now."""
    with (
        start_cluster(primaries=2, replicas=False) as cluster,
        Store(cluster.url) as store,
        Store(cluster.url) as other,
    ):
        store.put("a", {"n": 0})
        for _ in range(3):
            store.update("a", add_one)
        cluster.move(slot_of(b"a"))
        other.update("a", add_one)
        found = store.run(look)
        return Found(found != 4, f"{found} is read after 4 was acknowledged")


def look(tx: Tx) -> int:
    n: int = tx["a"]["n"]
    return n
