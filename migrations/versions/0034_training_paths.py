"""The path that a job's training takes, and why."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("training_path", JSONB, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "training_path")
