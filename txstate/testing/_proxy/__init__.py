"""What `txstate.testing.FaultProxy` is made of.

`faults` are its words, `rules` say when one strikes, and a `script` holds the rules of one proxy. A `connection` carries
them out, over two `endpoint`s in one `loop`; `resp` finds the borders of commands and replies, `address` reads URLs, and
`random_cuts` strikes at random.
"""
