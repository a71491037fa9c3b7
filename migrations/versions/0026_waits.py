"""The waits of a job for a dependency: since when, and the rows on which it fails."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("failing_rows", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "failing_rows")
    op.drop_column("jobs", "waiting_since")
