"""Metric rollups in blocks of steps, for charts of long jobs; an index of the queue in claim order."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "metric_rollups",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("low_step", sa.Integer(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high_step", sa.Integer(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_metric_rollups_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "name", "block", name=op.f("pk_metric_rollups")),
    )
    # The same blocks of 50 steps that `app.core.jobs.metric_series` writes from now on.
    op.execute(
        """
        INSERT INTO metric_rollups (job_id, name, block, low_step, low, high_step, high)
        SELECT metrics.job_id, name, step / 50,
               (array_agg(step ORDER BY value, step) FILTER (WHERE value IS NOT NULL))[1], min(value),
               (array_agg(step ORDER BY value DESC, step) FILTER (WHERE value IS NOT NULL))[1], max(value)
        FROM metrics
             JOIN (SELECT job_id, max(step) AS last FROM metrics GROUP BY job_id) AS latest USING (job_id),
             LATERAL jsonb_each_text(values) AS one(name, written), LATERAL CAST(written AS float8) AS value
        WHERE step / 50 < (latest.last + 1) / 50
        GROUP BY metrics.job_id, name, step / 50
        """
    )
    op.drop_index("ix_jobs_claim", table_name="jobs")
    op.create_index(
        "ix_jobs_turn",
        "jobs",
        [sa.text("priority DESC"), "eligible_at", "created_at", "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_turn", table_name="jobs")
    op.create_index("ix_jobs_claim", "jobs", ["priority", "created_at"], postgresql_where=sa.text("status = 'queued'"))
    op.drop_table("metric_rollups")
