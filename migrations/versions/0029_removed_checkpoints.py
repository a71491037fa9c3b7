"""The steps whose checkpoints were deleted, for the error of requests that name one."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "removed_checkpoints",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_removed_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_removed_checkpoints")),
    )


def downgrade() -> None:
    op.drop_table("removed_checkpoints")
