"""When a checkpoint was deleted, for the error of requests that name it."""

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default comes after the column: the times of earlier deletions are unknown.
    op.add_column("removed_checkpoints", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("removed_checkpoints", "removed_at", server_default=sa.func.now())


def downgrade() -> None:
    op.drop_column("removed_checkpoints", "removed_at")
