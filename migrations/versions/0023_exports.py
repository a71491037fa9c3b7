"""Exports of models: the queue, the results and their archives."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("model", sa.String(255), sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("options", postgresql.JSONB(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("stage", sa.String(255), nullable=True),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("manifest", postgresql.JSONB(), nullable=True),
        sa.Column("blob", sa.String(255), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        sa.CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_terminal"),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        sa.CheckConstraint("(status = 'succeeded') = (manifest IS NOT NULL)", name="manifest_iff_succeeded"),
        sa.CheckConstraint(
            "(blob IS NULL) = (bytes IS NULL) AND (blob IS NULL) = (sha256 IS NULL)", name="blob_has_a_digest"
        ),
    )
    op.create_index("ix_exports_model", "exports", ["model", "created_at", "id"])
    op.create_index("ix_exports_project", "exports", ["project_id"])
    op.create_index(
        "ix_exports_unfinished",
        "exports",
        ["created_at"],
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_exports_expiring", "exports", ["expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_table("exports")
