"""The code of a run, as the source of our packages at its submission, and how many processes train it."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("protocol", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("archive", sa.LargeBinary, nullable=False),
    )
    op.add_column("runs", sa.Column("code", sa.String(64)))
    for name in ("submit_python", "submit_torch", "python", "torch"):
        op.add_column("runs", sa.Column(name, sa.Text))
    op.add_column("runs", sa.Column("workers", sa.Integer, nullable=False, server_default="1"))
    op.create_index("runs_by_code", "runs", ["code"])
    op.add_column("attempts", sa.Column("code", sa.String(64)))
    op.create_index("attempts_by_code", "attempts", ["code"])
    op.add_column("queue", sa.Column("code", sa.String(64)))
    op.add_column("queue", sa.Column("protocol", sa.Integer))
    # Programs that know the first schema alone look here, and refuse what is newer.
    op.execute("UPDATE queue SET schema_version = 3")
