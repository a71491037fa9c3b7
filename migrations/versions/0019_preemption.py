"""The project limit for priorities, and more values for attempt outcomes and worker states."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

OUTCOMES = "'succeeded', 'failed', 'cancelled', 'paused', 'drained'"
FORMER = f"outcome IN ({OUTCOMES}, 'crashed', 'lost_lease')"
NOW = f"outcome IN ({OUTCOMES}, 'preempted', 'dependency_down', 'crashed', 'gpu_fault', 'lost_lease')"


def upgrade() -> None:
    op.add_column("projects", sa.Column("max_priority", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_projects_max_priority"), "projects", "max_priority BETWEEN -100 AND 100")
    op.create_check_constraint(op.f("ck_jobs_priority"), "jobs", "priority BETWEEN -100 AND 100")
    _check("jobs", "stop_request", "stop_request IN ('cancel', 'pause', 'preempt')")
    _check("job_attempts", "outcome", NOW)
    _check("workers", "state", "state IN ('ready', 'draining', 'quarantined')")


def downgrade() -> None:
    op.execute("DELETE FROM workers WHERE state = 'quarantined'")
    _check("workers", "state", "state IN ('ready', 'draining')")
    op.execute("UPDATE jobs SET stop_request = NULL WHERE stop_request = 'preempt'")
    op.execute("UPDATE job_attempts SET outcome = 'drained' WHERE outcome = 'preempted'")
    op.execute("UPDATE job_attempts SET outcome = 'crashed' WHERE outcome IN ('dependency_down', 'gpu_fault')")
    _check("job_attempts", "outcome", FORMER)
    _check("jobs", "stop_request", "stop_request IN ('cancel', 'pause')")
    op.drop_constraint(op.f("ck_jobs_priority"), "jobs")
    op.drop_column("projects", "max_priority")


def _check(table: str, name: str, condition: str) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
