"""One-time tokens: a link to reset a password works once, for a while; a code can't be guessed.

"Read the token, see that it is unused, mark it as used" lets two requests in that come at the same moment. Look at

* `issue`: the secret is made outside of any transaction, as a transaction's function may run several times;
* `redeem`: reads, checks and deletes the token in one transaction, together with what the token was good for;
* `check_code`: a wrong guess has to be counted, so the function returns False. Raising would undo the transaction,
  and the count with it.

    python examples/tokens.py [folder or URL]
"""

import hashlib
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import txstate

GUESSES = 3


def token_key(token: str) -> str:
    """Where the token is kept: by its hash, so that reading the database gives nobody a working token."""
    return "token:" + hashlib.sha256(token.encode()).hexdigest()


def issue(store: txstate.Store, user: str, lifetime: timedelta) -> str:
    """Make a token that disappears by itself."""
    token = secrets.token_urlsafe()
    store.put(token_key(token), {"user": user}, if_version=0, expire=lifetime)
    return token


@txstate.transactional
def redeem(tx: txstate.Tx, token: str, password: str) -> bool:
    """Use the token up to set a password; False: used already, expired, or never issued."""
    ticket = tx.get(token_key(token))
    if not ticket.exists:
        return False
    tx.put(f"user:{ticket['user']}", {"password": password})  # a real one would be hashed, outside
    ticket.delete()
    return True


@txstate.transactional
def check_code(tx: txstate.Tx, user: str, guess: str) -> bool:
    """Compare a guess with the code that was sent; after too many wrong ones no guess is right."""
    login = tx.get(f"login:{user}")
    if login["wrong"] >= GUESSES:
        return False
    right = secrets.compare_digest(login["code"], guess)
    if not right:
        login.increment("wrong")
    return right


def main(store: txstate.Store) -> None:
    """Open one link 16 times at once, open another too late, and guess a code in parallel."""
    token = issue(store, "ann", timedelta(minutes=15))
    passwords = [f"password-{number}" for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        worked = list(threads.map(lambda password: redeem(store, token, password), passwords))
    user = store.get("user:ann")
    print(f"the link was opened {len(worked)} times at once and worked {worked.count(True)} time")

    late = issue(store, "ann", timedelta(milliseconds=50))
    while store.ttl(token_key(late)) is not None:
        time.sleep(0.01)
    worked_late = redeem(store, late, "too late")
    print(f"opened too late, a link {'worked' if worked_late else 'did not work'}")

    store.put("login:ann", {"code": "4711", "wrong": 0})
    guesses = [f"{number:04}" for number in range(4000, 5000)]
    with ThreadPoolExecutor(16) as threads:
        guessed = any(threads.map(lambda guess: check_code(store, "ann", guess), guesses))
    print(f"among {len(guesses)} guesses was the right one; it was {'' if guessed else 'not '}accepted")

    if worked.count(True) != 1 or user is None or user["password"] != passwords[worked.index(True)]:
        sys.exit(f"the token did not work once: {user}")
    if worked_late or guessed:
        sys.exit("an expired token worked, or a wrong guess was not counted")
    print("one link worked once, and no guess went uncounted")


if __name__ == "__main__":
    with txstate.Store(*sys.argv[1:2], namespace="example:tokens:") as opened:
        main(opened)
