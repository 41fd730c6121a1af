"""Job progress: several processes share the parts of a job, and one of them dies. Each part counts exactly once.

With a lock, a dead holder stops the world; with a plain counter, a part that was done twice counts twice. Look at

* `take_part`: a part is taken by a document that expires: if its worker dies, another one takes the part over;
* `finish_part`: counts a part only while it is open, so the slow and the quick worker of one part count once;
* `work`: the store is passed to the processes as it is; there it opens the same data.

    python examples/jobs.py [folder or URL]
"""

import multiprocessing
import os
import sys
import time
from datetime import timedelta

import txstate

PARTS = 40
LEASE = timedelta(seconds=0.3)
UNLUCKY = "dan"


@txstate.transactional
def take_part(tx: txstate.Tx, worker: str) -> int | None:
    """Take an open part that nobody works on; None: there is none at the moment."""
    parts: list[int] = tx.get("job")["open"]
    leases = tx.get_many(f"lease:{part}" for part in parts)
    for part, lease in zip(parts, leases, strict=True):
        if not lease.exists:
            lease["worker"] = worker
            lease.expire(LEASE)
            return part
    return None


@txstate.transactional
def finish_part(tx: txstate.Tx, part: int, result: int) -> None:
    """Count the result of a part, unless another worker was faster."""
    job = tx.get("job")
    if part in job["open"]:
        job["open"].remove(part)
        job.increment("sum", result)
        tx.delete(f"lease:{part}")


def count_open(store: txstate.Store) -> int:
    """How many parts are still to be done."""
    job = store.get("job", fields=["open"])
    return 0 if job is None else len(job["open"])


def work(store: txstate.Store, worker: str) -> None:
    """Work until the job is done."""
    with store:
        while count_open(store):
            part = take_part(store, worker)
            time.sleep(0.01)  # the work, or waiting for some
            if part is not None and worker == UNLUCKY:
                os._exit(1)  # a crash: nothing is cleaned up
            if part is not None:
                finish_part(store, part, part**2)


def main(store: txstate.Store) -> None:
    """Let four processes do the job, while this one shows the progress."""
    store.put("job", {"open": list(range(PARTS)), "sum": 0})
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(store, name)) for name in ("ann", "ben", "cat", UNLUCKY)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        print(f"{PARTS - count_open(store)} of {PARTS} parts done")
        time.sleep(0.2)
    print(f"{sum(worker.exitcode != 0 for worker in workers)} of {len(workers)} workers died")

    job = store.get("job")
    if job is None or job["open"] or job["sum"] != sum(part**2 for part in range(PARTS)):
        sys.exit(f"a part was lost, or counted twice: {job}")
    print("every part was counted once")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:jobs:") as opened:
        main(opened)
