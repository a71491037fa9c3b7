"""Controls: a second job with another method on the same rows, which a job is compared with.

The control trains first, and its job starts once the control has ended. So the comparison is known when the job ends:
its gates can depend on it, and no finished job changes. A transaction that locks both locks the job before its control.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from app.core.jobs import stored_specs
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job
from app.core.spec.job import JobSpec

_ENDED: Final = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_CONTROL: Final = aliased(Job)


def waits_sql(job: str) -> str:
    """Return the SQL condition that the job of the table `job` waits for its control."""
    return (
        f"EXISTS (SELECT FROM jobs AS control WHERE control.control_of = {job}.id AND control.status NOT IN ({_ENDED}))"
    )


def waits() -> ColumnElement[bool]:
    """Return the condition that a job of the query waits for its control."""
    return (
        select(_CONTROL.id)
        .where(_CONTROL.control_of == Job.id, _CONTROL.status.not_in(TERMINAL))
        .correlate(Job)
        .exists()
    )


def control_of(session: Session, job_id: str) -> Job | None:
    """Return the control of a job; None for a job without one, or if it was deleted."""
    return session.scalars(select(Job).where(Job.control_of == job_id)).one_or_none()


def budget_of(session: Session, job: Job) -> JobSpec | None:
    """Return the spec of the job that decides the budget of a control; None for a job that is no control."""
    compared = None if job.control_of is None else session.get(Job, job.control_of)
    return None if compared is None else stored_specs.read(compared.id, compared.spec)


def lock_unfinished(session: Session, job_id: str) -> Job | None:
    """Return the unfinished control of a job, whose row the caller holds, with its own row locked."""
    statement = select(Job).where(Job.control_of == job_id).with_for_update(key_share=True)
    control = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    return None if control is None or control.status in TERMINAL else control


def controls_of(session: Session, job_ids: Collection[str]) -> dict[str, Job]:
    """Return job id -> its control, of the jobs that have one."""
    found = session.scalars(select(Job).where(Job.control_of.in_(job_ids))) if job_ids else ()
    return {control.control_of: control for control in found if control.control_of is not None}
