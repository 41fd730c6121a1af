"""Outside of Redis: SQLite, PostgreSQL, ZODB. None of them waits for the disk, as the Redis server here doesn't."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.peers.base import Place
    from benchmarks.workloads import Cell, Document, Op

_PATIENCE: Final = 60.0
"""Seconds to wait for a lock of SQLite."""
_SELECT: Final = "SELECT doc FROM docs WHERE key = ?"
_UPDATE_MANY: Final = """
UPDATE docs SET doc = new.doc FROM unnest(%s::jsonb[], %s::text[]) AS new(doc, key) WHERE docs.key = new.key
"""
_TRIES: Final = 100_000
"""ZODB wants a bound; redis-py's `transaction` has none."""


class SQLite(Peer):
    """A file, one writer at a time."""

    title = "SQLite"
    form = "BEGIN IMMEDIATE, SELECT, UPDATE, COMMIT on a JSON column; WAL, synchronous=NORMAL"
    server = "file"
    module = "sqlite3"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._connection = _sqlite(place)

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """A new file."""
        for suffix in ("", "-wal", "-shm"):
            Path(place.address + suffix).unlink(missing_ok=True)
        with contextlib.closing(_sqlite(place)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE docs (key TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID")
            rows = [(key, _text(document)) for key, document in documents.items()]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO docs VALUES (?, ?)", rows)
            connection.execute("COMMIT")

    @classmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
        """The numbers in these cells."""
        with contextlib.closing(_sqlite(place)) as connection:
            found = {key: orjson.loads(text) for key, text in connection.execute("SELECT key, doc FROM docs")}
        return [found[key][name] for key, name in cells]

    def change(self, op: Op) -> None:
        """Add in a transaction that holds the write lock from its beginning."""
        self.attempts += 1
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            documents = [orjson.loads(execute(_SELECT, (key,)).fetchone()[0]) for key in op.keys]
            if op.think:
                time.sleep(op.think)
            for key, document, amount in zip(op.keys, documents, op.by, strict=True):
                document[op.field] += amount
                execute("UPDATE docs SET doc = ? WHERE key = ?", (_text(document), key))
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")

    def read(self, op: Op) -> None:
        """In one transaction, so from one moment."""
        execute = self._connection.execute
        execute("BEGIN")
        documents = [orjson.loads(execute(_SELECT, (key,)).fetchone()[0]) for key in op.keys]
        execute("COMMIT")
        for document in documents:
            document[op.field]

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


class PostgreSQL(Peer):
    """A server, SERIALIZABLE, tried again when it says so."""

    title = "PostgreSQL"
    form = "psycopg, SERIALIZABLE, a jsonb column, tried again after SQLSTATE 40001 and 40P01; synchronous_commit=off"
    server = "postgres"
    module = "psycopg"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._psycopg: Any = import_module("psycopg")
        self._connection = _postgres(place)
        self._connection.isolation_level = self._psycopg.IsolationLevel.SERIALIZABLE
        json: Any = import_module("psycopg.types.json")
        json.set_json_loads(orjson.loads)
        self._as_json: Callable[[Document], Any] = lambda document: json.Jsonb(document, dumps=orjson.dumps)
        errors = self._psycopg.errors
        self._retried = (errors.SerializationFailure, errors.DeadlockDetected)

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """Make the table anew."""
        with contextlib.closing(_postgres(place)) as connection:
            connection.execute("DROP TABLE IF EXISTS docs")
            connection.execute("CREATE TABLE docs (key text PRIMARY KEY, doc jsonb NOT NULL)")
            rows = [(key, _text(document)) for key, document in documents.items()]
            connection.cursor().executemany("INSERT INTO docs VALUES (%s, %s)", rows)

    @classmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
        """The numbers in these cells."""
        with contextlib.closing(_postgres(place)) as connection:
            found = dict(connection.execute("SELECT key, doc::text FROM docs").fetchall())
        return [orjson.loads(found[key])[name] for key, name in cells]

    def change(self, op: Op) -> None:
        """Add in a transaction, until it is not refused."""
        for _ in range(_TRIES):
            self.attempts += 1
            try:
                with self._connection.transaction():
                    found = self._fetch(op)
                    if op.think:
                        time.sleep(op.think)
                    rows = []
                    for key, amount in zip(op.keys, op.by, strict=True):
                        found[key][op.field] += amount
                        rows.append((self._as_json(found[key]), key))
                    self._write(rows)
            except self._retried:
                continue
            return
        raise TimeoutError(f"refused {_TRIES} times")

    def read(self, op: Op) -> None:
        """In one statement, so from one moment."""
        for document in self._fetch(op).values():
            document[op.field]

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _fetch(self, op: Op) -> dict[str, Any]:
        if len(op.keys) == 1:
            rows = self._connection.execute("SELECT key, doc FROM docs WHERE key = %s", op.keys)
        else:
            rows = self._connection.execute("SELECT key, doc FROM docs WHERE key = ANY(%s)", (list(op.keys),))
        return dict(rows.fetchall())

    def _write(self, rows: list[tuple[Any, str]]) -> None:
        if len(rows) == 1:
            self._connection.execute("UPDATE docs SET doc = %s WHERE key = %s", rows[0])
        else:
            self._connection.execute(_UPDATE_MANY, tuple(map(list, zip(*rows, strict=True))))


class ZODB(Peer):
    """Objects on a ZEO server, cached by each client."""

    title = "ZODB"
    form = "ZEO (MappingStorage), one PersistentMapping a document, TransactionManager.run(function, tries)"
    server = "zeo"
    module = "ZEO"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._database = _zeo(place)
        transaction: Any = import_module("transaction")
        self._manager = transaction.TransactionManager()
        self._connection = self._database.open(self._manager)

    @classmethod
    def seed(cls, place: Place, documents: Mapping[str, Document]) -> None:
        """Replace all."""
        persistent: Any = import_module("persistent.mapping")
        trees: Any = import_module("BTrees.OOBTree")
        with _opened(place) as database, database.transaction() as connection:
            root = {key: persistent.PersistentMapping(document) for key, document in documents.items()}
            connection.root.docs = trees.OOBTree(root)

    @classmethod
    def counters(cls, place: Place, cells: Sequence[Cell]) -> list[int]:
        """The numbers in these cells."""
        with _opened(place) as database, database.transaction() as connection:
            return [connection.root.docs[key][name] for key, name in cells]

    def change(self, op: Op) -> None:
        """Add in a transaction, until it meets no conflict."""

        def add() -> None:
            self.attempts += 1
            documents = self._connection.root.docs
            values = [documents[key][op.field] for key in op.keys]
            if op.think:
                time.sleep(op.think)
            for key, value, amount in zip(op.keys, values, op.by, strict=True):
                documents[key][op.field] = value + amount

        self._manager.run(add, _TRIES)

    def read(self, op: Op) -> None:
        """From the snapshot of a new transaction."""
        self._manager.begin()
        documents = self._connection.root.docs
        for key in op.keys:
            documents[key][op.field]

    def close(self) -> None:
        """Disconnect."""
        self._manager.abort()
        self._connection.close()
        self._database.close()


def _text(document: Document) -> str:
    return orjson.dumps(document).decode()


def _sqlite(place: Place) -> sqlite3.Connection:
    connection = sqlite3.connect(place.address, timeout=_PATIENCE, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _postgres(place: Place) -> Any:
    psycopg: Any = import_module("psycopg")
    return psycopg.connect(place.address, autocommit=True)


def _zeo(place: Place) -> Any:
    host, colon, port = place.address.rpartition(":")
    address = (host, int(port)) if colon else place.address
    zeo: Any = import_module("ZEO")
    return zeo.DB(address, wait_timeout=10)


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[Any]:
    database = _zeo(place)
    try:
        yield database
    finally:
        database.close()
