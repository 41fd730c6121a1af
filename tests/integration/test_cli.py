"""The commands on documents, against real servers."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis
from support.commands import printed, refused, run

import txstate

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import ServerHandle


def test_put_get_delete(server: ServerHandle) -> None:
    url = server.url
    document = {"name": "Zoë", "n": 2**62, "deep": {"list": [1, None, 1.5]}}
    put = printed("put", "k", json.dumps(document), "--url", url)
    assert printed("--url", url, "get", "k") == document
    meta = printed("get", "k", "--meta", TXSTATE_URL=url)
    assert meta == {"key": "k", "version": put["version"], "ttl": None, "document": document}
    assert printed("get", "k", "--fields", "n,none", "--url", url) == {"n": 2**62}
    assert printed("delete", "k", "--url", url) == {"key": "k", "deleted": True}
    assert "'k' does not exist" in refused(1, "get", "k", "--url", url)
    assert "'k' does not exist" in refused(1, "delete", "k", "--url", url)


def test_put_reads_stdin_and_keeps_an_expiry(valkey9: ServerHandle) -> None:
    url = valkey9.url
    printed("put", "k", "--expire", "100", "--url", url, stdin='{"a": 1}')
    printed("put", "k", "-", "--url", url, stdin='{"b": 2}')
    meta = printed("get", "k", "--meta", "--url", url)
    assert meta["document"] == {"b": 2}
    assert 0 < meta["ttl"] <= 100


def test_if_version(valkey9: ServerHandle) -> None:
    url = valkey9.url
    version = printed("put", "k", '{"a": 1}', "--if-version", "0", "--url", url)["version"]
    assert "expected not to exist" in refused(1, "put", "k", "{}", "--if-version", "0", "--url", url)
    assert "expected to have version 5" in refused(1, "delete", "k", "--if-version", "5", "--url", url)
    printed("delete", "k", "--if-version", str(version), "--url", url)


def test_the_options_before_the_command_and_after_it(valkey9: ServerHandle) -> None:
    url = valkey9.url
    printed("--namespace", "n:", "--url", url, "put", "k", '{"a": 1}')
    assert printed("get", "k", "--namespace", "n:", "--url", url) == {"a": 1}
    assert printed(
        "--url", "redis://nobody:1", "--namespace", "x", "get", "n:k", "--namespace", "", "--url", url
    )


@pytest.mark.parametrize("document", ["[1]", "7", "null", '"x"', "{", '{"a": NaN}', '{"a": 1, "a": 2}', ""])
def test_what_is_no_document_is_a_usage_error(document: str) -> None:
    assert "JSON" in refused(2, "put", "k", document, "--url", "redis://127.0.0.1:1")


def test_errors_of_the_library_are_one_line(valkey9: ServerHandle) -> None:
    with redis.Redis.from_url(valkey9.url) as client:
        client.set("text", "x")
    assert "a Redis string" in refused(1, "get", "text", "--url", valkey9.url)
    assert "'n'" in refused(1, "put", "k", '{"n": 18446744073709551616}', "--url", valkey9.url)
    assert "expire" in refused(2, "put", "k", "{}", "--expire", "0", "--url", valkey9.url)
    assert "write 'redis://host:1'" in refused(2, "get", "k", "--url", "host:1")


@pytest.mark.parametrize(
    "command", [("get", "k"), ("put", "k", "{}"), ("edit", "k"), ("delete", "k"), ("doctor",)]
)
def test_without_a_server_named(command: tuple[str, ...]) -> None:
    assert "TXSTATE_URL" in refused(2, *command)


def test_usage() -> None:
    assert run("--version").stdout == f"txstate {txstate.__version__}\n"
    assert run("get").returncode == 2
    assert run("get", "k", "--nonsense").returncode == 2
    assert run("nonsense").returncode == 2
    assert "doctor" in run("--help").stdout


def test_as_a_process_without_a_traceback(valkey9: ServerHandle) -> None:
    command = [sys.executable, "-W", "error", "-m", "txstate", "--url", valkey9.url]
    put = subprocess.run([*command, "put", "k"], input=b'{"a": "\xc3\xa9"}', capture_output=True, check=True)
    assert json.loads(put.stdout)["key"] == "k"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    got = subprocess.run([*command, "get", "k"], capture_output=True, check=True, env=ascii_only)
    assert json.loads(got.stdout) == {"a": "é"}
    failed = subprocess.run([*command, "get", "none"], capture_output=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr == b"txstate: 'none' does not exist\n"


def test_a_folder_can_be_named(tmp_path: Path) -> None:
    printed("put", "k", '{"a": 1}', "--url", str(tmp_path / "state"))
    assert printed("get", "k", "--url", str(tmp_path / "state")) == {"a": 1}


@pytest.mark.parametrize("command", ["get", "edit", "delete"])
def test_a_folder_that_is_not_there_is_not_made_by_who_only_looks(command: str, tmp_path: Path) -> None:
    assert "there is no folder" in refused(2, command, "k", "--url", str(tmp_path / "localhost"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from txstate.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("pip install 'txstate[cli]'\n")
    assert done.stderr.count("\n") == 1


def editor(tmp_path: Path, script: str) -> str:
    """An editor that runs a Python script, with the file's path in `path`."""
    program = tmp_path / "an editor"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\npath = pathlib.Path(sys.argv[-1])\n{script}\n"
    )
    program.chmod(stat.S_IRWXU)
    return f"{shlex.quote(str(program))} --wait"


