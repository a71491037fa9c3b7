"""The members of an attempt: the further workers of a job that several train. The worker of the attempt leads them.

Each member has a lease of its own. When one expires, a sweep ends the attempt, and all its workers lose the job.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.jobs import stored_specs
from app.core.jobs.gangs import Slot
from app.core.jobs.leases import Claim, lost, update_owned
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import AttemptMember, Job, JobAttempt
from app.core.spec.frozen import Frozen
from app.core.spec.reports import Failed, TrainerExit


class MemberEnd(Frozen):
    """How the trainer of a member ended, or why it did not start."""

    exit_code: int
    """That of the trainer, or the `TrainerExit` that fits the reason."""
    failed: Failed | None = None
    log_tail: str = ""


@dataclass(frozen=True)
class Member:
    """A member as the leader sees it."""

    node: int
    worker: str
    ready_step: int | None
    """Step of the checkpoint that it resumes from, 0 for the beginning; None while it prepares."""
    end: MemberEnd | None
    """How its trainer ended; None while it runs."""

    @property
    def failed(self) -> bool:
        """Whether its trainer ended without success; a stop request counts too."""
        return self.end is not None and self.end.exit_code != TrainerExit.succeeded

    @property
    def lost_peer(self) -> bool:
        """Whether its trainer failed only because another one had."""
        return self.end is not None and self.end.exit_code == TrainerExit.peer_lost


def claim_of(session: Session, slot: Slot) -> Claim | None:
    """Return the claim that another worker has made for this slot; None if its attempt is over."""
    row = session.execute(
        select(Job, AttemptMember, JobAttempt.processes)
        .join(AttemptMember, (AttemptMember.job_id == Job.id) & (AttemptMember.attempt == Job.attempt))
        .join(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.attempt == Job.attempt))
        .where(AttemptMember.slot == slot.id, Job.status == JobStatus.running),
        execution_options={"populate_existing": True},
    ).one_or_none()
    if row is None:
        return None
    job, member, processes = row
    return Claim(
        job.id,
        job.project_id,
        job.attempt,
        stored_specs.read(job.id, job.spec),
        job.training_file,
        job.validation_file,
        job.test_file,
        job.created_at,
        processes=processes // job.nodes,
        nodes=job.nodes,
        node=member.node,
    )


def heartbeat(session: Session, claim: Claim, lease_seconds: float) -> StopRequest | None:
    """Extend the lease of a member and return the job's stop request, if any. Raises `LostLease`."""
    extended = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    statement = (
        update(AttemptMember)
        .where(*_own(claim), AttemptMember.ended_at.is_(None))
        .where(Job.id == AttemptMember.job_id, Job.attempt == AttemptMember.attempt, Job.status == JobStatus.running)
        .values(lease_until=extended)
        .returning(Job.stop_request)
    )
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise lost(claim)
    return StopRequest(row.stop_request) if row.stop_request else None


def note_ready(session: Session, claim: Claim, step: int) -> None:
    """Store that a member has its inputs and resumes from the checkpoint of `step`. Raises `LostLease`."""
    _update(session, claim, ready_step=step)


def note_end(session: Session, claim: Claim, end: MemberEnd) -> None:
    """Store how the trainer of a member ended. Raises `LostLease`."""
    _update(session, claim, ending=end.model_dump(mode="json"), ended_at=func.now())


def publish(session: Session, claim: Claim, endpoint: str) -> None:
    """Store the address at which the trainers meet. Raises `LostLease`."""
    update_owned(session, claim, attempt=claim.attempt)
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == claim.job_id, JobAttempt.attempt == claim.attempt)
        .values(rendezvous=endpoint),
        execution_options={"synchronize_session": False},
    )


def endpoint_of(session: Session, claim: Claim) -> str | None:
    """Return the address at which the trainers meet; None until all members are ready."""
    attempt = (JobAttempt.job_id == claim.job_id, JobAttempt.attempt == claim.attempt)
    return session.scalar(select(JobAttempt.rendezvous).where(*attempt))


def members_of(session: Session, claim: Claim) -> list[Member]:
    """Return the members of an attempt by node."""
    rows = session.scalars(
        select(AttemptMember)
        .where(AttemptMember.job_id == claim.job_id, AttemptMember.attempt == claim.attempt)
        .order_by(AttemptMember.node),
        execution_options={"populate_existing": True},
    )
    ends = MemberEnd.model_validate
    return [
        Member(row.node, row.worker, row.ready_step, None if row.ending is None else ends(row.ending)) for row in rows
    ]


def _own(claim: Claim) -> tuple[Any, ...]:
    return (
        AttemptMember.job_id == claim.job_id,
        AttemptMember.attempt == claim.attempt,
        AttemptMember.node == claim.node,
    )


def _update(session: Session, claim: Claim, **values: Any) -> None:
    statement = (
        update(AttemptMember).where(*_own(claim), AttemptMember.ended_at.is_(None)).values(**values)
    ).returning(AttemptMember.node)
    if session.execute(statement, execution_options={"synchronize_session": False}).one_or_none() is None:
        raise lost(claim)
