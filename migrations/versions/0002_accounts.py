"""Accounts: scopes, expiry and rotation of keys; limits of projects; the audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
LIMITS = (
    ("max_requests_per_minute", sa.Integer(), 1),
    ("max_running_jobs", sa.Integer(), 0),
    ("max_queued_jobs", sa.Integer(), 0),
    ("max_stored_bytes", sa.BigInteger(), 0),
)
# The rights that keys had before scopes, and the scopes that the installation's own key needs from now on.
EVERYTHING = '["files:*", "jobs:*", "models:*", "webhooks:*", "inference"]'
BOOTSTRAP = '["files:*", "jobs:*", "models:*", "webhooks:*", "inference", "admin"]'


def upgrade() -> None:
    op.add_column("projects", sa.Column("archived_at", MOMENT, nullable=True))
    for name, kind, least in LIMITS:
        op.add_column("projects", sa.Column(name, kind, nullable=True))
        op.create_check_constraint(op.f(f"ck_projects_{name}"), "projects", f"{name} >= {least}")
    _extend_keys()
    _create_audit_log()


def _extend_keys() -> None:
    op.add_column("api_keys", sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    granted = sa.case((sa.column("name") == "bootstrap", BOOTSTRAP), else_=EVERYTHING)
    keys = sa.table("api_keys", sa.column("name"), sa.column("scopes", postgresql.JSONB()))
    op.execute(sa.update(keys).values(scopes=sa.cast(granted, postgresql.JSONB())))
    op.alter_column("api_keys", "scopes", nullable=False)
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_api_keys_requests_per_minute"), "api_keys", "requests_per_minute >= 1")
    op.add_column("api_keys", sa.Column("created_by", sa.String(length=16), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", MOMENT, nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", MOMENT, nullable=True))
    op.add_column("api_keys", sa.Column("replaced_by", sa.String(length=16), nullable=True))


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("actor_key_id", sa.String(length=16), nullable=True),
        sa.Column("actor_project_id", sa.String(length=64), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ip", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("id", name=op.f("uq_audit_log_id")),
    )
    op.create_index("ix_audit_log_project", "audit_log", ["project_id", "seq"], unique=False)
    op.create_index("ix_audit_log_object", "audit_log", ["object_id", "seq"], unique=False)
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.drop_table("audit_log")
    op.execute("DROP FUNCTION refuse_change()")
    for name in ("replaced_by", "last_used_at", "expires_at", "created_by", "requests_per_minute", "scopes"):
        op.drop_column("api_keys", name)
    for name, _, _ in reversed(LIMITS):
        op.drop_column("projects", name)
    op.drop_column("projects", "archived_at")
