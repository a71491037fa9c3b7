"""Claims on runs of evals, their pending rows, and how they end. An expired claim can be taken over.

A row's result, the sums of its run and the usage of its model are written in one transaction under the claim: whatever
kills a worker, no finished row is sampled again, and none counts twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.orm import Session

from app.core.evals.tables import UNFINISHED, Eval, EvalRow, EvalRun, EvalRunStatus
from app.core.inference import usage
from app.core.spec.evals import RowOutcome, SamplerSpec, Totals
from app.core.webhooks import events
from app.core.webhooks.events import EventType

MAX_ATTEMPTS: Final = 3
"""A run that has crashed so often without finishing another row fails."""
_BACKOFF_SECONDS: Final = 5.0
"""After the first crash; three times as long after each further one."""
_CLAIM: Final = text(
    """
    UPDATE eval_runs
    SET status = 'in_progress', attempts = attempts + 1, started_at = coalesce(started_at, now()),
        claimed_until = now() + make_interval(secs => :seconds)
    WHERE id = (
        SELECT id FROM eval_runs
        WHERE status IN ('queued', 'in_progress') AND (claimed_until IS NULL OR claimed_until < now())
        -- The project whose turn was longest ago comes first, so that many runs of one do not keep the others waiting.
        ORDER BY (
            SELECT max(turn.started_at) FROM eval_runs AS turn WHERE turn.project_id = eval_runs.project_id
        ) NULLS FIRST, created_at, id
        FOR UPDATE SKIP LOCKED
        LIMIT 1
    )
    RETURNING id, claimed_until
    """
)


@dataclass(frozen=True)
class EvalClaim:
    """A claim on one run. `until` identifies the claim: each renewal or takeover changes it."""

    run_id: str
    project_id: str
    key_id: str
    attempt: int
    criteria: tuple[dict[str, Any], ...]
    """The graders as JSON."""
    sampler: SamplerSpec | None
    totals: Totals
    until: datetime


def any_due(session: Session) -> bool:
    """Return whether a run is unfinished and no worker holds a claim on it."""
    return session.scalar(select(select(EvalRun.id).where(_is_due()).exists())) is True


def claim_next(session: Session, seconds: float) -> EvalClaim | None:
    """Claim the oldest run that is due for `seconds`, by the database's clock; None if none is due.

    A run whose last permitted attempt was killed fails instead.
    """
    _fail_crashed(session)
    claimed = session.execute(_CLAIM, {"seconds": seconds}).one_or_none()
    if claimed is None:
        return None
    found = select(EvalRun, Eval.testing_criteria).join(Eval, Eval.id == EvalRun.eval_id)
    run, criteria = session.execute(
        found.where(EvalRun.id == claimed.id), execution_options={"populate_existing": True}
    ).one()
    return EvalClaim(
        run_id=run.id,
        project_id=run.project_id,
        key_id=run.key_id,
        attempt=run.attempts,
        criteria=tuple(criteria),
        sampler=None if run.sampler is None else SamplerSpec.model_validate(run.sampler),
        totals=Totals.model_validate(run.totals),
        until=claimed.claimed_until,
    )


def pending(session: Session, run_id: str, after: int, limit: int) -> list[EvalRow]:
    """Return the next unfinished rows after number `after`."""
    rows = select(EvalRow).where(EvalRow.run_id == run_id, EvalRow.status.is_(None), EvalRow.number > after)
    return list(session.scalars(rows.order_by(EvalRow.number).limit(limit)))


def store(session: Session, claim: EvalClaim, outcomes: Sequence[RowOutcome], seconds: float) -> EvalClaim | None:
    """Write finished rows, and extend the claim to `seconds` from now.

    Returns None, without any change, if the run was canceled or deleted, or another worker took over.
    """
    totals = claim.totals
    for outcome in outcomes:
        totals = totals.adding(outcome)
    progress = {"totals": totals.model_dump(mode="json"), "attempts": 1} if outcomes else {}
    until = session.scalar(
        _held(claim).values(claimed_until=_from_now(seconds), **progress).returning(EvalRun.claimed_until),
        execution_options={"synchronize_session": False},
    )
    if until is None:
        return None
    for outcome in outcomes:
        values = {
            "status": str(outcome.status),
            "sample": outcome.sample.model_dump(mode="json"),
            "results": [result.model_dump(mode="json") for result in outcome.results],
            "finished_at": func.now(),
        }
        row = update(EvalRow).where(EvalRow.run_id == claim.run_id, EvalRow.number == outcome.number)
        session.execute(row.values(**values), execution_options={"synchronize_session": False})
    return replace(claim, totals=totals, until=until, attempt=1 if outcomes else claim.attempt)


def count_usage(session: Session, claim: EvalClaim, model: str, outcomes: Sequence[RowOutcome]) -> None:
    """Add the answers of one of this installation's models to the usage of the key that created the run."""
    answered = [outcome.sample.usage for outcome in outcomes if outcome.sample.usage.invocation_count]
    if not answered:
        return
    row = {
        "start": datetime.now(UTC).replace(second=0, microsecond=0),
        "project_id": claim.project_id,
        "key_id": claim.key_id,
        "model": model,
        "requests": sum(used.invocation_count for used in answered),
        "prompt_tokens": sum(used.prompt_tokens for used in answered),
        "completion_tokens": sum(used.completion_tokens for used in answered),
    }
    usage.add_sums(session, [row])


