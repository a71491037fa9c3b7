"""Usage of inference by minute, project, key and model, and the limit of a project's inference requests in flight."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inference_usage",
        sa.Column("start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(16), primary_key=True),
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_inference_usage_project", "inference_usage", ["project_id", "start"])
    op.add_column("projects", sa.Column("max_inference_requests", sa.Integer(), nullable=True))
    op.create_check_constraint("max_inference_requests", "projects", "max_inference_requests >= 0")


def downgrade() -> None:
    op.drop_column("projects", "max_inference_requests")
    op.drop_index("ix_inference_usage_project", "inference_usage")
    op.drop_table("inference_usage")
