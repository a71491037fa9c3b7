"""The GPUs and workers that a job needs, for the claim."""

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("gpus", "nodes"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    for name in ("nodes", "gpus"):
        op.drop_column("jobs", name)
