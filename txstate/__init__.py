"""Shared state on Redis and Valkey as transactions: plain functions over dict-like documents.

Strictly serializable, applied exactly once, at one round trip. Start with `Store`, `AsyncStore` and `transactional`.
"""

from txstate._documents.codec import JSON
from txstate._documents.doc import Doc
from txstate._documents.snapshot import Snapshot
from txstate.durability import Durability, Fsync, Replicas
from txstate.errors import (
    CodecError,
    CommitUnknown,
    ConflictError,
    CrossSlotError,
    FieldNotLoaded,
    NotDurable,
    ServerRefused,
    StoreUnavailable,
    TxStateError,
    UsageError,
    VersionMismatch,
    WrongType,
)
from txstate.events import (
    CallbackFailed,
    Committed,
    Conflicted,
    Disrupted,
    Event,
    FellShort,
    GaveUp,
    InDoubt,
    Resolved,
    Stats,
)
from txstate.resolution import Resolution
from txstate.retry import Retry
from txstate.store import AsyncStore, Store
from txstate.transactional import transactional
from txstate.tx import AsyncTx, Tx

__version__ = "0.1.0"

__all__ = [
    "JSON",
    "AsyncStore",
    "AsyncTx",
    "CallbackFailed",
    "CodecError",
    "CommitUnknown",
    "Committed",
    "ConflictError",
    "Conflicted",
    "CrossSlotError",
    "Disrupted",
    "Doc",
    "Durability",
    "Event",
    "FellShort",
    "FieldNotLoaded",
    "Fsync",
    "GaveUp",
    "InDoubt",
    "NotDurable",
    "Replicas",
    "Resolution",
    "Resolved",
    "Retry",
    "ServerRefused",
    "Snapshot",
    "Stats",
    "Store",
    "StoreUnavailable",
    "Tx",
    "TxStateError",
    "UsageError",
    "VersionMismatch",
    "WrongType",
    "__version__",
    "transactional",
]