def complete(session: Session, claim: EvalClaim) -> bool:
    """End a run whose rows are all finished. Returns False, without any change, if the claim is lost."""
    return _end(session, claim, EvalRunStatus.completed)


def fail(session: Session, claim: EvalClaim, code: str, message: str) -> bool:
    """End the run with an error. Returns False, without any change, if the claim is lost."""
    return _end(session, claim, EvalRunStatus.failed, error={"code": code, "message": message.replace("\0", "")})


def retry_or_fail(session: Session, claim: EvalClaim, reason: str) -> bool:
    """Queue the run again with backoff, or fail it after its last attempt; `reason` is the end of a sentence."""
    if claim.attempt >= MAX_ATTEMPTS:
        return fail(session, claim, "eval_run_crashed", _crashed(reason))
    return _give_back(session, claim, claim.attempt, _BACKOFF_SECONDS * 3 ** (claim.attempt - 1))


def hand_back(session: Session, claim: EvalClaim, seconds: float) -> bool:
    """Queue the run again, without counting the attempt, to be claimed after `seconds`. False if it is lost."""
    return _give_back(session, claim, claim.attempt - 1, seconds)


def _give_back(session: Session, claim: EvalClaim, attempts: int, seconds: float) -> bool:
    back = _held(claim).values(status=EvalRunStatus.queued, attempts=attempts, claimed_until=_from_now(seconds))
    return session.scalar(back.returning(EvalRun.id), execution_options={"synchronize_session": False}) is not None


def _end(session: Session, claim: EvalClaim, status: EvalRunStatus, **values: Any) -> bool:
    ended = session.scalar(
        _held(claim).values(status=status, claimed_until=None, finished_at=func.now(), **values).returning(EvalRun.id),
        execution_options={"synchronize_session": False},
    )
    if ended is None:
        return False
    _emit(session, claim.project_id, status, ended)
    return True


def _fail_crashed(session: Session) -> None:
    """Fail the runs whose last permitted attempt ended with its worker."""
    over = select(EvalRun).where(
        EvalRun.status == EvalRunStatus.in_progress,
        EvalRun.claimed_until < func.now(),
        EvalRun.attempts >= MAX_ATTEMPTS,
    )
    for run in session.scalars(over.with_for_update(skip_locked=True)):
        run.status, run.claimed_until, run.finished_at = EvalRunStatus.failed, None, func.now()
        run.error = {"code": "eval_run_crashed", "message": _crashed("its worker was killed")}
        _emit(session, run.project_id, EvalRunStatus.failed, run.id)
    session.flush()


def _crashed(reason: str) -> str:
    return f"The run crashed {MAX_ATTEMPTS} times; the last time {reason}. Create it again, or ask an operator."


def _emit(session: Session, project_id: str, status: EvalRunStatus, run_id: str) -> None:
    is_complete = status is EvalRunStatus.completed
    kind = EventType.eval_run_succeeded if is_complete else EventType.eval_run_failed
    events.emit(session, project_id, kind, run_id)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _is_due() -> ColumnElement[bool]:
    free = or_(EvalRun.claimed_until.is_(None), EvalRun.claimed_until < func.now())
    return and_(EvalRun.status.in_(UNFINISHED), free)


def _held(claim: EvalClaim) -> Any:
    held = EvalRun.id == claim.run_id, EvalRun.status == EvalRunStatus.in_progress, EvalRun.claimed_until == claim.until
    return update(EvalRun).where(*held)
