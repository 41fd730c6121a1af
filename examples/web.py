"""Web handlers under asyncio: edits with If-Match, likes that count once, and honest answers when something fails.

`handle` is what a web framework would call, whichever it is; here visitors call it, all at the same time. Look at

* `handle`: the ETag that a client saw comes back with its PUT, as HTTP's If-Match, and is the `if_version` of the
  update. 412 means that somebody else saved first; after 503 a client may just send its request again; neither wrote
  anything. After 504 it has to look first;
* `like`: a transaction whose `on_commit` awaits the announcement once, however many attempts it took.

    python examples/web.py [folder or URL]
"""

import asyncio
import sys
from dataclasses import dataclass
from http import HTTPStatus

import txstate

feed: asyncio.Queue[str] = asyncio.Queue()


@dataclass(frozen=True)
class Response:
    """What the client gets."""

    status: HTTPStatus
    body: txstate.JSON = None
    etag: int = 0


@txstate.transactional
async def like(tx: txstate.AsyncTx, page: str, reader: str) -> int:
    """Count a like, one per reader; return how many there are."""
    readers: list[str] = (await tx.get(f"likes:{page}")).setdefault("readers", [])
    if reader not in readers:
        readers.append(reader)
        tx.on_commit(feed.put, f"{reader} likes {page}")
    return len(readers)


async def handle(
    store: txstate.AsyncStore, method: str, page: str, body: str = "", if_match: int = 0
) -> Response:
    """Do what was asked, and turn the store's errors into what a client can act on."""
    try:
        if method == "PUT":
            saved = await store.update(page, lambda doc: doc.update(text=body), if_version=if_match)
            return Response(HTTPStatus.OK, saved.to_dict(), saved.version)
        if method == "POST":
            return Response(HTTPStatus.OK, await like(store, page, body))
        found = await store.get(page)
    except txstate.VersionMismatch as mismatch:
        return Response(HTTPStatus.PRECONDITION_FAILED, etag=mismatch.found)
    except (txstate.ConflictError, txstate.StoreUnavailable):
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, "nothing was changed: send it again")
    except txstate.CommitUnknown:
        return Response(HTTPStatus.GATEWAY_TIMEOUT, "it may have been done: look before you send it again")
    missing = Response(HTTPStatus.NOT_FOUND)
    return missing if found is None else Response(HTTPStatus.OK, found.to_dict(), found.version)


async def sign(store: txstate.AsyncStore, name: str) -> int:
    """Write a name into the guest book; return how often another visitor had saved first."""
    refused = 0
    while True:
        page = await handle(store, "GET", "guests")
        saved = await handle(store, "PUT", "guests", f"{page.body['text']} {name}", page.etag)
        if saved.status is not HTTPStatus.PRECONDITION_FAILED:
            return refused
        refused += 1


async def main() -> None:
    """Let 24 visitors in, and look at the guest book."""
    visitors = [f"visitor-{number}" for number in range(24)]
    async with txstate.AsyncStore(*sys.argv[1:2], namespace="example:web:") as store:
        await store.put("guests", {"text": ""})
        await store.delete("likes:guests")  # of an earlier run
        refused = await asyncio.gather(*(sign(store, name) for name in visitors))
        await asyncio.gather(*(handle(store, "POST", "guests", name) for name in visitors * 2))
        page = await handle(store, "GET", "guests")
        likes = await handle(store, "POST", "guests", "the author")
    names = page.body["text"].split()
    print(f"{len(names)} visitors signed; {sum(refused)} times another one had saved first")
    print(f"{likes.body} likes were counted, and {feed.qsize()} announced")
    if sorted(names) != sorted(visitors) or not likes.body == feed.qsize() == len(visitors) + 1:
        sys.exit(f"a signature or a like was lost, or counted twice: {page}")
    print("no signature was lost, no like was counted twice")


if __name__ == "__main__":
    asyncio.run(main())
