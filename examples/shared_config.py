"""Configuration shared by workers: they follow every change, never see half of one, and edits don't overwrite edits.

A file or a plain key is read while it is being written, and the second of two people who save wins over the first.
Look at

* `follow`: asks for the version only (`fields=[]`), and fetches the configuration when it is another one;
* `scale`: two fields that belong together change in one transaction;
* `save`: a form that was open for a while is saved with `if_version`, HTTP's If-Match. A `VersionMismatch` means that
  somebody else saved meanwhile: nothing was written, and whoever edits decides anew on what is there now.

    python examples/shared_config.py [folder or URL]
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import txstate

FEATURES = [f"feature-{number}" for number in range(40)]


@txstate.transactional
def scale(tx: txstate.Tx, shards: int) -> None:
    """Change the number of shards, and with it the ports."""
    config = tx.get("config")
    config["shards"] = shards
    config["ports"] = [7000 + shard for shard in range(shards)]


def save(store: txstate.Store, form: txstate.Snapshot, feature: str) -> bool:
    """Save a form with one more feature; False: it is out of date, and nothing was written."""
    features = [*form["features"], feature]
    try:
        store.put("config", form.to_dict() | {"features": features}, if_version=form.version)
    except txstate.VersionMismatch:
        return False
    return True


def edit(store: txstate.Store, feature: str) -> int:
    """Turn on a feature; return how many forms were out of date when they were saved."""
    outdated = 0
    while (form := store.get("config")) is not None and not save(store, form, feature):
        outdated += 1
    return outdated


def follow(store: txstate.Store, finished: Event) -> tuple[int, int]:
    """Work by the configuration; return how often it changed, and how often it made no sense."""
    version = changes = nonsense = 0
    while not finished.wait(0.001):
        news = store.get("config", fields=[])
        if news is not None and news.version != version and (config := store.get("config")) is not None:
            version = config.version
            changes += 1
            nonsense += config["shards"] != len(config["ports"])
    return changes, nonsense


def main(store: txstate.Store) -> None:
    """Let four editors work at once, somebody scales meanwhile, and four workers follow."""
    store.put("config", {"features": [], "shards": 0, "ports": []})
    finished = Event()
    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(follow, store, finished) for _ in range(4)]
        try:
            edits = [threads.submit(edit, store, feature) for feature in FEATURES]
            for shards in range(20):
                scale(store, shards)
            outdated = sum(edit.result() for edit in edits)
        finally:
            finished.set()
        seen = [worker.result() for worker in workers]
    print(f"the workers saw {[changes for changes, _ in seen]} configurations")

    config = store.get("config")
    features = [] if config is None else config["features"]
    print(f"{len(features)} features were turned on; {outdated} forms were out of date and filled in again")
    if sorted(features) != sorted(FEATURES) or any(nonsense for _, nonsense in seen):
        sys.exit(f"an edit was lost, or a worker saw half of a change: {config}")
    print("no edit was lost, no worker saw half of a change")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:config:") as opened:
        main(opened)
