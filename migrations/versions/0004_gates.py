"""Gates of jobs and aliases of models."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("gates", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_table(
        "model_aliases",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name=op.f("fk_model_aliases_model_models")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_model_aliases_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", "name", name=op.f("pk_model_aliases")),
    )
    op.create_index(op.f("ix_model_aliases_model"), "model_aliases", ["model"])


def downgrade() -> None:
    op.drop_table("model_aliases")
    op.drop_column("jobs", "gates")
