"""User sessions: requests at the same moment don't undo each other, and who has logged out stays logged out.

A session that is loaded, changed and saved as a whole loses what another request changed meanwhile; and a slow
request that saves after a logout brings the session back. Look at

* `session_of`: gets the `Tx`, so its check and the caller's change are one transaction: writing to a session never
  creates an ended one again; `expire` moves its end on each use;
* `put_in_cart`: changes a list inside of the document in place, and that counts;
* `log_out_everywhere`: ends the sessions of all devices at one moment.

    python examples/sessions.py [folder or URL]
"""

import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import txstate

LIFETIME = timedelta(minutes=30)


class NotLoggedInError(Exception):
    """There is no such session: logged out, expired, or never begun."""


@txstate.transactional
def log_in(tx: txstate.Tx, user: str, session_id: str) -> None:
    """Begin a session, and note it with its user."""
    tx.put(f"session:{session_id}", {"user": user, "cart": []}).expire(LIFETIME)
    tx.get(f"user:{user}").setdefault("sessions", []).append(session_id)


def session_of(tx: txstate.Tx, session_id: str) -> txstate.Doc:
    """The session, good for another half an hour from now on."""
    session = tx.get(f"session:{session_id}")
    if not session.exists:
        raise NotLoggedInError(session_id)
    session.expire(LIFETIME)
    return session


@txstate.transactional
def put_in_cart(tx: txstate.Tx, session_id: str, article: str) -> None:
    """Add an article."""
    session_of(tx, session_id)["cart"].append(article)


@txstate.transactional
def log_out_everywhere(tx: txstate.Tx, user: str) -> int:
    """End all sessions of a user; return how many there were."""
    session_ids = tx.get(f"user:{user}").pop("sessions", [])
    for session in tx.get_many(f"session:{session_id}" for session_id in session_ids):
        session.delete()
    return len(session_ids)


def handle_request(store: txstate.Store, session_id: str, article: str) -> bool:
    """What a web server does with the answer; False: to the login page."""
    try:
        put_in_cart(store, session_id, article)
    except NotLoggedInError:
        return False
    return True


def main(store: txstate.Store) -> None:
    """Fill a cart from 8 browser tabs at once, and log out while more requests are coming in."""
    phone, laptop = secrets.token_urlsafe(), secrets.token_urlsafe()
    log_in(store, "ann", phone)
    log_in(store, "ann", laptop)

    articles = [f"article-{number}" for number in range(100)]
    with ThreadPoolExecutor(8) as tabs:
        list(tabs.map(lambda article: handle_request(store, laptop, article), articles))
        session = store.get(f"session:{laptop}")
        cart = [] if session is None else session["cart"]
        print(f"{len(cart)} articles are in the cart; it expires in {store.ttl(f'session:{laptop}'):.0f} s")

        late = [tabs.submit(handle_request, store, laptop, article) for article in articles]
        ended = log_out_everywhere(store, "ann")
        let_in = [request.result() for request in late].count(True)
    print(f"{ended} sessions ended; {let_in} more requests came before, {len(late) - let_in} after")

    if sorted(cart) != sorted(articles) or store.get(f"session:{laptop}") is not None:
        sys.exit(f"the cart lost something, or a request brought the session back to life: {cart}")
    print("nothing was lost from the cart, and no session came back to life")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:sessions:") as opened:
        main(opened)
