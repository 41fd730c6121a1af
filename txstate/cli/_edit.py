"""`txstate edit`: a document in the user's editor, committed only if nobody else changed it meanwhile.

The edited text is never thrown away: unless it was committed, or nothing was changed, its file stays, and its path
is printed.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from txstate import JSON, CommitUnknown, Store, Tx, TxStateError, UsageError, VersionMismatch
from txstate.cli._documents import missing, parse
from txstate.cli._options import CommandError, Key, Namespace, Url, open_store, print_change, say


def edit(context: typer.Context, key: Key, *, url: Url = None, namespace: Namespace = None) -> None:
    """Change a document in $VISUAL or $EDITOR. Committed only if nobody else changed it meanwhile.

    The text of an edit that could not be committed is kept, in a file whose path is printed.
    """
    with open_store(context, url, namespace) as store:
        snapshot = store.get(key)
        if snapshot is None:
            raise CommandError(f"{missing(key)}; make it with: txstate put")
        before = snapshot.to_dict()
        text = json.dumps(before, ensure_ascii=False, indent=2) + "\n"
        path = _file(key, text)
        try:
            edited = _edited(path, text)
            if edited is None or edited == before:
                path.unlink()
                say(f"{key!r} was not changed")
                return
            version = _commit(store, key, snapshot.version, before, edited)
        except BaseException as error:
            raise CommandError(_kept(key, path, text, error)) from error
    path.unlink()
    print_change({"key": key, "version": version})


def _file(key: str, text: str) -> Path:
    """A file of the user's own, with a name that tells what it is."""
    name = re.sub(r"[^\w.-]", "_", key, flags=re.ASCII)[:40]
    descriptor, path = tempfile.mkstemp(prefix=f"txstate-{name}-", suffix=".json", text=True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(path)


def _edited(path: Path, before: str) -> dict[str, JSON] | None:
    """Let the user edit until it is a document; None: left as it was."""
    while True:
        _run_editor(path)
        try:
            text = path.read_bytes()
        except OSError as error:
            raise CommandError(
                f"what the editor has left can't be read: {error}; nothing was applied"
            ) from error
        if text == before.encode():
            return None
        try:
            return parse(text)
        except UsageError as error:
            if not sys.stdin.isatty() or not typer.confirm(f"{error}. Edit again?", default=True, err=True):
                raise


def _run_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.call([*shlex.split(editor), str(path)])  # noqa: S603 - the user's own choice
    except (OSError, ValueError) as error:
        raise CommandError(f"the editor {editor!r} can't be run: {error}; set VISUAL or EDITOR") from error
    if code != 0:
        raise CommandError(f"the editor {editor!r} failed with exit code {code}; nothing was applied")


def _commit(store: Store, key: str, version: int, before: dict[str, JSON], edited: dict[str, JSON]) -> int:
    """Commit if the document is still the one that was shown.

    Its content is compared as well as its version: plain clients change the one without the other.

    Raises:
        VersionMismatch: it is not.
    """
    committed: list[int] = []

    def change(tx: Tx) -> None:
        doc = tx.get(key)
        if doc.version != version or doc.to_dict() != before:
            raise VersionMismatch(key, version, doc.version)
        doc.replace(edited)
        tx.on_commit(lambda: committed.append(doc.committed_version))

    store.run(change)
    return committed[0]


def _kept(key: str, path: Path, before: str, error: BaseException) -> str:
    """Say why it was not committed, and where the text is."""
    if isinstance(error, VersionMismatch):
        reason = f"{key!r} was changed by somebody else while you edited it; nothing was applied"
    elif isinstance(error, TxStateError | CommandError):
        reason = str(error)
    elif isinstance(error.__cause__, CommitUnknown):
        reason = str(error.__cause__)
    else:
        reason = f"interrupted by {type(error).__name__}; nothing was applied"
    if not path.is_file():
        return reason
    if path.read_bytes() == before.encode():
        path.unlink()
        return reason
    return f"{reason}. Your text is kept in {path}"
