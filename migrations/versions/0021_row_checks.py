"""Counts of the rows that jobs can use: the checks with their results, and what each job waits for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "row_checks",
        sa.Column("file_id", sa.String(64), sa.ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("request", postgresql.JSONB(), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.create_index("ix_row_checks_due", "row_checks", ["created_at"], postgresql_where=sa.text("result IS NULL"))
    op.add_column("jobs", sa.Column("row_checks", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("rows", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "rows")
    op.drop_column("jobs", "row_checks")
    op.drop_index("ix_row_checks_due", "row_checks", postgresql_where=sa.text("result IS NULL"))
    op.drop_table("row_checks")
