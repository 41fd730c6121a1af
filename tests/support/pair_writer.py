"""A process that changes two hashes together, again and again until it is ended: `python pair_writer.py URL PAUSE`.

Both always hold the same number, so whoever sees them differ has seen two moments at once. A process of its own, so that
it does not take turns with its readers; a plain client, as other programs would use.
"""

from __future__ import annotations

import sys
import time

import redis

KEYS = ("pair:1", "pair:2")


def main(url: str, pause: float) -> None:
    with redis.Redis.from_url(url) as client:
        write = client.register_script(
            "local n = redis.call('HINCRBY', KEYS[1], 'n', 1); redis.call('HSET', KEYS[2], 'n', n)"
        )
        while True:
            write(keys=KEYS)
            if pause:
                time.sleep(pause)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
