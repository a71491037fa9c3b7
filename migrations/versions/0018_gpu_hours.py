"""Monthly usage of projects, and its limit."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "project_usage",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_usage_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", "month", name=op.f("pk_project_usage")),
    )
    op.add_column("projects", sa.Column("max_gpu_hours", sa.Integer(), nullable=True))
    op.create_check_constraint("max_gpu_hours", "projects", "max_gpu_hours >= 0")
    processes = sa.Column("processes", sa.Integer(), server_default=sa.text("1"), nullable=False)
    op.add_column("job_attempts", processes)


def downgrade() -> None:
    op.drop_column("job_attempts", "processes")
    op.drop_column("projects", "max_gpu_hours")
    op.drop_table("project_usage")
