"""Leases and effects of requests that take effect once, so that repetitions do not wait for a dead server."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "idempotency_keys", sa.Column("has_effect", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("idempotency_keys", "has_effect")
    op.drop_column("idempotency_keys", "lease_until")
