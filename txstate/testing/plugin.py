"""The pytest plugin's fixtures, where the rest of the test kit is.

pytest itself loads `pytest_txstate`. That module stands outside of the package, because importing anything of a package
imports the package, and a test suite that asks for none of the fixtures should not pay for that.
"""

from pytest_txstate import _txstate_private_server, txstate_async_store, txstate_server, txstate_store

__all__ = ["_txstate_private_server", "txstate_async_store", "txstate_server", "txstate_store"]
