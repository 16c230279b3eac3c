"""The queue's tables, in SQL that every database of SQLAlchemy knows, and their rows as values."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
    select,
    text,
)
from sqlalchemy.engine import Dialect

from runner.redaction import redacted
from runner.rows import Attempt, Beat, Run, Waiting
from runner.states import State

SCHEMA_VERSION = 5


class Json(TypeDecorator[Any]):
    """A value as JSON text; an empty one is NULL, which reads back as what `empty` makes."""

    impl = Text
    cache_ok = True

    def __init__(self, empty: type[dict] | type[tuple]) -> None:
        super().__init__()
        self.empty = empty

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return json.dumps(value) if value else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return self.empty(json.loads(value)) if value else self.empty()


class Remark(TypeDecorator[Any]):
    """Text that may come from any library: stored without secrets, and without NUL and surrogates."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return redacted(value).encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


class Request(TypeDecorator[Any]):
    """A number of GPUs or cores; NULL is "auto"."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> float | None:
        return None if value == "auto" else value

    def process_result_value(self, value: float | None, dialect: Dialect) -> Any:
        return "auto" if value is None else value


class StateName(TypeDecorator[Any]):
    """A State by its name."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return value if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> State | None:
        return value if value is None else State(value)


metadata = MetaData()

# The numbers of runs must never come back after `remove`: folders and MLflow runs are named by them.
runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", StateName, nullable=False),
    Column("name", Text, nullable=False),
    Column("identity", String(32)),  # random; NULL for runs that an earlier version submitted
    Column("num_epochs", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("gpus", Request),
    Column("cpus", Request),
    Column("loader_workers", Integer, nullable=False),
    Column("workers", Integer, nullable=False, server_default="1"),
    Column("max_retries", Integer, nullable=False),
    Column("tags", Json(dict)),
    Column("user_note", Remark),
    Column("annotations", Integer, nullable=False, server_default="0"),
    Column("overrides", Json(tuple)),
    Column("exclusive", Json(tuple)),
    Column("source_file", Text),
    Column("submit_directory", Text),
    Column("git_commit", Text),
    Column("git_dirty", Boolean),
    Column("code", String(64)),  # in `sources`; NULL for runs that an earlier version submitted
    Column("submit_python", Text),
    Column("submit_torch", Text),
    Column("python", Text),
    Column("torch", Text),
    Column("attempt", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("reason", Remark),
    Column("intent", String(16)),
    Column("intent_at", Float),
    Column("grace_seconds", Float),
    Column("use_best", Boolean, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("epoch", Integer),
    Column("step", Integer),
    Column("steps_per_epoch", Integer),
    Column("images_per_second", Float),
    Column("loss", Float),
    Column("accuracy", Float),
    Column("metrics", Json(dict)),
    Column("seconds_left", Float),
    Column("durable_epoch", Integer),
    Column("durable_step", Integer),
    Column("answered_at", Float),
    Column("host", Text),
    Column("pid", Integer),
    Column("devices", Json(tuple)),
    Column("from_epoch", Integer),
    Column("from_step", Integer),
    Column("computes", Text),
    Column("mlflow_run_id", Text),
    Column("published_epoch", Integer),
    Column("published_state", StateName),
    Column("published_annotations", Integer, nullable=False, server_default="0"),
    Column("publish_error", Remark),
    Column("config", Text, nullable=False),  # last, so that SQLite need not walk over it to reach the others
    sqlite_autoincrement=True,
)

Index("runs_in_order", runs.c.state, runs.c.priority.desc(), runs.c.id)

Index("runs_by_end", runs.c.ended_at, runs.c.id)

Index("runs_by_code", runs.c.code)

# Of which runs tracking may lack something. The index holds them alone, so that the many that have ended and
# are published cost a look at them nothing; for that, queries must name the condition in these very words,
# and in brackets, which SQLAlchemy puts around no text.
BEHIND = text(
    "(state = 'RUNNING' OR published_state IS NULL OR published_state <> state"
    " OR coalesce(durable_epoch, 0) > coalesce(published_epoch, 0)"
    " OR annotations <> published_annotations)"
)
runs_to_publish = Index("runs_to_publish", runs.c.id, sqlite_where=BEHIND)

attempts = Table(
    "attempts",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16)),
    Column("reason", Remark),
    Column("gpus", Float, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("host", Text),
    Column("pid", Integer),
    Column("devices", Json(tuple)),
    Column("code", String(64)),
    Column("from_epoch", Integer),
    Column("from_step", Integer),
    Column("computes", Text),
)

Index("attempts_by_code", attempts.c.code)

# The source of our packages, as runs were submitted with it; each once, for all runs that need it.
sources = Table(
    "sources",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("protocol", Integer, nullable=False),  # which its workers speak
    Column("created_at", Float, nullable=False),
    Column("archive", LargeBinary, nullable=False),
)

# What workers printed, in pieces that follow each other, for hosts that do not see the runs' folders.
log_pieces = Table(
    "log_pieces",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),  # of the first byte, in the attempt's log
    Column("data", LargeBinary, nullable=False),
)

# One row: which queue this is, who may schedule it, and whether it is to go down.
queue = Table(
    "queue",
    metadata,
    Column("only_row", Integer, CheckConstraint("only_row = 1"), primary_key=True),
    Column("id", String(36), nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("at", Float),
    Column("cluster", Text),
    Column("version", Text),
    Column("tracking", Text),
    Column("pid", Integer),
    Column("host", Text),
    Column("cores", Float),
    Column("gpus", Float),
    Column("machines", Json(tuple)),
    Column("home", Text),
    Column("place", Text),
    Column("message", Remark),
    Column("code", String(64)),
    Column("protocol", Integer),
    Column("down_at", Float),
    Column("down_force", Boolean),
)

# Alembic's own table, which notes the schema; apart from the others, as Alembic wants it.
alembic_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def complete(dialect: str) -> None:
    """Add to the tables what only a database of this dialect needs.

    In the tables above it would make every command import SQLAlchemy's PostgreSQL and asyncio: 25 ms.
    """
    if dialect == "postgresql":
        runs_to_publish.dialect_options["postgresql"]["where"] = BEHIND


# The times between two attempts, in which a run waits, do not count.
_TOOK = func.coalesce(func.sum(attempts.c.ended_at - attempts.c.started_at), 0.0)
_TRAINED = select(_TOOK).where(attempts.c.run == runs.c.id).correlate(runs).scalar_subquery()
COMPUTED = {"trained_seconds": _TRAINED.label("trained_seconds")}  # fields of Run that are no columns
RUN = [COMPUTED[field.name] if field.name in COMPUTED else runs.c[field.name] for field in fields(Run)]
WAITING = [runs.c[name] for name in Waiting._fields]
ATTEMPT = [attempts.c[field.name] for field in fields(Attempt)]
BEAT = [queue.c[field.name] for field in fields(Beat)]
