"""The sample answers of held-out evaluations in a column of their own, which a poll of the job does not read."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("evaluation_samples", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "evaluation_samples")
