"""Meaning of error texts of PostgreSQL and its driver; test_postgres.py checks that they are said."""

from __future__ import annotations

import pytest

from runner.postgres_errors import explain

CONNECTING = 'connection failed: connection to server at "db", port 5432 failed: '


@pytest.mark.parametrize(
    "said",
    [
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent ...",
        "FATAL:  the database system is in recovery mode",
        "FATAL:  the database system is shutting down",
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for non-replication superuser connections",
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "could not fork new process for connection: Cannot allocate memory",
        "FATAL:  das Datenbanksystem startet",
        "Network is unreachable",
    ],
)
def test_a_server_that_is_not_ready_may_be_so_later(said: str) -> None:
    line, passes = explain(CONNECTING + said, None)
    assert passes
    assert "\n" not in line
    assert "connection failed" not in line


@pytest.mark.parametrize(
    "said",
    [
        'FATAL:  password authentication failed for user "ada"',
        'FATAL:  database "queue" does not exist',
        'FATAL:  role "ada" does not exist',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ada", database "queue", no encryption',
        'FATAL:  permission denied for database "queue"\nDETAIL:  User does not have CONNECT privilege.',
        "server does not support SSL, but SSL was required",
    ],
)
def test_who_may_not_come_in_will_not_come_in_later(said: str) -> None:
    assert not explain(CONNECTING + said, None)[1]


@pytest.mark.parametrize(
    ("code", "said", "passes"),
    [
        ("57P01", "terminating connection due to administrator command", True),
        ("53100", 'could not extend file "base/5/1": No space left on device\nHINT:  Check', True),
        ("53200", "out of memory", True),
        ("40P01", "deadlock detected", True),
        ("55P03", "canceling statement due to lock timeout", True),
        ("25P03", "terminating connection due to idle-in-transaction timeout", True),
        ("25P03", "Verbindung wird abgebrochen wegen Zeitüberschreitung", True),
        ("25006", "cannot execute UPDATE in a read-only transaction", True),
        ("25006", "kann UPDATE nicht in einer Read-Only-Transaktion ausführen", True),
        ("22003", "integer out of range", False),
        ("42501", "permission denied for table runs", False),
        ("23502", 'null value in column "name" violates not-null constraint\nDETAIL: ...', False),
    ],
)  # fmt: skip
def test_what_it_says_to_a_statement_counts_by_its_code(code: str, said: str, passes: bool) -> None:
    line, may_pass = explain(said, code)
    assert may_pass is passes
    assert "\n" not in line
