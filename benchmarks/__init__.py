"""The benchmark suite: txstate beside what else one could use, measured in one run and written down.

``python -m benchmarks`` runs all of it, ``python -m benchmarks --quick`` a short version, ``python -m benchmarks
targets`` only what the targets need, ``python -m benchmarks hot --rounds 1`` one scenario once. It needs the extra
`benchmarks`; what is not installed is skipped, and said so.

Read `scenarios` for what is measured, `peers` for the contenders, `targets` for what is to be reached. `runner` measures
with the worker processes of `crew`, each of which does `load`; `results` are written down; `tables` and `plots` show them.
"""
