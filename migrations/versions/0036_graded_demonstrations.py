"""The grades of a job's demonstrations, and the lines of those that are not trained."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("demonstrations", JSONB, nullable=True))
    op.add_column("jobs", sa.Column("rejected_lines", JSONB, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "rejected_lines")
    op.drop_column("jobs", "demonstrations")
