"""What a field may hold, and its bytes in Redis: the only place that knows orjson.

orjson alone is no judge of values: it writes NaN as null, takes dates, enums and 2**64 - 1, and reads integers
beyond 64 bits as floats. What is refused here is refused with an error that names the key, the field and the
place inside of the value. This module knows nothing of documents, transactions or versions' meaning.
"""

from __future__ import annotations

import json
from enum import Enum
from math import isfinite
from typing import Any, Final, TypeAlias

import orjson

from txstate.errors import CodecError

JSON: TypeAlias = Any
"""None, bool, int, float, str, list or dict: as typed as `json.loads`."""

VERSION_NAME = "__version__"
VERSION_FIELD = b"__version__"
VERSION_LAST: Final = 2**53 - 1
"""Versions go up to this, so that clients that count in doubles read them exactly."""
_VERSION_DIGITS = len(str(VERSION_LAST))
_ZERO = ord("0")

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
MAX_DEPTH = 254
"""How deep lists and dicts may be nested: orjson's own limit for writing."""

CONTAINERS = (list, dict)
"""The types of the values that can change inside."""

KNOWN_NAMES: Final[dict[str, bytes]] = {}
"""The bytes of fields' names that were met before, as far as they are few and short."""
_NAMES, _SHORT = 4096, 64

LIMITED: Final = 19
"""Bytes from which on there may be integers that do not fit, or lists and dicts that are nested too deep."""
_LONG_NUMBER = b"0" * LIMITED
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_SHOWN_STEPS = 8
_ALLOWED = "None, bool, int, float, str, list, and dict with str keys can be stored"
_ADVICE = {  # by a class's name, so that none of their modules need be imported
    "Enum": "store its .value or its .name",
    "date": "store value.isoformat()",
    "time": "store value.isoformat()",
    "timedelta": "store value.total_seconds()",
    "UUID": "store str(value)",
    "Decimal": "store str(value), or a whole number of the smallest unit",
    "bytes": "store a str, for example value.hex()",
    "bytearray": "store a str, for example value.hex()",
    "set": "store sorted(value), a list",
    "frozenset": "store sorted(value), a list",
    "Doc": "store value.to_dict()",
    "Snapshot": "store value.to_dict()",
    "Mapping": "store dict(value)",
}


def normalize(value: JSON, *, key: str, field: str) -> JSON:
    """Check a value and copy it into plain types, independent of the original.

    Args:
        value: what shall be stored. Tuples become lists; subclasses of the allowed types become those types.
        key: the document, for the error.
        field: the field, for the error.

    Returns:
        None, or a bool, int, float, str, list or dict, all the way down.

    Raises:
        CodecError: something in it can't be stored; says what, where, and what to store instead.
    """
    kind = type(value)
    if kind is bool or (kind is int and INT_MIN <= value <= INT_MAX) or (kind is str and value.isascii()):
        return value
    try:
        return _copy(value, 0)
    except _RefusedError as refused:
        raise CodecError(str(refused), key=key, field=field) from None


def encode(value: JSON, *, key: str, field: str) -> bytes:
    """The bytes to store for a value; an integer is plain decimal digits.

    Raises:
        CodecError: as for `normalize`: a value may have been changed, deep inside, since it was checked.
    """
    return orjson.dumps(normalize(value, key=key, field=field))


load = orjson.loads
"""The value that a field's bytes stand for, as `decode` finds it, if they are fewer than `LIMITED`; ValueError if they
are no JSON."""

dump = orjson.dumps
"""The same for a scalar that was normalized: what is no list and no dict can't have changed since."""


def decode(raw: bytes, *, key: str, field: str) -> JSON:
    """The value that a field's bytes stand for, in plain types.

    Raises:
        CodecError: not JSON, an integer outside of the signed 64 bits, a number beyond the floats, or nested deeper
            than could be written back.
    """
    try:
        value = load(raw)
        if len(raw) >= LIMITED:
            _check_limits(raw, value)
    except ValueError as error:
        message = (
            f"does not hold JSON that txstate can read ({error}); repair it, assign it anew or remove it"
        )
        raise CodecError(message, key=key, field=field) from error
    return value


def is_same(encoded: bytes, raw: bytes) -> bool:
    """Whether stored bytes mean the same as an encoded value, however they are formatted."""
    if raw.isdigit():  # a plain integer is written in one way only
        return encoded == raw
    if raw[:1] == raw[-1:] == b'"' and b"\\" not in raw:  # and so is a str that escapes nothing
        return encoded == raw
    try:
        return orjson.dumps(decode(raw, key="", field="")) == encoded
    except CodecError:
        return False


def peek(raw: bytes) -> JSON:
    """For a repr: the value, or the bytes themselves where they can't be decoded."""
    try:
        return decode(raw, key="", field="")
    except CodecError:
        return raw


def plain_name(name: object, *, key: str) -> str:
    """A field name as a plain str.

    Raises:
        CodecError: it is not a str.
    """
    if type(name) is str:
        return name
    if not isinstance(name, str):
        raise CodecError(f"field names are str, not {type(name).__name__}; use str(...)", key=key)
    return str.__str__(name)


