"""Evals, their runs, and the rows of the runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def _time(name: str, *, has_default: bool = False) -> sa.Column[object]:
    default = sa.text("now()") if has_default else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not has_default)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, postgresql.JSONB(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "evals",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        _json("data_source_config"),
        _json("testing_criteria"),
        _json("labels", nullable=True),
        _time("created_at", has_default=True),
        _time("updated_at", has_default=True),
    )
    op.create_index("ix_evals_project_created", "evals", ["project_id", "created_at", "id"])
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("eval_id", sa.String(64), sa.ForeignKey("evals.id", ondelete="CASCADE"), nullable=False),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        _json("labels", nullable=True),
        _json("data_source"),
        _json("sampler", nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("claimed_until"),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows_sha256", sa.String(64), nullable=False),
        _json("totals"),
        _json("error", nullable=True),
        _time("created_at", has_default=True),
        _time("started_at"),
        _time("finished_at"),
        sa.CheckConstraint("status IN ('queued', 'in_progress', 'completed', 'failed', 'canceled')", name="status"),
        sa.CheckConstraint(
            "(status IN ('queued', 'in_progress')) = (finished_at IS NULL)", name="finished_iff_terminal"
        ),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
    )
    op.create_index("ix_eval_runs_eval", "eval_runs", ["eval_id", "created_at", "id"])
    op.create_index("ix_eval_runs_project", "eval_runs", ["project_id"])
    op.create_index(
        "ix_eval_runs_unfinished",
        "eval_runs",
        ["created_at"],
        postgresql_where=sa.text("status IN ('queued', 'in_progress')"),
    )
    op.create_table(
        "eval_rows",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        _json("item"),
        _json("given", nullable=True),
        sa.Column("status", sa.String(8), nullable=True),
        _json("sample", nullable=True),
        _json("results", nullable=True),
        _time("finished_at"),
        sa.CheckConstraint("status IN ('pass', 'fail', 'error')", name="status"),
        sa.CheckConstraint("(status IS NULL) = (finished_at IS NULL)", name="finished_iff_status"),
    )
    op.create_index(
        "ix_eval_rows_pending", "eval_rows", ["run_id", "number"], postgresql_where=sa.text("status IS NULL")
    )


def downgrade() -> None:
    for table in ("eval_rows", "eval_runs", "evals"):
        op.drop_table(table)
