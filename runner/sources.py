"""The source of our packages in the queue's database, each once; inside a transaction of the caller.

Who keeps or drops any has the queue's turn (`Database.take_turn`): none is dropped while a run is added that
needs it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, delete, exists, insert, select

from runner.protocol import PROTOCOL
from runner.source import Archive, Source
from runner.tables import attempts, runs, sources


class Kept(NamedTuple):
    """Source that is kept, and the protocol that its workers speak."""

    protocol: int
    archive: Archive


def find(connection: Connection, code: str) -> Kept | None:
    """Return the source of this digest."""
    row = connection.execute(select(sources).where(sources.c.digest == code)).first()
    return Kept(row.protocol, Archive(code, row.archive)) if row else None


def keep(connection: Connection, source: Source) -> None:
    """Keep source of this version; packs it only where it is new."""
    if connection.execute(select(sources.c.digest).where(sources.c.digest == source.digest)).first():
        return
    archive = source.archive
    row = {"digest": archive.digest, "protocol": PROTOCOL, "created_at": time.time(), "archive": archive.data}
    connection.execute(insert(sources).values(row))


def of(connection: Connection, run_id: int) -> set[str]:
    """Return the digests of the source that a run and its attempts need."""
    wanted = select(runs.c.code).where(runs.c.id == run_id)
    ran = select(attempts.c.code).where(attempts.c.run == run_id)
    return {code for code in connection.execute(wanted.union(ran)).scalars() if code is not None}


def drop(connection: Connection, codes: Iterable[str]) -> None:
    """Delete those of the digests that no run and no attempt needs any more."""
    for code in codes:
        needed = exists().where(runs.c.code == code) | exists().where(attempts.c.code == code)
        connection.execute(delete(sources).where(sources.c.digest == code, ~needed))
