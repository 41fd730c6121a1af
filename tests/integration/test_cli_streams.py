"""What the command line does with output that can't be written, streams that are closed, and interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.commands import printed, refused, run

from txstate import Store
from txstate.testing import FaultProxy, HoldReply

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import ServerHandle

BUFFERED, UNBUFFERED = "", "1"


def shell(redirected: str, *arguments: str, unbuffered: str = BUFFERED) -> subprocess.CompletedProcess[str]:
    """Run the command line by a shell, its streams redirected; what is left of them is caught."""
    line = f'"$0" -m txstate "$@" {redirected}'
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", line, sys.executable, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env=environment,
        timeout=60,
    )


def script(folder: Path, body: str) -> str:
    """An editor that does this; the file is its argument."""
    program = folder / "editor"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o700)
    return str(program)


@pytest.fixture
def url(valkey9: ServerHandle) -> str:
    with Store(valkey9.url) as store:
        store.put("k", {"a": 1})
    return valkey9.url


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110 - a condition of pytest's
@pytest.mark.parametrize("unbuffered", [BUFFERED, UNBUFFERED])
@pytest.mark.parametrize("command", [("get", "k"), ("doctor",), ("--help",), ("--version",)])
def test_a_full_disk_is_told_in_a_line(url: str, command: tuple[str, ...], unbuffered: str) -> None:
    done = shell(">/dev/full", "--url", url, *command, unbuffered=unbuffered)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("txstate: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", [BUFFERED, UNBUFFERED])
@pytest.mark.parametrize("command", [("get", "k"), ("doctor",), ("--help",), ("--version",)])
def test_a_reader_that_is_gone_ends_it_without_a_word(
    url: str, command: tuple[str, ...], unbuffered: str
) -> None:
    done = shell("| exec <&-", "--url", url, *command, unbuffered=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("unbuffered", [BUFFERED, UNBUFFERED])
@pytest.mark.parametrize("command", [("put", "k", '{"a": 2}'), ("delete", "k")])
def test_a_change_that_can_not_be_acknowledged_is_told_to_be_applied(
    url: str, command: tuple[str, ...], unbuffered: str
) -> None:
    done = shell("| exec <&-", "--url", url, *command, unbuffered=unbuffered)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("txstate: the change is applied")
    assert done.stderr.count("\n") == 1
    with Store(url) as store:
        assert store.get("k") == ({"a": 2} if command[0] == "put" else None)


@pytest.mark.parametrize(
    ("closed", "command", "code", "said"),
    [
        ("<&-", ("get", "k"), 0, ""),
        (">&-", ("get", "k"), 0, ""),
        (">&- 2>&- <&-", ("get", "k"), 0, ""),
        ("<&-", ("put", "k"), 2, "no JSON document"),
        (">&-", ("put", "k", "{}"), 0, ""),
        ("2>&-", ("get", "none"), 1, ""),
    ],
)
def test_a_stream_that_is_closed_leads_to_nowhere(
    url: str, closed: str, command: tuple[str, ...], code: int, said: str
) -> None:
    done = shell(closed, "--url", url, *command)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ("" if ">&-" in closed or code else '{\n  "a": 1\n}\n')


def test_a_child_never_writes_into_a_connection(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were 1 left free, the store's first connection would be the standard output of the editor."""
    editor = script(tmp_path, 'printf "FLUSHALL\\r\\n" && echo "{}" > "$1"')
    monkeypatch.setenv("VISUAL", editor)
    done = shell(">&-", "--url", url, "edit", "k")
    assert (done.returncode, done.stderr) == (0, "")
    assert printed("get", "k", "--url", url) == {}


@pytest.mark.parametrize("command", [("put", "k", '{"a": 2}'), ("delete", "k")])
def test_who_interrupts_a_commit_is_told_what_became_of_it(url: str, command: tuple[str, ...]) -> None:
    with FaultProxy(url) as proxy:
        rule = proxy.inject(HoldReply(), "EXEC", skip=1)  # the first one proves the rights of the connection
        with subprocess.Popen(
            [sys.executable, "-m", "txstate", "--url", proxy.url, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads there
        ) as process:
            rule.wait()
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "txstate: interrupted, but the transaction was applied (once)\n"
    with Store(url) as store:
        assert store.get("k") == ({"a": 2} if command[0] == "put" else None)


def test_an_interrupt_before_anything_has_begun() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from txstate.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(("ignored", "code"), [(False, -signal.SIGINT), (True, 0)])
def test_an_interrupt_while_the_script_imports_the_package(*, ignored: bool, code: int) -> None:
    program = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "redis":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from txstate_script import main
main()
"""
    handler = signal.SIG_IGN if ignored else signal.default_int_handler
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_the_script_leaves_interrupts_to_the_command_line() -> None:
    program = """
import signal, sys
from txstate import cli
cli.main = lambda: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
from txstate_script import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("command", [("get", "k"), ("doctor",), ("stress", "--seconds", "0.1")])
def test_a_namespace_that_is_no_text_is_a_usage_error(url: str, command: tuple[str, ...]) -> None:
    assert "namespace '\\udcff'" in refused(2, *command, "--url", url, "--namespace", "\udcff")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (r"printf '\377' > $1", "no JSON document"),
        ("rm $1", "can't be read"),
        ("rm $1; mkdir $1", "can't be read"),
    ],
)
def test_what_an_editor_may_leave(url: str, tmp_path: Path, body: str, said: str) -> None:
    assert said in refused(1, "edit", "k", "--url", url, EDITOR=script(tmp_path, body), TMPDIR=str(tmp_path))
    assert printed("get", "k", "--url", url) == {"a": 1}


def test_an_editor_that_marks_the_text_as_utf_8(url: str, tmp_path: Path) -> None:
    editor = script(tmp_path, """printf '\\357\\273\\277{"a": 2}' > "$1\"""")
    assert run("edit", "k", "--url", url, EDITOR=editor, TMPDIR=str(tmp_path)).returncode == 0
    assert printed("get", "k", "--url", url) == {"a": 2}


def test_no_place_for_the_text_of_an_edit(url: str, tmp_path: Path) -> None:
    said = refused(1, "edit", "k", "--url", url, EDITOR="true", TMPDIR=str(tmp_path / "none"))
    assert "No such file or directory" in said
