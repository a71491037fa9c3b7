"""Ends of attempts by their owner. Each function runs in one transaction and raises `LostLease` for a lost lease.

A client may cancel or pause the job just before its attempt ends for another reason. Each function therefore locks the
job's row and does what the client asked. Only success ends a job that should pause, and only a permanent error ends
one that should be cancelled.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import Project
from app.core.files.uploads import ReceivedFile
from app.core.jobs import control_comparisons, gates, results, verdicts
from app.core.jobs.attempts import charge_crash, close_attempt, fail_running, obeys_client
from app.core.jobs.control_comparisons import ControlComparison
from app.core.jobs.events import Event, Level, append
from app.core.jobs.gates import GateResult
from app.core.jobs.leases import Claim, lost
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.tables import Job
from app.core.jobs.transitions import transition
from app.core.jobs.verdicts import Comparison, Verdict
from app.core.jobs.waits import wait_or_give_up
from app.core.models import aliases
from app.core.models.tables import TrainedModel
from app.core.plurals import plural
from app.core.spec.reports import Finished

Ending = Callable[[Session], object]
"""A function of this module with its arguments: it ends an attempt in the session's transaction."""

_RUNNING: Final = frozenset({JobStatus.running})


def succeed(
    session: Session, claim: Claim, finished: Finished, blob: str, base_model: str, metrics_csv: ReceivedFile
) -> str | None:
    """Publish the adapter stored below `blob` and the result file, end the job, and return the model's id.

    A job fails if one of its gates fails. Its model is kept, but not published as `fine_tuned_model`. A job that a
    client has cancelled ends without a model: returns None.
    """
    job = _lock_owned(session, claim)
    if job.stop_request == StopRequest.cancel:
        stop(session, claim, StopRequest.cancel)
        return None
    project = session.scalars(select(Project.name).where(Project.id == claim.project_id)).one()
    model = ids.fine_tuned_model(base_model, project, claim.spec.suffix, claim.job_id)
    gate_results = gates.decide(session, job, finished.published_step)
    verdict, comparison = verdicts.decide(job, finished.published_step)
    against = control_comparisons.compare(session, job, finished.published_step)
    session.add(
        TrainedModel(id=model, project_id=claim.project_id, job_id=claim.job_id, base_model=base_model, blob=blob)
    )
    results.add_file(session, claim.project_id, metrics_csv)
    written: dict[str, Any] = {
        "result_files": [metrics_csv.file_id],
        "step": finished.step,
        "trained_tokens": finished.trained_tokens,
        "verdict": verdict,
        "comparison": asdict(comparison),
    }
    if gate_results:
        written["gates"] = [asdict(result) for result in gate_results]
    events = [_verdict_event(verdict, comparison)]
    if against is not None:
        written["control_comparison"] = asdict(against)
        events.append(_control_event(against))
    append(session, claim.job_id, *events, *map(_gate_event, gate_results))
    if failed := [result for result in gate_results if not result.passed]:
        reasons = "; ".join(f"{result.gate}: {result.reason}" for result in failed)
        message = f"{len(failed)} of {plural(len(gate_results), 'gate')} failed. {reasons}. The model is kept: {model}."
        fail_running(session, job, "gate_failed", message, param="gates", **written)
    else:
        _publish(session, claim, finished, model, written)
    close_attempt(session, claim.job_id, claim.attempt, AttemptOutcome.succeeded, None)
    return model


def _publish(session: Session, claim: Claim, finished: Finished, model: str, written: dict[str, Any]) -> None:
    session.flush()
    published = {"fine_tuned_model": model, "step": finished.published_step, "reason": finished.reason}
    events = [Event(f"New fine-tuned model created: {model}", data=published)]
    if (name := claim.spec.alias) is not None:
        alias = aliases.find_alias(session, claim.project_id, name)
        before = None if alias is None else audit.snapshot(alias, "model")
        aliases.move(session, claim.project_id, name, model)
        actor = Actor(claim.project_id)
        audit.record(session, actor, Action.alias_move, name, before=before, after={"model": model})
        events.append(Event(f"The alias {name} now points to {model}", data={"alias": name, "before": before}))
    events.append(Event("The job has successfully completed"))
    transition(
        session,
        claim.job_id,
        _RUNNING,
        JobStatus.succeeded,
        *events,
        fine_tuned_model=model,
        **written,
    )


