"""A list-append history as its clients saw it, read from plain data and refused when it is malformed.

Owns the format. Knows nothing of what makes a history legal: an impossible read is well-formed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeGuard

Kind: TypeAlias = Literal["ok", "info", "fail"]

_KINDS: Final = ("ok", "info", "fail")
_OPERATION_LENGTH: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Append:
    """One element put at the end of a key's list."""

    key: Hashable
    value: Hashable


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """The whole list of a key."""

    key: Hashable
    elements: tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """What one client tried, and when. Two of them are equal only when they are the same one.

    Attributes:
        number: its place in the history, from 0.
        kind: `ok` took effect, `fail` did not, `info` may have.
        ret: None where no return is known, which only `info` and `fail` may leave out.
        operations: in the order of the program; the reads of `ok` transactions only.
    """

    number: int
    id: Hashable
    kind: Kind
    process: Hashable
    call: float
    ret: float | None
    operations: tuple[Append | Read, ...]

    @property
    def ended(self) -> float:
        """The last moment at which it is known to have been running."""
        return self.call if self.ret is None else self.ret


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """A well-formed history.

    Attributes:
        transactions: in the order given.
        writers: who appended each element of each key, in the order of the history.
    """

    transactions: tuple[Transaction, ...]
    writers: Mapping[Hashable, Mapping[Hashable, Transaction]]

    def of_kind(self, *kinds: Kind) -> list[Transaction]:
        """The transactions of these kinds, in the order of the history."""
        return [one for one in self.transactions if one.kind in kinds]

    def by_process(self, *kinds: Kind) -> Iterable[list[Transaction]]:
        """For each process its transactions of these kinds, in the order in which it ran them."""
        processes: dict[Hashable, list[Transaction]] = {}
        for one in sorted(self.of_kind(*kinds), key=lambda each: (each.call, each.ended)):
            processes.setdefault(one.process, []).append(one)
        return processes.values()


def parse(history: Iterable[Mapping[str, Any]]) -> History:
    """Read a history.

    Args:
        history: its transactions, in any order.

    Raises:
        ValueError: a transaction is malformed, or two of them contradict each other. Names the transaction.
    """
    if not isinstance(history, Iterable):
        raise ValueError(f"a history is a list of mappings, not {history!r}")  # noqa: TRY004 - as for all that is malformed
    transactions = tuple(_transaction(number, record) for number, record in enumerate(history))
    ids: set[Hashable] = set()
    for one in transactions:
        if one.id in ids:
            raise ValueError(f"transaction {one.id!r}: the id is there twice; each needs one of its own")
        ids.add(one.id)
    parsed = History(transactions, _writers(transactions))
    for ran in parsed.by_process(*_KINDS):
        for earlier, later in itertools.pairwise(ran):
            if later.call < earlier.ended:
                raise ValueError(
                    f"transaction {later.id!r}: called at {later.call} while {earlier.id!r} of the same process "
                    f"{later.process!r} ran until {earlier.ended}; a process runs one at a time"
                )
    return parsed


def _writers(transactions: Iterable[Transaction]) -> dict[Hashable, dict[Hashable, Transaction]]:
    writers: dict[Hashable, dict[Hashable, Transaction]] = {}
    for one in transactions:
        for operation in one.operations:
            if isinstance(operation, Append):
                other = writers.setdefault(operation.key, {}).setdefault(operation.value, one)
                if other is not one or sum(operation == each for each in one.operations) > 1:
                    raise ValueError(
                        f"transaction {one.id!r}: appends {operation.value!r} to {operation.key!r}, and {other.id!r} "
                        "does so too; make every element of a key unique, or a read can't say whose it saw"
                    )
    return writers


def _transaction(number: int, record: Mapping[str, Any]) -> Transaction:
    if not isinstance(record, Mapping):
        raise ValueError(f"transaction {number} of the history is no mapping: {record!r}")  # noqa: TRY004 - the contract: malformed is ValueError
    name = f"transaction {record['id']!r}" if "id" in record else f"transaction {number} of the history"
    missing = [field for field in ("id", "type", "process", "call", "txn") if field not in record]
    if missing:
        raise ValueError(f"{name}: has no {', '.join(missing)}")
    for field in ("id", "process"):
        _hashable(record[field], f"{name}: its {field}")
    kind = record["type"]
    if kind not in _KINDS:
        raise ValueError(f"{name}: type is 'ok', 'info' or 'fail', not {kind!r}")
    call, ret = _time(record["call"], f"{name}: call"), record.get("ret")
    if ret is not None:
        ret = _time(ret, f"{name}: ret")
        if ret < call:
            raise ValueError(f"{name}: returned at {ret}, before its call at {call}")
    elif kind == "ok":
        raise ValueError(f"{name}: has no ret; only info and fail transactions may lack one")
    return Transaction(
        number=number,
        id=record["id"],
        kind=kind,
        process=record["process"],
        call=call,
        ret=ret,
        operations=tuple(_operations(name, record["txn"], known=kind == "ok")),
    )


def _operations(name: str, txn: object, *, known: bool) -> Iterable[Append | Read]:
    if not _is_list(txn):
        raise ValueError(f"{name}: txn is a list of operations, not {txn!r}")
    for operation in txn:
        if not _is_list(operation) or len(operation) != _OPERATION_LENGTH:
            raise ValueError(
                f"{name}: an operation is ['append', key, value] or ['r', key, list], not {operation!r}"
            )
        what, key, value = operation
        _hashable(key, f"{name}: a key")
        if what == "append":
            _hashable(value, f"{name}: an element of {key!r}")
            yield Append(key, value)
        elif what != "r":
            raise ValueError(f"{name}: an operation is 'append' or 'r', not {what!r}")
        elif known:
            if not _is_list(value):
                raise ValueError(
                    f"{name}: its read of {key!r} holds no list but {value!r}; an empty one is []"
                )
            elements = tuple(value)
            _hashable(elements, f"{name}: its read of {key!r}")
            yield Read(key, elements)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _time(value: object, name: str) -> float:
    # NaN is the number that differs from itself: it would sort anywhere
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:  # noqa: PLR0124 - as said
        raise ValueError(f"{name} is a number of nanoseconds of one monotonic clock, not {value!r}")
    return value


def _hashable(value: object, name: str) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(f"{name} must be hashable, such as a str or an int: {value!r}") from error
