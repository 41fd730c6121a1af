"""What txstate is tested with, for testing what is built on it.

`FaultProxy` stands between clients and a server and breaks connections at a chosen command or byte.
`check_history` tells whether a history of concurrent transactions was strictly serializable.
`explore` runs transactions in every order of their round trips, with faults in between; `replay` plays one again.
"""

from txstate.testing._explorer.coverage import REACHED
from txstate.testing._explorer.record import Outcome
from txstate.testing._explorer.report import InvariantViolated, Report, Violation
from txstate.testing._explorer.schedule import Drawn, Schedule, ScheduleDiverged
from txstate.testing._proxy.endpoint import Cut
from txstate.testing._proxy.faults import (
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
from txstate.testing._proxy.random_cuts import RandomCuts
from txstate.testing._proxy.resp import ReplyError
from txstate.testing._proxy.rules import Held, Rule
from txstate.testing.explorer import FAULTS, explore, replay, schedules
from txstate.testing.history import (
    Cycle,
    Edge,
    Evidence,
    Finding,
    Illegal,
    Ok,
    Unknown,
    Verdict,
    check_history,
)
from txstate.testing.proxy import FaultProxy

__all__ = [
    "FAULTS",
    "REACHED",
    "Action",
    "Command",
    "Cut",
    "CutReply",
    "CutRequest",
    "Cycle",
    "Delay",
    "Drawn",
    "DropReply",
    "DropRequest",
    "Edge",
    "Event",
    "Evidence",
    "FaultProxy",
    "Finding",
    "Held",
    "HoldReply",
    "HoldRequest",
    "Illegal",
    "InvariantViolated",
    "Late",
    "Ok",
    "Outcome",
    "RandomCuts",
    "ReplyError",
    "Report",
    "Rule",
    "Schedule",
    "ScheduleDiverged",
    "Unknown",
    "Verdict",
    "Violation",
    "check_history",
    "explore",
    "replay",
    "schedules",
]