def encode_name(name: object, *, key: str) -> bytes:
    """The bytes of a field name. Names that are no UTF-8 in Redis come and go by surrogateescape.

    Raises:
        CodecError: not a str, reserved, or text that no bytes are read as.
    """
    if type(name) is not str:
        name = plain_name(name, key=key)
    if name.isascii() and name != VERSION_NAME:
        raw = name.encode()
        if len(raw) <= _SHORT and len(KNOWN_NAMES) < _NAMES:
            KNOWN_NAMES[name] = raw
        return raw
    if name == VERSION_NAME:
        message = "is the library's own field; read .version, and use another name for yours"
        raise CodecError(message, key=key, field=name)
    try:
        raw = name.encode(errors="surrogateescape")
        # escapes that spell valid UTF-8 would make two names of one field
        faithful = decode_name(raw) == name
    except UnicodeEncodeError:
        raw, faithful = b"", False
    if not faithful:
        raise CodecError("has lone surrogates in its name; use valid Unicode", key=key, field=name)
    return raw


def decode_name(raw: bytes) -> str:
    """The field name that some bytes stand for; any bytes do."""
    return raw.decode(errors="surrogateescape")


def decode_version(raw: bytes | None, *, key: str) -> int:
    """The version of an existing document; 1 when other clients made it, without one.

    Raises:
        CodecError: not a plain positive integer below 2**53.
    """
    if raw is None:
        return 1
    if raw.isdigit() and len(raw) <= _VERSION_DIGITS:
        version = int(raw)
        if version <= VERSION_LAST and raw[0] != _ZERO:
            return version
    message = (
        f"holds {raw[:40]!r}, not a version from 1 to 2**53 - 1; remove this field, then the version is 1"
    )
    raise CodecError(message, key=key, field=VERSION_NAME)


class _RefusedError(Exception):
    """Found something that can't be stored; on its way out it collects where, from the inside to the outside."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found, advice)
        self.found, self.advice = found, advice
        self.steps: list[int | str] = []

    def __str__(self) -> str:
        path = "".join(f"[{json.dumps(step)}]" for step in self.steps[: -_SHOWN_STEPS - 1 : -1])
        place = f" at {path}{'...' if len(self.steps) > _SHOWN_STEPS else ''}" if path else ""
        return f"found {self.found}{place}; {self.advice}"


def _copy(value: JSON, depth: int) -> JSON:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value)
    if kind is int:
        if INT_MIN <= value <= INT_MAX:
            return value
        raise _RefusedError(
            "an integer beyond the signed 64 bits", "store a float or a str, or keep it smaller"
        )
    if value is None or kind is bool:
        return value
    if kind is float:
        if isfinite(value):
            return value
        raise _RefusedError(f"the float {value}", "JSON has no such number: store None or a str")
    if kind is dict or kind is list or kind is tuple:
        if depth == MAX_DEPTH:
            raise _RefusedError(
                f"lists or dicts nested more than {MAX_DEPTH} deep",
                "make it flatter, and don't let it contain itself",
            )
        return _copy_dict(value, depth + 1) if kind is dict else _copy_list(value, depth + 1)
    return _copy(_plain(value), depth)


def _copy_list(value: list[JSON] | tuple[JSON, ...], depth: int) -> list[JSON]:
    result: list[JSON] = []
    try:
        for item in value:
            result.append(_copy(item, depth))  # noqa: PERF401 - its length is the place of what was refused
    except _RefusedError as refused:
        refused.steps.append(len(result))
        raise
    return result


def _copy_dict(value: dict[JSON, JSON], depth: int) -> dict[str, JSON]:
    result: dict[str, JSON] = {}
    for name, item in value.items():
        plain = name if type(name) is str and name.isascii() else _copy_name(name)
        try:
            result[plain] = _copy(item, depth)
        except _RefusedError as refused:
            refused.steps.append(plain)
            raise
    return result


def _copy_name(name: object) -> str:
    if isinstance(name, str) and not isinstance(name, Enum):
        return _text(str.__str__(name))
    raise _RefusedError(f"a dict key of type {type(name).__name__}", "dict keys are str")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _RefusedError("a str with lone surrogates", "store valid Unicode") from None
    return value


def _plain(value: object) -> JSON:
    """One level of a subclass as the type it extends; refuses what extends none of the allowed ones."""
    kind = type(value)
    if not isinstance(value, Enum):
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, dict):
            return dict(value)
        if isinstance(value, list | tuple):
            return list(value)
    if hasattr(kind, "__dataclass_fields__"):
        advice = "store dataclasses.asdict(value)"
    else:
        advice = next((_ADVICE[base.__name__] for base in kind.__mro__ if base.__name__ in _ADVICE), _ALLOWED)
    raise _RefusedError(f"a value of type {kind.__qualname__}", advice)


def _check_limits(raw: bytes, value: JSON) -> None:
    """Find what orjson reads otherwise than it is written; ValueError if so. Costs little when nothing can be."""
    if type(value) is str:
        return
    if _LONG_NUMBER in raw.translate(_DIGITS_ALIKE):
        json.loads(raw, parse_int=_check_integer)
    if len(raw) > MAX_DEPTH and raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        try:
            orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise ValueError(f"nested more than {MAX_DEPTH} deep") from error


def _check_integer(digits: str) -> None:
    if len(digits) > len(str(INT_MIN)) or not INT_MIN <= int(digits) <= INT_MAX:
        raise ValueError(f"integer {digits[:40]} does not fit in signed 64 bits")
