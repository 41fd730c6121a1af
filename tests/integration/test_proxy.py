"""The fault proxy against real servers: each fault once, where it was ordered and nowhere else."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from support.wire import SILENT, Raw, Recorder, client_of, eventually, packed

from txstate.errors import UsageError
from txstate.testing import (
    Cut,
    CutReply,
    CutRequest,
    Delay,
    DropReply,
    DropRequest,
    FaultProxy,
    HoldReply,
    HoldRequest,
    Late,
    ReplyError,
)
from txstate.testing._proxy.resp import Scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import ServerHandle, StartServer

CUTS = [Cut.FIN, Cut.RST, Cut.SILENCE]


@pytest.fixture
def proxy(valkey9: ServerHandle) -> Iterator[FaultProxy]:
    with FaultProxy(valkey9.url) as proxy:
        yield proxy


@pytest.fixture
def direct(valkey9: ServerHandle) -> Iterator[redis.Redis]:
    with client_of(valkey9.unix_url) as client:
        yield client


TRANSACTION = ("MULTI", "INCR n", "SET k v", "EXEC")
REPLIES = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n+OK\r\n"


# Nothing ordered: nothing changed


@pytest.mark.parametrize("protocol", [2, 3])
def test_bytes_pass_unchanged(server: ServerHandle, protocol: int) -> None:
    rng = random.Random(1)
    big = rng.randbytes(3_000_000)
    with FaultProxy(server.url) as proxy:
        proxy.inject(DropReply(), "NEVERSENT")
        with client_of(proxy.url, protocol=protocol) as client, client_of(server.unix_url) as direct:
            client.set("big", big)
            assert direct.get("big") == big
            assert client.get("big") == big
            client.hset("h", mapping={f"f{i}": rng.randbytes(i) for i in range(300)})
            assert client.hgetall("h") == direct.hgetall("h")
            with client.pipeline(transaction=False) as pipeline:
                for i in range(2000):
                    pipeline.set(f"k{i}", i).get(f"k{i}").hget("h", "absent")
                assert pipeline.execute() == [
                    each for i in range(2000) for each in (True, str(i).encode(), None)
                ]
            assert client.config_get("save") == {"save": ""}
        assert proxy.fired == 0


def test_a_half_command_and_a_half_closed_client_pass(proxy: FaultProxy, direct: redis.Redis) -> None:
    with Raw(proxy) as raw:
        raw.sock.sendall(packed("INCR n") + packed("INCR n")[:-3])
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.end() == (b":1\r\n", Cut.FIN)
    assert direct.get("n") == b"1"
    with Recorder() as recorder, FaultProxy(recorder.url) as other, Raw(other) as raw:
        raw.sock.sendall(packed("INCR n")[:-3])
        raw.sock.shutdown(socket.SHUT_WR)
        assert recorder.one() == packed("INCR n")[:-3]


def test_urls_keep_database_credentials_and_options(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("valkey9", requirepass="p@ss/word")
    tcp, unix = (
        server.url.removesuffix("0") + "3?protocol=3",
        server.unix_url.replace("db=0", "db=3&protocol=3"),
    )
    for upstream in (tcp, unix, tcp.replace("redis:", "valkey:")):
        with FaultProxy(upstream, unix_path=tmp_path / "a socket") as proxy:
            assert proxy.unix_url is not None
            for url in (proxy.url, proxy.unix_url):
                with client_of(url) as client:
                    info = client.client_info()
                    assert (info["db"], info["resp"]) == (3, "3")
        assert not (tmp_path / "a socket").exists()


# Each action


@pytest.mark.parametrize("by", CUTS)
def test_a_dropped_reply_leaves_the_command_applied(proxy: FaultProxy, direct: redis.Redis, by: Cut) -> None:
    rule = proxy.inject(DropReply(by), "EXEC")
    with Raw(proxy) as raw:
        raw.send(*TRANSACTION, "INCR m")
        data, ended = raw.end()
    assert ended is by
    assert b"+OK\r\n+QUEUED\r\n+QUEUED\r\n".startswith(data)  # a reset may overtake them
    assert data or by is Cut.RST
    rule.wait()
    assert direct.get("n") == b"1"
    assert (rule.fired, proxy.fired) == (1, 1)
    with Raw(proxy) as raw:  # once is once
        raw.send(*TRANSACTION)
        assert raw.read(len(REPLIES)) == REPLIES.replace(b":1", b":2")


@pytest.mark.parametrize("by", CUTS)
def test_a_dropped_request_is_never_applied(proxy: FaultProxy, direct: redis.Redis, by: Cut) -> None:
    rule = proxy.inject(DropRequest(by), "exec")
    with Raw(proxy) as raw:
        raw.send("INCR before", *TRANSACTION, "INCR after")
        assert raw.end()[1] is by
        rule.wait()
        with contextlib.suppress(ConnectionError):
            for _ in range(3):
                raw.send("INCR after")
    eventually(lambda: direct.info("clients")["connected_clients"] == 1)
    assert direct.mget("before", "n", "after") == [b"1", None, None]


@pytest.mark.parametrize("by", [Cut.FIN, Cut.RST])
def test_a_request_is_cut_at_every_byte(by: Cut) -> None:
    before, batch = packed("PING"), packed(*TRANSACTION)
    with Recorder() as recorder, FaultProxy(recorder.url) as proxy:
        for at in range(0, len(batch) + 1, 1 if by is Cut.FIN else 7):
            rule = proxy.inject(CutRequest(at, by), "MULTI")
            with Raw(proxy) as raw:
                first = max(0, at - 3)  # the piece without the byte that cuts
                raw.sock.sendall(before + batch[:first])
                raw.sock.sendall(batch[first:])
                assert recorder.one() == before + batch[:at]
                assert raw.end() == (b"", by)
            assert rule.fired == 1
        rule = proxy.inject(CutRequest(len(batch) + 1, by), "MULTI")
        with Raw(proxy) as raw:
            raw.sock.sendall(before + batch)
            raw.sock.shutdown(socket.SHUT_WR)
            assert recorder.one() == before + batch
        assert rule.fired == 0


def test_a_cut_transaction_is_applied_when_its_last_byte_got_through(
    proxy: FaultProxy, direct: redis.Redis
) -> None:
    size = len(packed(*TRANSACTION))
    for at, applied in ((0, None), (size - 1, None), (size, b"1")):
        rule = proxy.inject(CutRequest(at), "MULTI")
        with Raw(proxy) as raw:
            raw.send(*TRANSACTION)
            raw.end()
        rule.wait()
        eventually(lambda: direct.info("clients")["connected_clients"] == 1)
        assert direct.get("n") == applied


def test_a_reply_is_cut_at_every_byte(proxy: FaultProxy, direct: redis.Redis) -> None:
    at = 0
    while True:
        direct.delete("n")
        rule = proxy.inject(CutReply(at), "MULTI")
        with Raw(proxy) as raw:
            raw.send("PING", *TRANSACTION)
            expected = b"+PONG\r\n" + REPLIES[:at]
            assert raw.read(len(expected)) == expected
            if at > len(REPLIES):  # the sweep is complete: it no longer fires
                assert rule.fired == 0
                break
            assert raw.end() == (b"", Cut.FIN)
        rule.wait()
        assert direct.get("n") == b"1"
        at += 1
    assert proxy.fired == len(REPLIES) + 1


@pytest.mark.parametrize("by", CUTS)
def test_a_late_request_waits_for_the_test(proxy: FaultProxy, direct: redis.Redis, by: Cut) -> None:
    rule = proxy.inject(Late(by), "EXEC")
    with Raw(proxy) as raw:
        assert raw.ask("WATCH k") == b"OK"
        raw.send(*TRANSACTION, "GET n", "NONSENSE")
        held = rule.held()
        assert raw.end()[1] is by
    assert [command.name for command in held.commands] == ["EXEC", "GET", "NONSENSE"]
    assert held.data == packed("EXEC", "GET n", "NONSENSE")
    assert direct.get("n") is None
    assert proxy.kill() == 0  # what is late belongs to the test
    executed, read, refused = held.deliver()
    assert (executed, read) == ([1, b"OK"], b"1")
    assert isinstance(refused, ReplyError)
    assert direct.get("n") == b"1"
    assert held.deliver() == (executed, read, refused)  # sent once
    assert direct.get("n") == b"1"
    with pytest.raises(UsageError, match="sent already"):
        held.discard()
    eventually(lambda: direct.info("clients")["connected_clients"] == 1)


def test_a_late_exec_still_has_its_watch(proxy: FaultProxy, direct: redis.Redis) -> None:
    rule = proxy.inject(Late(), "EXEC")
    with Raw(proxy) as raw:
        assert raw.ask("WATCH k") == b"OK"
        raw.send(*TRANSACTION)
        held = rule.held()
    direct.set("k", "another")
    assert held.deliver() == (None,)
    assert direct.get("n") is None


def test_a_late_request_can_be_discarded_or_lost(proxy: FaultProxy, direct: redis.Redis) -> None:
    rule = proxy.inject(Late(), "EXEC", times=2)
    for _ in range(2):
        with Raw(proxy) as raw:
            raw.send(*TRANSACTION)
            raw.end()
    first, second = rule.held(), rule.held()
    first.discard()
    first.discard()
    with pytest.raises(UsageError, match="discarded already"):
        first.deliver()
    eventually(lambda: direct.info("clients")["connected_clients"] == 2)
    direct.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(ConnectionError, match="EXEC"):
        second.deliver()
    assert direct.get("n") is None
    with pytest.raises(TimeoutError):
        rule.held(timeout=0.01)


def test_delays_are_kept_in_order(proxy: FaultProxy) -> None:
    rule = proxy.inject(Delay(request=0.05, reply=0.05), "INCR")
    with Raw(proxy) as raw:
        start = time.monotonic()
        raw.send("PING", "INCR n", "GET n")
        assert raw.read(7) == b"+PONG\r\n"
        assert raw.read(11) == b":1\r\n$1\r\n1\r\n"
        assert time.monotonic() - start >= 0.1
        assert rule.fired == 1
        proxy.delay(requests=0.03, replies=0.03)
        start = time.monotonic()
        raw.send("INCR n", "GET n")
        assert raw.read(11) == b":2\r\n$1\r\n2\r\n"
        assert time.monotonic() - start >= 0.06
    assert proxy.fired == 1


def test_a_held_request_or_reply_waits_for_its_release(proxy: FaultProxy, direct: redis.Redis) -> None:
    request = proxy.inject(HoldRequest(), "INCR", skip=1)
    reply = proxy.inject(HoldReply(), "GET")
    with Raw(proxy) as raw, Raw(proxy) as other:
        raw.send("INCR n", "INCR n", "PING")
        request.wait()
        assert raw.read(4) == b":1\r\n"
        assert other.ask("INCR m") == 1  # others go on
        assert direct.get("n") == b"1"
        request.release()
        assert raw.read(11) == b":2\r\n+PONG\r\n"
        raw.send("GET n", "INCR n")
        reply.wait()
        eventually(lambda: direct.get("n") == b"3")
        raw.sock.settimeout(SILENT)
        with pytest.raises(TimeoutError):
            raw.sock.recv(1)
        reply.cancel()
        raw.sock.settimeout(5)
        assert raw.read(11) == b"$1\r\n2\r\n:3\r\n"


# Which command


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_third_exec_of_the_second_connection(
    proxy: FaultProxy, direct: redis.Redis, protocol: int
) -> None:
    rule = proxy.inject(DropReply(), "EXEC", connection=2, nth=3, times=None)
    with Raw(proxy) as one, Raw(proxy) as two:
        for raw in (one, two):
            assert raw.ask("PING") == b"PONG"
            assert isinstance(raw.ask(f"HELLO {protocol}"), dict if protocol == 3 else list)
        batch = ["MULTI", "INCR n", "EXEC"] * 4
        one.send(*batch)
        assert one.read(4 * 18) == b"".join(b"+OK\r\n+QUEUED\r\n*1\r\n:%d\r\n" % i for i in range(1, 5))[:72]
        direct.set("n", 0)
        two.send(*batch)
        data, ended = two.end()
    assert ended is Cut.FIN
    assert data == b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n+OK\r\n+QUEUED\r\n"
    assert rule.fired == 1
    (event,) = [event for event in proxy.log if event.kind == "fired"]
    assert event.command is not None
    assert (event.command.connection, event.command.nth, event.command.nth_overall) == (2, 3, 7)


def test_pushes_between_replies_are_none(proxy: FaultProxy) -> None:
    rule = proxy.inject(CutReply(0), "GET", where=lambda command: command.args == (b"b",))
    with Raw(proxy) as raw:
        raw.ask("HELLO 3")
        assert raw.ask("CLIENT TRACKING ON") == b"OK"
        raw.send("GET a", "SET a 1", "GET a", "SET a 2", "GET b", "GET a")
        data, ended = raw.end()
    assert ended is Cut.FIN
    assert rule.fired == 1
    scanner = Scanner()
    scanner.feed(data)
    frames = []
    while (frame := scanner.next()) is not None:
        frames.append(frame)
    pushes = [frame for frame in frames if frame.startswith(b">")]
    replies = [frame for frame in frames if not frame.startswith(b">")]
    assert replies == [b"_\r\n", b"+OK\r\n", b"$1\r\n1\r\n", b"+OK\r\n"]
    assert len(pushes) == 2


def test_skip_times_where_and_the_first_rule_decides(proxy: FaultProxy) -> None:
    first = proxy.inject(Delay(), "GET", skip=2, times=2)
    second = proxy.inject(Delay(), where=lambda command: command.args[:1] == (b"k",), times=None)
    with Raw(proxy) as raw:
        for _ in range(6):
            raw.ask("GET k")
        raw.ask("TTL k")
        raw.ask("TTL other")
    first.wait(times=2)
    assert (first.fired, second.fired) == (2, 5)
    first.cancel()
    second.cancel()
    with Raw(proxy) as raw:
        raw.ask("GET k")
    assert proxy.fired == 7


def test_a_fault_that_could_not_happen_is_still_to_come(proxy: FaultProxy, direct: redis.Redis) -> None:
    rule = proxy.inject(DropReply(), "BLPOP")
    with Raw(proxy) as raw:
        raw.send("BLPOP q 0")
        eventually(lambda: direct.info("clients")["blocked_clients"] == 1)
    eventually(lambda: proxy.log[-1].kind == "closed")
    with pytest.raises(TimeoutError, match="has not fired 1 times"):
        rule.wait(timeout=0.01)
    direct.rpush("q", "x")
    with Raw(proxy) as raw:
        raw.send("BLPOP q 0")
        assert raw.end() == (b"", Cut.FIN)
    assert rule.fired == 1


def test_a_stream_of_messages_passes_and_is_never_matched(proxy: FaultProxy, direct: redis.Redis) -> None:
    rule = proxy.inject(DropReply(), "PING", times=None)
    with Raw(proxy) as raw:
        raw.ask("SUBSCRIBE c")
        for text in ("one", "two"):
            assert direct.publish("c", text) == 1
            message = packed(f"message c {text}")
            assert raw.read(len(message)) == message
        assert raw.ask("PING") == [b"pong", b""]
    assert rule.fired == 0


# The whole proxy


@pytest.mark.parametrize("by", CUTS)
def test_connections_are_killed(proxy: FaultProxy, by: Cut) -> None:
    with Raw(proxy) as one, Raw(proxy) as two:
        assert [raw.ask("PING") for raw in (one, two)] == [b"PONG", b"PONG"]
        assert proxy.connections == (1, 2)
        assert proxy.kill(1, by=by) == 1
        assert one.end() == (b"", by)
        assert two.ask("PING") == b"PONG"
        assert proxy.kill(by=Cut.RST) == (2 if by is Cut.SILENCE else 1)
        assert two.end() == (b"", Cut.RST)
        assert proxy.kill(7) == 0
        eventually(lambda: not proxy.connections)


def test_new_connections_are_refused_for_a_while(valkey9: ServerHandle, tmp_path: Path) -> None:
    with FaultProxy(valkey9.url, unix_path=tmp_path / "s") as proxy, Raw(proxy) as old:
        assert proxy.unix_url is not None
        assert old.ask("PING") == b"PONG"
        for _ in range(2):
            proxy.refuse()
            proxy.refuse()
            for url in (proxy.url, proxy.unix_url):
                with client_of(url) as client, pytest.raises(redis.ConnectionError, match="refused"):
                    client.ping()
            assert old.ask("PING") == b"PONG"
            proxy.accept()
            proxy.accept()
            for url in (proxy.url, proxy.unix_url):
                with client_of(url) as client:
                    assert client.ping()
        proxy.refuse()


def test_paused_nothing_moves(proxy: FaultProxy, direct: redis.Redis) -> None:
    with Raw(proxy) as raw:
        assert raw.ask("PING") == b"PONG"
        proxy.pause()
        raw.send("INCR n")
        with Raw(proxy) as late:  # the kernel accepts
            late.send("INCR n")
            raw.sock.settimeout(SILENT)
            with pytest.raises(TimeoutError):
                raw.sock.recv(1)
            assert direct.get("n") is None
            proxy.resume()
            raw.sock.settimeout(5)
            assert {raw.read(4), late.read(4)} == {b":1\r\n", b":2\r\n"}


def test_a_server_that_dies_and_comes_back(start_server: StartServer) -> None:
    server = start_server("redis6")
    with FaultProxy(server.url) as proxy:
        with Raw(proxy) as raw:
            assert raw.ask("PING") == b"PONG"
            server.stop(kill=True)
            assert raw.end()[1] in {Cut.FIN, Cut.RST}
        with contextlib.suppress(ConnectionResetError), Raw(proxy) as raw:  # the reset may overtake `connect`
            assert raw.end() == (b"", Cut.RST)
        assert "unreachable" in [event.kind for event in proxy.log]
        server.launch()
        with Raw(proxy) as raw:
            assert raw.ask("PING") == b"PONG"


def test_an_upstream_that_talks_nonsense_is_cut_off_and_reported() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(f"redis://127.0.0.1:{listener.getsockname()[1]}") as proxy,
        Raw(proxy) as raw,
    ):
        upstream, _ = listener.accept()
        with upstream:
            upstream.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            assert raw.end() == (b"", Cut.RST)
        (failed,) = [event for event in proxy.log if event.kind == "failed"]
        assert "HTTP/1.1" in failed.note


def test_two_hundred_connections_leave_nothing_behind(valkey9: ServerHandle) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/dev/fd").iterdir())

    def is_dropped(number: int) -> bool:
        with Raw(proxy) as raw:
            barrier.wait(30)
            raw.send(f"SET k{number} x", "INCR n")
            assert raw.read(5) == b"+OK\r\n"
            return not raw.sock.recv(8)

    before, threads = descriptors(), threading.active_count()
    barrier = threading.Barrier(200)
    with FaultProxy(valkey9.url) as proxy:
        proxy.inject(DropReply(), "INCR", skip=50, times=20)
        with ThreadPoolExecutor(200) as pool:
            assert sum(pool.map(is_dropped, range(200))) == 20
    proxy.close()
    eventually(lambda: (descriptors(), threading.active_count()) == (before, threads))


def test_a_forked_child_holds_no_connection_open(proxy: FaultProxy) -> None:
    with Raw(proxy) as raw:
        assert raw.ask("PING") == b"PONG"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
            child = os.fork()
        if child == 0:
            try:
                proxy.kill()
            except UsageError:
                time.sleep(30)
            os._exit(1)
        try:
            proxy.inject(DropReply(Cut.RST), "PING")
            raw.send("PING")
            assert raw.end() == (b"", Cut.RST)
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_random_cuts_hit_commits(server: ServerHandle) -> None:
    acknowledged, unknown = [0] * 4, [0] * 4

    def work(number: int) -> None:
        while not done.is_set():
            try:
                with client_of(proxy.url) as client:
                    while not done.is_set():
                        with client.pipeline() as pipeline:
                            pipeline.incr("n").execute()
                        acknowledged[number] += 1
            except redis.ConnectionError:
                unknown[number] += 1

    done = threading.Event()
    with FaultProxy(server.url) as proxy, ThreadPoolExecutor(4) as pool:
        with proxy.cut_randomly(per_second=200, seed=7) as cuts:
            futures = [pool.submit(work, number) for number in range(4)]
            try:
                eventually(lambda: cuts.fired >= 40)
            finally:
                done.set()
            for future in futures:
                future.result(10)
        fired = cuts.fired
        assert fired == proxy.fired
        hit = {event.action for event in proxy.log if event.kind == "fired"}
        assert len(hit) >= 3
        eventually(
            lambda: (
                sum(event.action == Late(Cut.RST) for event in proxy.log)
                == sum(event.kind == "delivered" for event in proxy.log)
            )
        )
        with client_of(server.unix_url) as direct:
            applied = int(direct.get("n"))
    assert sum(acknowledged) < applied <= sum(acknowledged) + sum(unknown)


def test_random_cuts_kill_where_nothing_commits(proxy: FaultProxy) -> None:
    with Raw(proxy) as raw, proxy.cut_randomly(per_second=50, seed=1) as cuts:
        assert raw.ask("PING") == b"PONG"
        eventually(lambda: cuts.fired == 1)
        assert raw.end()[1] in {Cut.FIN, Cut.RST}


# Misuse


def test_a_predicate_that_raises_is_reported(valkey9: ServerHandle) -> None:
    proxy = FaultProxy(valkey9.url)
    rule = proxy.inject(DropReply(), where=lambda command: command.nth == 1 // 0)
    with Raw(proxy) as raw:
        assert raw.ask("PING") == b"PONG"
    for call in (rule.wait, proxy.close):
        with pytest.raises(UsageError, match="predicate") as caught:
            call()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "upstream",
    [
        "",
        "localhost:6379",
        "rediss://localhost",
        "http://localhost",
        "unix://",
        "redis://localhost:x",
        "redis://[::1",
        b"redis://localhost",
        5,
        None,
    ],
)
def test_an_address_that_cant_be_forwarded_to(upstream: Any) -> None:
    with pytest.raises(UsageError):
        FaultProxy(upstream)


@pytest.mark.parametrize("unix_path", ["", b"", "a\0b", 5])
def test_a_path_that_cant_be_listened_on(unix_path: Any, valkey9: ServerHandle) -> None:
    with pytest.raises(UsageError, match="unix_path= takes the path of a socket"):
        FaultProxy(valkey9.url, unix_path=unix_path)


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        *(
            (kind, arguments)
            for kind in (CutRequest, CutReply)
            for arguments in ((-1,), (1.5,), (None,), (1, "rst"))
        ),
        *((Delay, (seconds,)) for seconds in (-1, float("nan"), float("inf"), "1", None)),
        *((kind, ("rst",)) for kind in (DropReply, DropRequest, Late)),
    ],
)
def test_actions_that_there_are_not(action: type[Any], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match="takes"):
        action(*arguments)


WRONG_ORDERS: list[Callable[[FaultProxy], object]] = [
    lambda proxy: proxy.inject(cast("Any", "EXEC")),
    lambda proxy: proxy.inject(cast("Any", DropReply)),
    lambda proxy: proxy.inject(DropReply(), cast("Any", 5)),
    lambda proxy: proxy.inject(DropReply(), cast("Any", b"EXEC")),
    lambda proxy: proxy.inject(DropReply(), "CLIENT INFO"),
    lambda proxy: proxy.inject(DropReply(), ""),
    lambda proxy: proxy.inject(DropReply(), where=cast("Any", 5)),
    lambda proxy: proxy.inject(DropReply(), times=0),
    lambda proxy: proxy.inject(DropReply(), nth=0),
    lambda proxy: proxy.inject(DropReply(), nth=cast("Any", 1.5)),
    lambda proxy: proxy.inject(DropReply(), skip=-1),
    lambda proxy: proxy.inject(DropReply(), skip=cast("Any", None)),
    lambda proxy: proxy.inject(DropReply(), connection=0),
    lambda proxy: proxy.inject(DropReply(), connection=cast("Any", "1")),
    lambda proxy: proxy.inject(DropReply()).wait(-1),
    lambda proxy: proxy.inject(DropReply()).wait(cast("Any", None)),
    lambda proxy: proxy.inject(DropReply()).wait(0, times=cast("Any", "1")),
    lambda proxy: proxy.inject(DropReply()).held(float("nan")),
    lambda proxy: proxy.cut_randomly(per_second=0, seed=1),
    lambda proxy: proxy.cut_randomly(per_second=cast("Any", None), seed=1),
    lambda proxy: proxy.cut_randomly(per_second=1, seed=1, kinds=[HoldReply()]),
    lambda proxy: proxy.cut_randomly(per_second=1, seed=1, kinds=cast("Any", DropReply())),
    lambda proxy: proxy.delay(requests=-1),
    lambda proxy: proxy.delay(replies=cast("Any", "1")),
    lambda proxy: proxy.kill(by=cast("Any", "rst")),
]


@pytest.mark.parametrize("order", WRONG_ORDERS)
def test_orders_that_nobody_could_carry_out(proxy: FaultProxy, order: Callable[[FaultProxy], object]) -> None:
    with pytest.raises(UsageError, match=r"takes|must be|one of the actions"):
        order(proxy)


def test_a_closed_proxy(proxy: FaultProxy) -> None:
    proxy.close()
    with pytest.raises(UsageError, match="closed"):
        proxy.inject(DropReply())
    assert proxy.log == ()
