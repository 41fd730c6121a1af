"""`txstate stress`: the same load for txstate and for the usual ways, on the same server, counted exactly.

`command` is the entry. For each of the `contenders` a `contest` is held, in which a `crew` of `worker` processes does one of
the `workloads`; `tally` counts what is lost or doubled, and `report` shows it.
"""
