"""An index of files by content: uploads look for a file that the project already has."""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_files_project_sha256", "files", ["project_id", "sha256"])


def downgrade() -> None:
    op.drop_index("ix_files_project_sha256", "files")