REPLACE = "path.write_text(path.read_text().replace('1', '2'))"


def test_edit_commits_what_was_changed(server: ServerHandle, tmp_path: Path) -> None:
    printed("put", "k", '{"a": 1}', "--expire", "100", "--url", server.url)
    done = run(
        "edit",
        "k",
        "--url",
        server.url,
        EDITOR="false",
        VISUAL=editor(tmp_path, REPLACE),
        TMPDIR=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    meta = printed("get", "k", "--meta", "--url", server.url)
    assert meta["document"] == {"a": 2}
    assert meta["version"] == json.loads(done.stdout)["version"]
    assert meta["ttl"] is not None
    assert not list(tmp_path.glob("txstate-*"))


@pytest.mark.parametrize("script", ["pass", "path.write_text(' { \"a\":1}')"])
def test_edit_without_a_change_commits_nothing(valkey9: ServerHandle, tmp_path: Path, script: str) -> None:
    version = printed("put", "k", '{"a": 1}', "--url", valkey9.url)["version"]
    said = refused(
        0, "edit", "k", "--url", valkey9.url, EDITOR=editor(tmp_path, script), TMPDIR=str(tmp_path)
    )
    assert "not changed" in said
    assert printed("get", "k", "--meta", "--url", valkey9.url)["version"] == version
    assert not list(tmp_path.glob("txstate-*"))


@pytest.mark.parametrize(
    "meanwhile",
    [
        "txstate.Store(url).put('k', {'a': 7})",
        "redis.Redis.from_url(url).hset('k', 'a', 7)",  # a plain client, who leaves the version as it is
        "txstate.Store(url).delete('k')",
    ],
)
def test_edit_against_a_change_meanwhile_loses_neither(
    valkey9: ServerHandle, tmp_path: Path, meanwhile: str
) -> None:
    url = valkey9.url
    printed("put", "k", '{"a": 1}', "--url", url)
    script = f"import redis, txstate\nurl = {url!r}\n{meanwhile}\n{REPLACE}"
    said = refused(1, "edit", "k", "--url", url, EDITOR=editor(tmp_path, script), TMPDIR=str(tmp_path))
    assert "changed by somebody else" in said
    (kept,) = tmp_path.glob("txstate-k-*.json")
    assert str(kept) in said
    assert json.loads(kept.read_text()) == {"a": 2}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with txstate.Store(url) as store:
        assert (store.get("k") or {}) == ({} if "delete" in meanwhile else {"a": 7})


@pytest.mark.parametrize("script", ["path.write_text('{\"a\": oops')", f"{REPLACE}\nsys.exit(3)"])
def test_edit_keeps_a_text_that_can_not_be_committed(
    valkey9: ServerHandle, tmp_path: Path, script: str
) -> None:
    printed("put", "k", '{"a": 1}', "--url", valkey9.url)
    said = refused(
        1, "edit", "k", "--url", valkey9.url, EDITOR=editor(tmp_path, script), TMPDIR=str(tmp_path)
    )
    (kept,) = tmp_path.glob("txstate-k-*.json")
    assert str(kept) in said
    assert printed("get", "k", "--url", valkey9.url) == {"a": 1}


def test_edit_of_what_is_not_there(valkey9: ServerHandle) -> None:
    assert "does not exist" in refused(1, "edit", "k", "--url", valkey9.url, EDITOR="false")
