"""Attempts over several workers: their members, and the slots that wait for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.add_column("jobs", _time("held_at", nullable=True))
    op.add_column("job_attempts", sa.Column("rendezvous", sa.String(255), nullable=True))
    op.add_column("workers", sa.Column("kind", sa.Text(), nullable=True))
    op.create_table(
        "attempt_members",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.Integer(), primary_key=True),
        sa.Column("node", sa.Integer(), primary_key=True),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("slot", sa.String(64), nullable=False),
        _time("lease_until"),
        sa.Column("ready_step", sa.Integer(), nullable=True),
        sa.Column("ending", postgresql.JSONB(), nullable=True),
        _time("ended_at", nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id", "epoch"],
            ["job_attempts.job_id", "job_attempts.epoch"],
            name=op.f("fk_attempt_members_job_id_epoch_job_attempts"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("slot", name=op.f("uq_attempt_members_slot")),
    )
    op.create_index(
        "ix_attempt_members_lease", "attempt_members", ["lease_until"], postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_table(
        "idle_slots",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        _time("until"),
    )


def downgrade() -> None:
    op.drop_table("idle_slots")
    op.drop_table("attempt_members")
    op.drop_column("workers", "kind")
    op.drop_column("job_attempts", "rendezvous")
    op.drop_column("jobs", "held_at")
