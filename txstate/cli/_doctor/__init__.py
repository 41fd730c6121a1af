"""`txstate doctor`: which promises hold on a server, and why.

`command` is the entry. `probe` asks (by `asker`, each of `nodes`, with `trial` and `sentinels`) and returns `facts`; `judge`
turns those into verdicts (`standing`) by two lists of rules: `verdicts` (the promises P1 to P8) and `survival` (what an
acknowledged commit survives).
"""
