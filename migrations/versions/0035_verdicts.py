"""The test file of a job, its held-out results by row, and the verdict on its model."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None
previous_release_works_because = "the check allows null, and an earlier release leaves the new column null"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("test_file", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("evaluation_rows", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("verdict", sa.String(length=16), nullable=True))
    op.add_column("jobs", sa.Column("comparison", postgresql.JSONB(), nullable=True))
    op.create_check_constraint(op.f("ck_jobs_verdict"), "jobs", "verdict IN ('improved', 'no_change', 'worse')")


def downgrade() -> None:
    for column in ("comparison", "verdict", "evaluation_rows", "test_file"):
        op.drop_column("jobs", column)
