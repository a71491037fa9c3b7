"""The journal: writes a trainer's reports in batches, each in one transaction that only the job's owner can commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from sqlalchemy import text, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.core import ids
from app.core.db import Database
from app.core.jobs import checkpoints, evaluations, leases, metric_series
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.events import Event, append, dump, metrics_event
from app.core.jobs.leases import Claim, lost
from app.core.jobs.tables import Job
from app.core.spec.reports import DemonstrationsGraded, Evaluated, Groups, Message, Metrics, Started, TeacherAnswers
from app.core.teachers import answer_cache

# Guard and write in one statement. The UPDATE matches only while this attempt (`epoch`) owns the running job.
# The INSERT takes its job id from the updated row, so after a lost lease it inserts nothing. A step beyond all earlier
# steps is progress and resets the budgets of crashes and waits. A resumed attempt overwrites repeated steps.
#
# The rows are one JSON parameter, because psycopg would escape every quote of an array of texts, which is slower than
# everything else here.
_METRICS: Final = text(
    """
    WITH owned AS (
        UPDATE jobs
        SET crashes = CASE WHEN :last > step THEN 0 ELSE crashes END,
            waiting_since = CASE WHEN :last > step THEN NULL ELSE waiting_since END,
            failing_rows = CASE WHEN :last > step THEN NULL ELSE failing_rows END, step = greatest(step, :last),
            trained_tokens = greatest(trained_tokens, CAST(:trained_tokens AS bigint))
        WHERE id = :job_id AND epoch = :epoch AND status = 'running'
        RETURNING id
    )
    INSERT INTO metrics (job_id, step, values)
    SELECT owned.id, new.step, new.values
    FROM owned, jsonb_to_recordset(CAST(:rows AS jsonb)) AS new(step int, values jsonb)
    ON CONFLICT (job_id, step) DO UPDATE SET values = excluded.values, created_at = now()
    """
)
_GROUPS: Final = text(
    """
    INSERT INTO groups (job_id, step, idx, record)
    SELECT CAST(:job_id AS text), new.step, new.idx, new.record
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new(step int, idx int, record jsonb)
    ON CONFLICT (job_id, step, idx) DO UPDATE SET record = excluded.record
    """
)
Writable = Started | DemonstrationsGraded | Metrics | Groups | Message | TeacherAnswers | StoredCheckpoint | Evaluated


@dataclass(frozen=True)
class JournalEntry:
    """A report with the id of its event, so that writing it again cannot duplicate the event."""

    report: Writable
    event_id: str = field(default_factory=ids.event_id)


class Journal:
    """The journal of one attempt. All methods raise `LostLease` once the attempt no longer owns the job."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database = database
        self._claim = claim
        self._total_steps: int | None = None

    def record(self, entries: Sequence[JournalEntry]) -> list[str]:
        """Write the entries in order in one transaction. After an error, all of them may be written again.

        Returns the blobs of checkpoints that newer ones replaced, for the caller to delete after the commit.
        """
        obsolete: list[str] = []
        if not entries:
            return obsolete
        with self._database.transaction() as session:
            leases.hold(session, self._claim)
            # Consecutive reports of one kind are one batch, so the order of the reports and of their events is kept.
            for kind, run in groupby(entries, key=lambda entry: type(entry.report)):
                batch = list(run)
                if kind is Metrics:
                    self._metrics(session, [entry.report for entry in batch if isinstance(entry.report, Metrics)])
                elif kind is Groups:
                    self._groups(session, [entry.report for entry in batch if isinstance(entry.report, Groups)])
                else:
                    for entry in batch:
                        obsolete += self._single(session, entry.report)
                events = (self._event(entry) for entry in batch)
                append(session, self._claim.job_id, *(event for event in events if event is not None))
        return obsolete

    def metrics(self, reports: Sequence[Metrics]) -> None:
        """Write the values of steps and append one event a step."""
        self.record([JournalEntry(report) for report in reports])

    def message(self, report: Message) -> None:
        """Append an event."""
        self.record([JournalEntry(report)])

    def _metrics(self, session: Session, reports: list[Metrics]) -> None:
        by_step = {report.step: report for report in reports}
        written = session.execute(
            _METRICS,
            {
                **self._key,
                "last": max(by_step),
                "trained_tokens": max(report.trained_tokens for report in reports),
                "rows": dump([{"step": step, "values": report.values} for step, report in by_step.items()]),
            },
        )
        if written.rowcount == 0:  # type: ignore[attr-defined] # a text() INSERT has a CursorResult
            raise lost(self._claim)
        metric_series.refresh_rollups(session, self._claim.job_id, min(by_step), max(by_step))

    def _groups(self, session: Session, reports: list[Groups]) -> None:
        records = {(report.step, group.idx): group for report in reports for group in report.groups}
        rows = [
            {"step": step, "idx": idx, "record": record.model_dump(mode="json")}
            for (step, idx), record in records.items()
        ]
        session.execute(_GROUPS, {"job_id": self._claim.job_id, "rows": dump(rows)})

    def _single(self, session: Session, report: Writable) -> list[str]:
        if isinstance(report, StoredCheckpoint):
            return checkpoints.record(session, self._claim, report)
        if isinstance(report, Started):
            self._started(session, report)
        elif isinstance(report, DemonstrationsGraded):
            self._demonstrations(session, report)
        elif isinstance(report, Evaluated):
            evaluations.store(session, self._claim, report)
        elif isinstance(report, TeacherAnswers):
            leases.update_owned(session, self._claim, teacher_usage=report.spent.model_dump())
            answer_cache.store(session, self._claim.project_id, report.answers)
        return []

    def _started(self, session: Session, report: Started) -> None:
        self._total_steps = report.total_steps
        leases.update_owned(
            session,
            self._claim,
            total_steps=report.total_steps,
            hyperparameters={
                "batch_size": report.batch_size,
                "learning_rate_multiplier": report.learning_rate_multiplier,
                "n_epochs": report.n_epochs,
            },
            **({"rows": report.rows} if report.rows else {}),
            training_path=None if report.path is None else report.path.model_dump(),
        )
        leases.note_training(session, self._claim, report.resumed_from_step)

    def _demonstrations(self, session: Session, report: DemonstrationsGraded) -> None:
        # The first report has no grades: those of another version of the job's rows do not count.
        rejected = type_coerce(list(report.rejected), JSONB)
        lines = Job.rejected_lines.op("||")(rejected) if report.counts.graded else rejected
        counts = report.counts.model_dump()
        leases.update_owned(session, self._claim, demonstrations=counts, rejected_lines=lines)

    @property
    def _key(self) -> dict[str, Any]:
        return {"job_id": self._claim.job_id, "epoch": self._claim.attempt}

    def _event(self, entry: JournalEntry) -> Event | None:
        report = entry.report
        if isinstance(report, Metrics):
            return metrics_event(report, self._total_steps, entry.event_id) if report.step > 0 else None
        if isinstance(report, Message):
            return Event(report.message, report.level, "message", report.data, entry.event_id)
        if isinstance(report, StoredCheckpoint):
            return Event(f"Checkpoint created at step {report.step}", data={"step": report.step}, id=entry.event_id)
        if isinstance(report, Evaluated):
            return evaluations.event_of(report, entry.event_id)
        if isinstance(report, Started) and report.resumed_from_step > 0:
            return Event(f"Resumed from the checkpoint at step {report.resumed_from_step}", id=entry.event_id)
        return None
