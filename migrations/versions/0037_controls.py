"""The control of a job, and the comparison with it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None
previous_release_works_because = "an earlier release leaves the column null, and the index covers no such row"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("control_of", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("control_comparison", JSONB, nullable=True))
    op.create_index(
        "ix_jobs_control_of", "jobs", ["control_of"], unique=True, postgresql_where=sa.text("control_of IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_control_of", "jobs")
    for column in ("control_comparison", "control_of"):
        op.drop_column("jobs", column)
