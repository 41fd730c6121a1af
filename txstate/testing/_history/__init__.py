"""What `txstate.testing.check_history` is made of.

`observed` reads a history, `versions` and `orders` draw the edges of its `graph`, `cycles` finds the cycles in it, and
`anomalies` names them.
"""
