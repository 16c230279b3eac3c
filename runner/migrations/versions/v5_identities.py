"""Identities of runs, the place that a queue serves, and what users say of a run after its submission."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.add_column("runs", sa.Column("identity", sa.String(32)))
    op.add_column("runs", sa.Column("overrides", sa.Text))
    op.add_column("runs", sa.Column("user_note", sa.Text))
    for name in ("annotations", "published_annotations"):
        op.add_column("runs", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.add_column("queue", sa.Column("place", sa.Text))
    op.drop_index("runs_to_publish", "runs")
    behind = sa.text(
        "(state = 'RUNNING' OR published_state IS NULL OR published_state <> state"
        " OR coalesce(durable_epoch, 0) > coalesce(published_epoch, 0)"
        " OR annotations <> published_annotations)"
    )
    op.create_index("runs_to_publish", "runs", ["id"], sqlite_where=behind, postgresql_where=behind)
    # Programs that know the first schema alone look here, and refuse what is newer.
    op.execute("UPDATE queue SET schema_version = 5")
