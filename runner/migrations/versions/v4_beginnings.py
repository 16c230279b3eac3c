"""Columns for where an attempt began, and how it computes."""

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    for table in ("runs", "attempts"):
        op.add_column(table, sa.Column("from_epoch", sa.Integer))
        op.add_column(table, sa.Column("from_step", sa.Integer))
        op.add_column(table, sa.Column("computes", sa.Text))
    # Programs that know the first schema alone look here, and refuse what is newer.
    op.execute("UPDATE queue SET schema_version = 4")
