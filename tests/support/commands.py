"""The command line, run as a user would, in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest

from txstate.cli import main


@dataclass
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, stdin: str = "", **environment: str) -> Done:
    """Run the command line without a terminal, in this process: an interpreter for each would take half a minute."""
    hidden = dict.fromkeys(("TXSTATE_URL", "VISUAL", "EDITOR"), "")
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["txstate", *arguments]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ, {**hidden, **environment}),
        mock.patch.object(tempfile, "tempdir", environment.get("TMPDIR")),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, stdout.getvalue(), stderr.getvalue())


def printed(*arguments: str, **options: Any) -> Any:
    """What a command that succeeds prints."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(code: int, *arguments: str, **options: Any) -> str:
    """What a command that fails says: one line, and nothing on stdout."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("txstate: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
