"""The two drivers: they perform the engine's effects over sockets that redis-py connects and authenticates.

Only these modules import redis and hiredis. redis-py's own pipelines, pools and retries are not used: they reconnect
in silence and send again, which would lose a WATCH or apply a commit twice.
"""
