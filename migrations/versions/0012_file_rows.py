"""The rows of Parquet files, and the prompts of files by hash."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("rows_blob", sa.String(255)))
    op.add_column("files", sa.Column("rows_sha256", sa.String(64)))
    op.add_column("files", sa.Column("prompts", sa.LargeBinary()))
    both = "(rows_blob IS NULL) = (rows_sha256 IS NULL)"
    op.create_check_constraint(op.f("ck_files_rows_have_a_digest"), "files", both)


def downgrade() -> None:
    op.drop_constraint(op.f("ck_files_rows_have_a_digest"), "files", type_="check")
    op.drop_column("files", "prompts")
    op.drop_column("files", "rows_sha256")
    op.drop_column("files", "rows_blob")
