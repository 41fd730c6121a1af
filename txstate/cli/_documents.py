"""`txstate get`, `put` and `delete`: one document, JSON in and out."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer

from txstate import UsageError
from txstate.cli._options import (
    CommandError,
    IfVersion,
    Key,
    Namespace,
    Url,
    open_store,
    print_change,
    print_json,
)


def get(
    context: typer.Context,
    key: Key,
    *,
    fields: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these fields; others are not fetched.")
    ] = None,
    meta: Annotated[
        bool,
        typer.Option("--meta", help="Print key, version and seconds to live (null: no expiry) around it."),
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Print a document as JSON. Exit code 1 if there is none."""
    wanted = None if fields is None else [name for name in fields.split(",") if name]
    with open_store(context, url, namespace) as store:
        snapshot = store.get(key, wanted)
        if snapshot is None:
            raise CommandError(missing(key))
        document = snapshot.to_dict()
        if meta:
            version, ttl = snapshot.version, store.ttl(key)
            print_json({"key": key, "version": version, "ttl": ttl, "document": document})
        else:
            print_json(document)


def put(
    context: typer.Context,
    key: Key,
    document: Annotated[
        str, typer.Argument(metavar="[JSON]", help="The document, a JSON object; - or nothing: from stdin.")
    ] = "-",
    *,
    if_version: IfVersion = None,
    expire: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds to live from now on; without it, an expiry stays as it is."),
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Write a whole document, and print its version.

    Fields that are not in it are removed. An expiry stays, unless --expire is given.
    """
    if document == "-":
        if sys.stdin.isatty():
            raise UsageError("no document was given: pass it as JSON after the key, or on stdin")
        document = sys.stdin.read()
    mapping = parse(document)
    with open_store(context, url, namespace, make=True) as store:
        options: dict[str, Any] = {} if expire is None else {"expire": expire}
        snapshot = store.put(key, mapping, if_version=if_version, **options)
    print_change({"key": key, "version": snapshot.version})


def delete(
    context: typer.Context,
    key: Key,
    *,
    if_version: IfVersion = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Remove a document. Exit code 1 if there is none."""
    with open_store(context, url, namespace) as store:
        existed = store.delete(key, if_version=if_version)
    if not existed:
        raise CommandError(missing(key))
    print_change({"key": key, "deleted": True})


def missing(key: str) -> str:
    """What to say of a document that is not there."""
    return f"{key!r} does not exist"


def parse(text: str | bytes) -> dict[str, Any]:
    """Read a document.

    Raises:
        UsageError: it is no JSON object.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError as error:
        raise UsageError("that is no JSON document: it is nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"that is no JSON document: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f'a document is a JSON object, like {{"field": 1}}, not {_kind(value)}')
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice")
    return mapping


def _kind(value: Any) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return "a string"
        case list():
            return "an array"
    return "a number"
