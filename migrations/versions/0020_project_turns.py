"""An index from which a claim reads the first job of each project instead of the whole queue."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_project_turn",
        "jobs",
        ["project_id", sa.text("priority DESC"), "eligible_at", "created_at", "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_project_turn", table_name="jobs")
