"""What the commands share: their common options, opening a store, JSON on stdout, and errors."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from txstate import CommitUnknown, Store, UsageError
from txstate._target import target_of

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Server, for example redis://localhost:6379/0, or the folder of an embedded one. "
        "By default $TXSTATE_URL.",
    ),
]
Namespace: TypeAlias = Annotated[
    str | None, typer.Option("--namespace", metavar="PREFIX", help="Prefix of every key.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
IfVersion: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--if-version",
        metavar="N",
        min=0,
        help="Only if the document has this version (see get --meta); 0: only if there is none.",
    ),
]
Key: TypeAlias = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]


class CommandError(Exception):
    """The command failed, for a reason that its message tells completely: exit code 1."""


@dataclass(frozen=True, slots=True)
class Common:
    """The options that stand before the command.

    Attributes:
        url: of them, or of the environment.
        namespace: the same.
    """

    url: str | None
    namespace: str | None


def target(context: typer.Context, url: str | None) -> str | None:
    """What to open: the command's own option before the common one; None if neither was given."""
    common: Common = context.obj
    return common.url if url is None else url


def prefix(context: typer.Context, namespace: str | None) -> str:
    """The namespace, in the same order."""
    common: Common = context.obj
    return (common.namespace if namespace is None else namespace) or ""


@contextlib.contextmanager
def open_store(
    context: typer.Context, url: str | None, namespace: str | None, *, make: bool = False
) -> Iterator[Store]:
    """Open the store that the options name. Whoever interrupts a commit is told what is known of it.

    Args:
        context: has the common options.
        url: the command's own option.
        namespace: the same.
        make: a folder that does not exist is made.

    Raises:
        UsageError: they name none, or none that can be opened.
        StoreUnavailable: an embedded server can't be started.
    """
    named = target(context, url)
    if named is None:
        raise UsageError(
            "no server was named: give --url (redis://host:6379/0, or a folder), or set TXSTATE_URL"
        )
    if not make:
        check_folder(named)
    with Store(named, namespace=prefix(context, namespace)) as store:
        try:
            yield store
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt.__cause__, CommitUnknown):
                say(str(interrupt.__cause__))
            raise


def check_folder(named: str) -> None:
    """Refuse a folder that does not exist: a command that only looks would leave one behind for each misspelt address.

    Raises:
        UsageError: there is none, or the name is neither a folder's nor an address.
    """
    folder = target_of(named, None, "everysec", asynchronous=False).folder
    if folder is not None and not Path(folder).exists():
        raise UsageError(f"there is no folder {folder!r}; an address has a scheme: redis://host:6379/0")


def print_change(value: Any) -> None:
    """Print what a change came to.

    Raises:
        CommandError: that can't be written, and says that the change is applied all the same.
    """
    try:
        print_json(value)
        sys.stdout.flush()
    except OSError as error:
        raise CommandError(
            f"the change is applied, but {json.dumps(value)} can't be written: {error}"
        ) from error


def print_json(value: Any) -> None:
    """Print it for people and programs alike; in ASCII where the output's encoding can't show it."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def say(message: str) -> None:
    """Tell the user something, beside the output."""
    print(f"txstate: {message}", file=sys.stderr)
