"""Hypothesis settings of the model tests: no deadline (servers and schedulers are shared), the same examples in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Elsewhere a failing example is printed as a blob, to be run again with @reproduce_failure.
settings.register_profile(
    "txstate",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("txstate")
