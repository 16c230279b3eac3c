"""Messages of PostgreSQL and its driver as one line that says what to do; pure functions."""

from __future__ import annotations

WRONG = "correct RUNNER_DATABASE_URL"
NO_CONNECTION_LEFT = "the server has no connection left: try again, or raise its max_connections"

# Messages and their meaning. While connecting, the driver gives no code, just the server's text.
LASTING = {
    "password authentication failed": f"the user or the password is wrong: {WRONG}",
    "no password supplied": f"the server wants a password: {WRONG}",
    "no pg_hba.conf entry": "the server lets this user in from this host in no way: see its pg_hba.conf",
    "permission denied for database": "this user may not connect: GRANT CONNECT ON DATABASE ... TO it",
    "permission denied for schema": "this user may make no tables: GRANT CREATE ON SCHEMA public TO it",
    "permission denied for": "this user may not use the queue's tables: let it use the role that made them",
    "no schema has been selected": "this user may make no tables: GRANT USAGE, CREATE ON SCHEMA public TO it",
}
MISSING = {  # the server names them between the two words
    "database": f"there is no database of this name: make it with `createdb`, or {WRONG}",
    "role": f"there is no user of this name: make it with `createuser`, or {WRONG}",
}
PASSING = {
    "too many clients": NO_CONNECTION_LEFT,
    "remaining connection slots": NO_CONNECTION_LEFT,
    "too many connections": NO_CONNECTION_LEFT,
    "starting up": "the server is starting: try again",
    "shutting down": "the server is shutting down: try again",
    "terminating connection": "the server ended the connection: try again",
    "the database system is": "the server recovers from a crash: try again",
    "Connection refused": "no server answers there: is it running?",
    "No such file or directory": "no server answers there: is it running?",
    "connection timeout expired": "the server does not answer: is it reachable from here?",
    "could not translate host name": "its host is not known here: is the name right, and the network up?",
    "failed to resolve host": "its host is not known here: is the name right, and the network up?",
    "in a read-only transaction": "the server takes no changes at the moment: is it a standby?",
    "lock timeout": "another process has kept the queue busy: try again",
    "deadlock detected": "two processes were in each other's way: try again",
    "No space left on device": "the server's disk is full: free some space there",
}
# By code, once connected: connection exceptions, rollbacks, lack of resources, locks, the operator's hand;
# a standby that will be promoted, a transaction that was ended for idling.
PASSING_CODES = ("08", "40", "53", "55", "57", "58", "25006", "25P03")


# Without a code it has not connected. What encryption or the URL forbids stays so; what else the server says,
# in whatever language, may pass: a caller that can wait loses nothing by it.
LASTING_SIGNS = ("SSL", "ssl", "certificate", "invalid", "bad value")


def explain(message: str, code: str | None) -> tuple[str, bool]:
    """Return the line for the user, and whether the error may pass by itself."""
    said = one_line(message)
    for words, advice in LASTING.items():
        if words in said:
            return advice, False
    for kind, advice in MISSING.items():
        if said.startswith(f'FATAL: {kind} "') and said.endswith("does not exist"):
            return advice, False
    for words, advice in PASSING.items():
        if words in said:
            return advice, True
    if code is not None:
        return said, code.startswith(PASSING_CODES)
    return said, not any(sign in said for sign in LASTING_SIGNS)


def one_line(message: str) -> str:
    """Return the first line without the driver's introduction; hints and other addresses follow it."""
    first = message.strip().partition("\n")[0]
    return " ".join(first.rpartition(" failed: ")[2].removeprefix("connection is bad: ").split())
