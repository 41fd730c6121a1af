"""The peers by name, and which of them can be had here."""

from __future__ import annotations

import importlib.util
from typing import Final

from benchmarks.peers.bare import BareSocket, LookingSocket
from benchmarks.peers.base import AsyncPeer, Peer, Place
from benchmarks.peers.contention import Adaptive, BackOff, LongTurns, SingleTurns, SleepingClaims
from benchmarks.peers.elsewhere import ZODB, PostgreSQL, SQLite
from benchmarks.peers.own import AsyncUpdate, FieldsUpdate, Put, ReadOnly, SleepingUpdate, Update
from benchmarks.peers.redis_libraries import Coredis, Pottery, PotteryRedlock, PythonRedisLock
from benchmarks.peers.redis_py import AsyncTransaction, Lock, Ping, Script, Transaction

__all__ = ["MANAGERS", "PEERS", "AsyncPeer", "Peer", "Place", "lacking"]

MANAGERS: Final[dict[str, type[Peer | AsyncPeer]]] = {
    "txstate-single-turns": SingleTurns,
    "txstate-long-turns": LongTurns,
    "txstate-sleeping-claims": SleepingClaims,
    "txstate-back-off": BackOff,
    "txstate-adaptive": Adaptive,
}
"""txstate with other contention managers; measured by `benchmarks.contention`."""

PEERS: Final[dict[str, type[Peer | AsyncPeer]]] = {
    "txstate": Update,
    "redis-py-transaction": Transaction,
    "redis-py-lock": Lock,
    "lua-script": Script,
    "redis-py-ping": Ping,
    "bare-socket": BareSocket,
    "bare-socket-looking": LookingSocket,
    "coredis": Coredis,
    "pottery": Pottery,
    "pottery-redlock": PotteryRedlock,
    "python-redis-lock": PythonRedisLock,
    "sqlite": SQLite,
    "postgresql": PostgreSQL,
    "zodb": ZODB,
    "txstate-sleeping": SleepingUpdate,
    "txstate-fields": FieldsUpdate,
    "txstate-read-only": ReadOnly,
    "txstate-put": Put,
    "txstate-async": AsyncUpdate,
    **MANAGERS,
    "redis-py-async-transaction": AsyncTransaction,
}


def lacking(name: str) -> str | None:
    """Why a peer can't be used here, as far as Python goes; None: it can."""
    module = PEERS[name].module
    if importlib.util.find_spec(module) is None:
        return f"the module {module} is not installed (extra: benchmarks)"
    return None
