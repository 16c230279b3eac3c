"""Several hosts: what the machines of the cluster have, where the runs' folders are, pieces of logs.

And indexes, for queues in which a hundred thousand runs have ended.
"""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("queue", sa.Column("machines", sa.Text))
    op.add_column("queue", sa.Column("home", sa.Text))
    op.create_table(
        "log_pieces",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("runs_by_end", "runs", ["ended_at", "id"])
    behind = sa.text(
        "(state = 'RUNNING' OR published_state IS NULL OR published_state <> state"
        " OR coalesce(durable_epoch, 0) > coalesce(published_epoch, 0))"
    )
    op.create_index("runs_to_publish", "runs", ["id"], sqlite_where=behind, postgresql_where=behind)
    # Programs that know the first schema alone look here, and refuse what is newer.
    op.execute("UPDATE queue SET schema_version = 2")
