"""Teacher keys, teacher answers, and what a job has spent on its teacher."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("jobs", sa.Column("teacher_usage", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_table(
        "teacher_keys",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("origin", sa.String(length=512), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_teacher_keys_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teacher_keys")),
        sa.UniqueConstraint("project_id", "origin", name=op.f("uq_teacher_keys_project_id_origin")),
    )
    op.create_table(
        "teacher_answers",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("provider", sa.String(length=255), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("answered_at", moment, nullable=False),
        sa.Column("used_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_teacher_answers_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_teacher_answers")),
    )
    op.create_index("ix_teacher_answers_used", "teacher_answers", ["used_at"])


def downgrade() -> None:
    op.drop_table("teacher_answers")
    op.drop_table("teacher_keys")
    op.drop_column("jobs", "teacher_usage")
