"""Trusted CI identities whose OIDC tokens can be exchanged for API keys, and the tokens already exchanged."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "oidc_trusts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("audience", sa.String(length=255), nullable=False),
        sa.Column("repository_id", sa.String(length=32), nullable=False),
        sa.Column("ref", sa.String(length=255), nullable=True),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("key_seconds", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(length=16), nullable=True),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("provider IN ('github', 'gitlab')", name=op.f("ck_oidc_trusts_provider")),
        sa.CheckConstraint("key_seconds >= 60", name=op.f("ck_oidc_trusts_key_seconds")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_oidc_trusts_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_oidc_trusts")),
    )
    op.create_index(
        "uq_oidc_trusts_claims",
        "oidc_trusts",
        ["issuer", "repository_id", "audience", sa.text("coalesce(ref, '')")],
        unique=True,
    )
    op.create_table(
        "oidc_tokens",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("jti", sa.String(length=255), nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "jti", name=op.f("pk_oidc_tokens")),
    )
    op.create_index(op.f("ix_oidc_tokens_expires_at"), "oidc_tokens", ["expires_at"])


def downgrade() -> None:
    op.drop_table("oidc_tokens")
    op.drop_table("oidc_trusts")
