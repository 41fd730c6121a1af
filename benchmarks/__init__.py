"""The benchmark suite: txstate beside what else one could use, measured in one run and written down.

``python -m benchmarks`` runs all of it, ``python -m benchmarks --quick`` a short version, ``python -m benchmarks
targets`` only what the targets need. It needs the extra `benchmarks`; what is not installed is skipped, and said so.
"""
