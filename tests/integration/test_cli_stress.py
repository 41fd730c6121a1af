"""`txstate stress` with real processes: what it counts, what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import redis
from support.wire import eventually

from txstate.cli._options import CommandError
from txstate.cli._stress import command as stress_command
from txstate.cli._stress.contenders import Name
from txstate.cli._stress.contest import Plan, Result
from txstate.cli._stress.crew import Crew
from txstate.cli._stress.tally import Tally
from txstate.cli._stress.worker import Job
from txstate.cli._stress.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.servers import ServerHandle, StartServer

KEYS = {
    *("workload", "processes", "seconds", "acknowledged", "applied", "lost", "doubled", "unknown"),
    *("conflicts", "attempts", "txn_per_s", "p50_ms", "p99_ms", "max_ms", "server", "faults"),
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "txstate", "stress", *arguments]


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "TXSTATE_URL"}
    return {**clean, "PYTHONWARNINGS": "error"}


def stress(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=90, env=environment()
    )


def counted(*arguments: str) -> dict[str, Any]:
    done = stress("--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    for each in (told, *told["peers"].values()):
        assert each.keys() >= KEYS
        assert each["acknowledged"] > 0
        known = each["acknowledged"] - each["lost"] + each["doubled"]
        assert known <= each["applied"] <= known + each["unknown"]
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["max_ms"]
    assert told["lost"] == told["doubled"] == told["torn"] == 0
    assert told["attempts"] >= told["acknowledged"]
    return told


def test_a_hot_counter_on_a_private_server() -> None:
    told = counted("--seconds", "1")
    assert told["workload"] == "counter"
    assert told["processes"] == 4
    assert told["faults"] == 0
    assert told["server"].startswith(("Valkey ", "Redis "))
    assert told["peers"]["get_set"]["lost"] > 0
    assert told["peers"]["redis_py_transaction"]["lost"] == 0


def test_with_connections_cut(valkey9: ServerHandle) -> None:
    told = counted("--seconds", "2", "--faults", "--url", valkey9.url)
    assert told["faults"] > 0
    assert told["peers"]["redis_py_transaction"]["faults"] > 0
    assert told["peers"]["redis_py_transaction"]["doubled"] > 0
    with redis.Redis.from_url(valkey9.url) as client:
        assert client.keys() == []


def test_a_bank_keeps_its_money(redis6: ServerHandle) -> None:
    told = counted("--workload", "bank", "--seconds", "0.5", "--url", redis6.unix_url)
    assert told["total"] == {"before": 8000, "after": 8000}
    assert told["peers"]["get_set"]["lost"] > 0


def test_sessions_keep_the_fields_of_others_and_nothing_else_is_touched(redis8: ServerHandle) -> None:
    with redis.Redis.from_url(redis8.url) as client:
        client.set("mine", "x")
        told = counted(
            "--workload",
            "session",
            "--seconds",
            "0.5",
            "--seed",
            "5",
            "--url",
            redis8.url,
            "--namespace",
            "n:",
        )
        assert client.keys() == [b"mine"]
    assert told["seed"] == 5
    assert told["peers"]["get_set"]["lost"] > 0


def test_a_pipe_gets_plain_lines(valkey9: ServerHandle) -> None:
    done = stress("--seconds", "0.5", "--processes", "2", "--url", valkey9.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(char.isprintable() or char == "\n" for char in done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("counter: 2 processes, 0.5 s for each contender, Valkey ")
    assert any(line.split()[:1] == ["lost"] for line in lines)
    assert any("is in the store exactly once" in line for line in lines)


def test_a_server_that_refuses_everything_is_a_failure(valkey9: ServerHandle) -> None:
    with redis.Redis.from_url(valkey9.url) as client:
        client.execute_command("ACL SETUSER limited on >secret ~* +@all -time")
        try:
            done = stress(
                "--seconds", "0.3", "--url", valkey9.url.replace("redis://", "redis://limited:secret@")
            )
        finally:
            client.execute_command("ACL DELUSER limited")
    assert done.returncode == 1
    assert done.stderr == "txstate: txstate acknowledged nothing\n"
    assert "ServerRefused" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--workload", "none"), ("--processes", "0"), ("--seconds", "0"), ("--url", "")]
)
def test_usage(arguments: tuple[str, str]) -> None:
    done = stress(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address",
    ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/mymaster/0"],
    ids=["cluster", "sentinel"],
)
def test_more_than_one_server_is_refused_before_any_is_asked(address: str) -> None:
    done = stress("--url", address)
    assert (done.returncode, done.stdout) == (2, "")
    assert "redis://host:port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_ends_all_workers_and_removes_the_keys(
    valkey9: ServerHandle, end: signal.Signals, code: int
) -> None:
    with (
        redis.Redis.from_url(valkey9.url) as client,
        started_with(
            {signal.SIGINT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}, valkey9.url, "--seconds", "60"
        ) as parent,
    ):
        eventually(lambda: client.keys("*stress*token*"))
        if end is signal.SIGINT:  # by the terminal, to all of them
            os.killpg(parent.pid, end)
        else:
            parent.send_signal(end)
        _, said = parent.communicate(timeout=30)
        assert parent.returncode == code
        assert said == b""
        eventually(lambda: is_gone(parent.pid))
        assert client.keys() == []


def test_signals_that_it_was_started_to_ignore_do_not_end_it(valkey9: ServerHandle) -> None:
    """As by nohup, and by a script's `&`."""
    handled = {signal.SIGINT: signal.SIG_IGN, signal.SIGHUP: signal.SIG_IGN}
    with (
        redis.Redis.from_url(valkey9.url) as client,
        started_with(handled, valkey9.url, "--seconds", "0.5") as parent,
    ):
        eventually(lambda: client.keys("*stress*token*"))
        for ignored in handled:
            os.killpg(parent.pid, ignored)
        _, said = parent.communicate(timeout=30)
    assert (parent.returncode, said) == (0, b"")


