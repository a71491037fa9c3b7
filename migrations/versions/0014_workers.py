"""A table of running workers; the estimated and the measured cost of jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    json = postgresql.JSONB(astext_type=sa.Text())
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("queues", json, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("hardware", json, nullable=False),
        sa.Column("started_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen", moment, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('ready', 'draining')", name=op.f("ck_workers_state")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.add_column("job_attempts", sa.Column("device", sa.String(length=255), nullable=True))
    op.add_column("job_attempts", sa.Column("training_at", moment, nullable=True))
    op.add_column("jobs", sa.Column("estimate", json, nullable=True))
    op.add_column("jobs", sa.Column("measured", json, nullable=True))
    op.create_index("ix_jobs_measured", "jobs", ["finished_at"], postgresql_where=sa.text("measured IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_jobs_measured", table_name="jobs")
    op.drop_column("jobs", "measured")
    op.drop_column("jobs", "estimate")
    op.drop_column("job_attempts", "training_at")
    op.drop_column("job_attempts", "device")
    op.drop_table("workers")
