"""Script that Alembic runs before the revisions; the connection and its transaction are the caller's."""

from __future__ import annotations

from alembic import context

from runner.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
