"""Opening of the database at a path or a URL; its queue is found, made or brought up to date."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from runner.database import Database, NoQueue, StoreError
from runner.sqlite import SqliteDatabase

DRIVER = "postgresql+psycopg"
USE = f"use {DRIVER}://USER:PASSWORD@HOST/DATABASE or sqlite:///PATH"


def open_database(place: str | Path, create: bool, upgrade: bool = True) -> tuple[Database, str]:
    """Return the database at a path or URL, and the id of the queue in it.

    Where there is none it is made, or NoQueue raised; raises StoreError where it cannot be used, and without
    `upgrade` where its schema is an older one.
    """
    database = _database(place)
    try:
        with database.one_line_errors():
            return database, _found_or_made(database, create, upgrade)
    except BaseException:
        database.close()
        raise


def as_url(text: str) -> str:
    """Return `text` where it is a URL. Raises StoreError, which does not repeat it, where it is a path."""
    if "://" not in text:
        raise StoreError(f"RUNNER_DATABASE_URL is not the URL of a database: {USE}")
    return text


def _found_or_made(database: Database, create: bool, upgrade: bool) -> str:
    found = database.look()
    if found is None and create:
        database.make()
        found = database.look()
        if found is None:
            raise StoreError(f"{database.name}: a database of something else: {database.elsewhere}")
    if found is None:
        raise NoQueue(f"{database.name}: there is no queue yet: submit a run")
    if found.is_old:
        if not upgrade:
            raise StoreError(f"{database.name}: of an older version: any command brings it up to date")
        database.upgrade()
    return found.queue_id


def _database(place: str | Path) -> Database:
    if isinstance(place, Path) or "://" not in place:
        return SqliteDatabase(Path(place).absolute())
    url = _url(place)
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise StoreError(f"{place}: a queue must outlive this process: name a file")
        return SqliteDatabase(Path(url.database))
    from runner.postgres import PostgresDatabase  # a queue in a file needs no psycopg

    return PostgresDatabase(url)


def _url(place: str) -> URL:
    """Return the parts of a URL. What is said about a wrong one never repeats it: it may hold a password."""
    scheme, _, rest = place.partition("://")
    if rest.partition("?")[0].count("@") > 1:
        raise StoreError("the database's URL: more than one @: in a user's name or password write %40 for it")
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise StoreError(f"the database's URL ({scheme}://...) is not the URL of a database: {USE}") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"{scheme}://...: only PostgreSQL and SQLite are supported: {USE}")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql", DRIVER):
        raise StoreError(f"{scheme}://...: this driver is not supported: {USE}")
    if url.get_backend_name() == "postgresql":
        if not url.database:
            raise StoreError(f"{scheme}://{url.host or ''}: names no database: {USE}")
        url = url.set(drivername=DRIVER)
    return url
