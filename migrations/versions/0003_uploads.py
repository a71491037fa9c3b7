"""Expiry of files, uploads in parts, result files of jobs, and checkpoints as models that can be shared."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_files_expiring", "files", ["expires_at"], postgresql_where="expires_at IS NOT NULL")
    op.add_column(
        "jobs",
        sa.Column(
            "result_files",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    _create_uploads()
    op.drop_constraint(op.f("uq_models_job_id"), "models", type_="unique")
    op.add_column("models", sa.Column("step", sa.Integer(), nullable=True))
    op.add_column("models", sa.Column("has_adapter", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.create_index("ix_models_job_step", "models", ["job_id", "step"])
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["models.id"], name=op.f("fk_checkpoint_permissions_model_models"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_checkpoint_permissions_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permissions")),
        sa.UniqueConstraint("model", "project_id", name=op.f("uq_checkpoint_permissions_model_project_id")),
    )
    op.create_index(op.f("ix_checkpoint_permissions_project_id"), "checkpoint_permissions", ["project_id"])
    # Name the checkpoints of earlier jobs. They were stored without an adapter in PEFT's format.
    op.execute(
        """
        INSERT INTO models (id, project_id, job_id, step, base_model, blob, has_adapter, created_at)
        SELECT concat_ws(':', 'ft', base.model, projects.name, coalesce(jobs.spec->>'suffix', ''), right(jobs.id, 8),
                         'ckpt-step-' || checkpoints.step),
               jobs.project_id, jobs.id, checkpoints.step, base.model, checkpoints.blob, false, checkpoints.created_at
        FROM checkpoints
        JOIN jobs ON jobs.id = checkpoints.job_id
        JOIN projects ON projects.id = jobs.project_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN jobs.spec->>'model' LIKE 'ft:%' THEN split_part(jobs.spec->>'model', ':', 2)
                        ELSE jobs.spec->>'model' END AS model
        ) AS base
        """
    )


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_seconds", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("part_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("file_id", sa.String(length=64), nullable=True),
        sa.Column("is_swept", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'completed', 'cancelled', 'expired')", name=op.f("ck_uploads_status")
        ),
        sa.CheckConstraint(
            "(status = 'completed') = (file_id IS NOT NULL)", name=op.f("ck_uploads_file_iff_completed")
        ),
        sa.CheckConstraint(
            "(status = 'completed') = (part_ids IS NOT NULL)", name=op.f("ck_uploads_parts_iff_completed")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_uploads_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_project_id"), "uploads", ["project_id"])
    op.create_index("ix_uploads_pending", "uploads", ["expires_at"], postgresql_where="status = 'pending'")
    op.create_index("ix_uploads_unswept", "uploads", ["id"], postgresql_where="status <> 'pending' AND NOT is_swept")
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("upload_id", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id_uploads")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_parts")),
    )
    op.create_index(op.f("ix_upload_parts_upload_id"), "upload_parts", ["upload_id"])


def downgrade() -> None:
    op.drop_table("checkpoint_permissions")
    op.execute("DELETE FROM models WHERE step IS NOT NULL")
    op.drop_index("ix_models_job_step", table_name="models")
    op.drop_column("models", "has_adapter")
    op.drop_column("models", "step")
    op.create_unique_constraint(op.f("uq_models_job_id"), "models", ["job_id"])
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.drop_column("jobs", "result_files")
    op.drop_index("ix_files_expiring", table_name="files")
    op.drop_column("files", "expires_at")
