"""What `txstate.testing.explore` is made of.

A `schedule` is a list of choices. A `run` plays one with `actor`s, each a thread whose `driver` waits to be told when to
move, on a `stage`: the server and what other clients do to it (`mortal`: one that can be killed). `mishaps` are the
faults. `batches` reads what was sent, a `record` keeps what happened; `timeline`, `coverage` and `report` tell what came of it.
"""