def _verdict_event(verdict: Verdict | None, comparison: Comparison) -> Event:
    title = "Verdict" if verdict is None else f"Verdict {verdict.replace('_', ' ')}"
    data = {"verdict": verdict, "comparison": asdict(comparison)}
    level: Level = "warn" if verdict is Verdict.worse else "info"
    return Event(f"{title}: {comparison.reason}", level=level, data=data)


def _control_event(against: ControlComparison) -> Event:
    level: Level = "warn" if against.verdict is None or against.verdict is Verdict.worse else "info"
    return Event(against.reason, level=level, data={"control": asdict(against)})


def _gate_event(result: GateResult) -> Event:
    summary = f"{result.gate} ({result.reason})"
    data = {"gate": asdict(result)}
    if result.passed:
        return Event(f"Gate passed: {summary}", data=data)
    return Event(f"Gate failed: {summary}", level="warn", data=data)


def fail(session: Session, claim: Claim, code: str, message: str, param: str | None = None) -> None:
    """Fail the job with an error that a retry would not fix."""
    job = _lock_owned(session, claim)
    close_attempt(session, claim.job_id, claim.attempt, AttemptOutcome.failed, message)
    fail_running(session, job, code, message, param=param)


def crash(session: Session, claim: Claim, reason: str, log_tail: str) -> None:
    """Charge one crash: the job is queued again after a backoff, or fails once its crash budget is used up."""
    charge_crash(session, _lock_owned(session, claim), AttemptOutcome.crashed, reason, log_tail)


def wait_for_dependency(session: Session, claim: Claim, reason: str, rows: Collection[int] = ()) -> None:
    """Queue the job again, or fail it if it has waited for too long; see `waits.wait_or_give_up`."""
    job = _lock_owned(session, claim)
    if not obeys_client(session, job, AttemptOutcome.dependency_down, reason):
        wait_or_give_up(session, job, reason, rows)


def gpu_fault(session: Session, claim: Claim, reason: str, log_tail: str) -> None:
    """Charge one crash: a job that breaks GPUs must not reach all of them."""
    charge_crash(session, _lock_owned(session, claim), AttemptOutcome.gpu_fault, reason, log_tail)


def drain(session: Session, claim: Claim) -> None:
    """Requeue the job because its worker shuts down: to the front of the queue, without a crash."""
    event = Event("The worker is shutting down. Another worker will resume the job.")
    _requeue(session, claim, event, AttemptOutcome.drained, "The worker shut down")


def preempt(session: Session, claim: Claim) -> None:
    """Requeue the job for a job of a higher priority: to the front of its own priority, without a crash."""
    event = Event("Preempted by a higher-priority job. It will resume from its last checkpoint.")
    _requeue(session, claim, event, AttemptOutcome.preempted, "Preempted by a higher-priority job")


def _requeue(session: Session, claim: Claim, event: Event, outcome: AttemptOutcome, reason: str) -> None:
    if obeys_client(session, _lock_owned(session, claim), outcome, reason):
        return
    transition(
        session,
        claim.job_id,
        _RUNNING,
        JobStatus.queued,
        event,
        eligible_at=Job.created_at,
    )
    close_attempt(session, claim.job_id, claim.attempt, outcome, reason)


def stop(session: Session, claim: Claim, request: StopRequest) -> None:
    """End the attempt as the stop request says, or as a stronger request that the runner does not know yet."""
    job = _lock_owned(session, claim)
    if job.stop_request and StopRequest(job.stop_request).outranks(request):
        request = StopRequest(job.stop_request)
    match request:
        case StopRequest.drain:
            drain(session, claim)
            return
        case StopRequest.preempt:
            preempt(session, claim)
            return
        case StopRequest.cancel:
            target, outcome, message = JobStatus.cancelled, AttemptOutcome.cancelled, "The job was cancelled"
        case StopRequest.pause:
            target, outcome = JobStatus.paused, AttemptOutcome.paused
            message = "The job is paused. Resume it to continue from its last checkpoint."
    transition(session, claim.job_id, _RUNNING, target, Event(message))
    close_attempt(session, claim.job_id, claim.attempt, outcome, None)


def _lock_owned(session: Session, claim: Claim) -> Job:
    """Return the job with its row locked. Raises `LostLease` if the attempt no longer owns it."""
    job = session.scalars(
        select(Job)
        .where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == JobStatus.running)
        .with_for_update(),
        execution_options={"populate_existing": True},
    ).one_or_none()
    if job is None:
        raise lost(claim)
    return job
