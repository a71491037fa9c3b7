"""The lint report of a job's training file."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lint", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("lint_due", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("jobs", sa.Column("lint_until", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_lint_due", "jobs", ["created_at"], postgresql_where=sa.text("lint_due"))


def downgrade() -> None:
    op.drop_index("ix_jobs_lint_due", "jobs", postgresql_where=sa.text("lint_due"))
    op.drop_column("jobs", "lint_until")
    op.drop_column("jobs", "lint_due")
    op.drop_column("jobs", "lint")
