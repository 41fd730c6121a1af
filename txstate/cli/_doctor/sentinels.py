"""Asking the sentinels that an address names: whom they call the primary, and whether they could fail over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import redis

from txstate import StoreUnavailable
from txstate._drivers.source import Source, answer_of, reason_of, text_of
from txstate.cli._doctor.asker import connected
from txstate.cli._doctor.facts import Sentinels

if TYPE_CHECKING:
    from txstate._drivers.sentinel_source import SentinelSource
    from txstate._drivers.source import Address

_TIMEOUT: Final = 2.0
"""Seconds for one sentinel."""


def ask_sentinels(source: SentinelSource) -> tuple[Sentinels, Address]:
    """Ask each of them.

    Returns:
        What they told, and whom the first that answered names as primary.

    Raises:
        StoreUnavailable: none of them can be asked, or none knows the service.
    """
    told: list[dict[str, str]] = []
    replicas: dict[str, str] = {}
    silent: dict[str, str] = {}
    unready: list[str] = []
    for address in source.sentinels:
        try:
            primary, followers, answer = _ask(source, address)
        except redis.RedisError as error:
            silent[text_of(address)] = reason_of(error)
            continue
        told.append(primary)
        replicas.update({f"{each['ip']}:{each['port']}": each["slave-priority"] for each in followers})
        unready.append(answer)
    if not told:
        why = "; ".join(f"{address}: {reason}" for address, reason in silent.items())
        raise StoreUnavailable(f"no sentinel tells who is the primary {source.service!r}: {why}")
    first = told[0]
    found = Sentinels(
        service=source.service,
        asked=len(source.sentinels),
        silent=silent,
        primaries=tuple(dict.fromkeys(f"{each['ip']}:{each['port']}" for each in told)),
        known=1 + max(int(each["num-other-sentinels"]) for each in told),
        quorum=max(int(each["quorum"]) for each in told),
        unready=next(filter(None, unready), ""),
        down_after_s=max(int(each["down-after-milliseconds"]) for each in told) / 1000,
        replicas=len(replicas),
        never_promoted=tuple(address for address, priority in replicas.items() if priority == "0"),
    )
    return found, (first["ip"], int(first["port"]))


def _ask(source: SentinelSource, address: Address) -> tuple[dict[str, str], list[dict[str, str]], str]:
    """What one of them knows: the primary, its replicas, and why there could be no failover."""
    host, port = address
    own = {name: value for name, value in source.asking.items() if name != "ssl"}
    kind = redis.SSLConnection if source.asking.get("ssl") else redis.Connection
    sentinel = Source(kind, {**own, "host": host, "port": port}, asynchronous=False)
    with connected(sentinel, _TIMEOUT) as asker:
        primary, followers, quorum = (
            asker.try_asking("SENTINEL", what, source.service, name=f"SENTINEL {what}")
            for what in ("MASTER", "SLAVES", "CKQUORUM")
        )
    for answer in (primary, followers):
        if isinstance(answer, redis.ResponseError):
            raise answer
    unready = answer_of(quorum) if isinstance(quorum, redis.ResponseError) else ""
    return _pairs(primary), [_pairs(each) for each in followers], unready


def _pairs(told: Any) -> dict[str, str]:
    words = [word.decode() for word in told]
    return dict(zip(words[::2], words[1::2], strict=True))