def started_with(
    handled: Mapping[signal.Signals, signal.Handlers], url: str, *arguments: str
) -> subprocess.Popen[bytes]:
    """A run in a process group of its own, which inherits how these signals are handled, however this process was started."""

    def inherit() -> None:
        for number, handler in handled.items():
            signal.signal(number, handler)

    return subprocess.Popen(
        command("--url", url, *arguments),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=inherit,  # noqa: PLW1509 - no other thread runs here
    )


@pytest.mark.parametrize(
    ("options", "code"),
    [({}, 1), ({"appendonly": "yes", "appendfsync": "always"}, 0)],
    ids=["forgets", "saves"],
)
def test_a_server_that_is_killed_and_started_again_is_told_from_a_loss(
    options: dict[str, str], code: int, start_server: StartServer
) -> None:
    """One that has saved what it acknowledged has lost nothing; one that saves nothing has lost the documents."""
    server = start_server("valkey9", **options)
    with started_with({}, server.unix_url, "--seconds", "1") as parent:
        with redis.Redis.from_url(server.unix_url) as client:
            eventually(lambda: client.keys("*stress*token*"))
        server.restart(kill=True)
        shown, said = parent.communicate(timeout=60)
    assert parent.returncode == code, said
    if code:
        assert said.startswith(b"txstate: worker ")
        assert b"the server has been restarted without its data" in said
    else:
        assert b"txstate: each of" in shown


def test_what_a_server_had_not_saved_when_it_was_restarted_is_no_bug_of_ours() -> None:
    result = lossy()
    plan = Plan(
        url="",
        server="",
        namespace="",
        workload=Workload.COUNTER,
        processes=1,
        seconds=1,
        seed=1,
        faults=False,
    )
    said: list[str] = []
    with patch.object(stress_command, "say", said.append):
        assert (
            stress_command._judge(plan, result, restarted=True)
            == stress_command._judge(plan, result, restarted=False)
            == 1
        )
    assert "the server was restarted" in said[0]
    assert "please report this" in said[1]


def test_workers_outlive_their_parent_by_a_moment_only(valkey9: ServerHandle) -> None:
    with (
        redis.Redis.from_url(valkey9.url) as client,
        subprocess.Popen(
            command("--seconds", "60", "--url", valkey9.url),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        ) as parent,
    ):
        eventually(lambda: client.keys("*stress*token*"))
        parent.kill()
        parent.wait()
        eventually(lambda: is_gone(parent.pid))


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_dies_is_reported(valkey9: ServerHandle) -> None:
    job = Job(
        name=Name.TXSTATE,
        workload=Workload.COUNTER,
        url=valkey9.url,
        namespace="n:",
        seconds=60,
        seed=1,
        workers=2,
    )
    with redis.Redis.from_url(valkey9.url) as client:
        client.hset("n:counter", mapping={"value": 0, "last": 0})
    with Crew(2) as crew:
        victim = crew._processes[1]

        def kill() -> None:
            victim.kill()
            victim.join()  # so that it is gone when it is told to go

        with pytest.raises(CommandError, match=r"worker 1 died \(exit code -9\)"):
            crew.run(job, started=kill, progress=lambda _: None)
    assert not any(process.is_alive() for process in crew._processes)


def test_a_result_with_a_loss_is_not_exact() -> None:
    assert not lossy().exact


def lossy() -> Result:
    tally = Tally(acknowledged=2, applied=2, lost=1, doubled=1, unknown=0, failed=0, torn=0)
    return Result(
        name=Name.TXSTATE,
        tally=tally,
        attempts=2,
        conflicts=0,
        txn_per_s=1.0,
        p50_ms=1.0,
        p99_ms=1.0,
        max_ms=1.0,
        faults=0,
        total=None,
        errors={},
    )
