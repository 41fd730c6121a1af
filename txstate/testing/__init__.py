"""What txstate is tested with, for testing what is built on it.

`FaultProxy` stands between clients and a server and breaks connections at a chosen command or byte.
"""

from txstate.testing._endpoint import Cut
from txstate.testing._faults import (
    Action,
    Command,
    CutReply,
    CutRequest,
    Delay,
    DropReply,
    DropRequest,
    Event,
    HoldReply,
    HoldRequest,
    Late,
)
from txstate.testing._random import RandomCuts
from txstate.testing._resp import ReplyError
from txstate.testing._rules import Held, Rule
from txstate.testing.proxy import FaultProxy

__all__ = [
    "Action",
    "Command",
    "Cut",
    "CutReply",
    "CutRequest",
    "Delay",
    "DropReply",
    "DropRequest",
    "Event",
    "FaultProxy",
    "Held",
    "HoldReply",
    "HoldRequest",
    "Late",
    "RandomCuts",
    "ReplyError",
    "Rule",
]
