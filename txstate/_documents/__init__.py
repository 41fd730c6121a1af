"""Documents: what a field may hold, what a function sees and does, and what a commit has to write.

Outside of a transaction, a document is a `snapshot`. Inside of one it is a `doc`: a mapping over a `record`, which knows what
was read and written (`fields` is how a function uses it, `changes` what there is to commit). `codec` turns values into
bytes and back. Nothing here knows commands, connections or transactions.
"""
