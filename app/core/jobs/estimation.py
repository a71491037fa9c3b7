"""Estimates of jobs from their files, models, workers and earlier jobs, and measurements of finished jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, UnusableTokenizer, load
from app.core.db import Database
from app.core.errors import GrouptuneError, InvalidRequest
from app.core.estimates import measurements
from app.core.estimates.calibration import Observation
from app.core.estimates.cost import Seconds
from app.core.estimates.estimate import PlannedJob, Texts, estimate
from app.core.estimates.measurements import Measured
from app.core.estimates.worker_fit import Forecast, forecast
from app.core.estimates.workload import Data
from app.core.files.reading import sample_rows
from app.core.files.tables import File
from app.core.files.validation_report import FileReport
from app.core.jobs import controls, stored_specs
from app.core.jobs.leases import Claim, update_owned
from app.core.jobs.placement import hardware_for
from app.core.jobs.queries import job_file, job_of_project
from app.core.jobs.tables import Job, JobAttempt
from app.core.lint.report import LintReport
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.models.registry import BaseModel
from app.core.models.shape import Shape, shape_of
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.hardware import Hardware
from app.core.spec.job import ImitationMethod, JobSpec, PreferenceMethod
from app.core.spec.plan import resolve
from app.core.spec.rows import Row, answer_text
from app.core.storage.blobs import BlobMissing, BlobStore
from app.core.workers.presence import list_workers

log = structlog.get_logger(__name__)

JOBS: Final = 200
"""Estimates are fitted to this number of the latest finished jobs."""
MESSAGE_CHARACTERS: Final = 20
"""Characters that a chat template adds to a message."""


class FilesNotProcessed(GrouptuneError):
    """The data files of the job are not validated yet. Wait until their status is `processed`."""

    status = 409
    type = "invalid_request_error"
    code = "file_not_processed"


@dataclass(frozen=True)
class JobFiles:
    """The data files of a job."""

    training: File
    validation: File | None
    test: File | None = None


def files_of(session: Session, project_id: str, files: Mapping[str, str]) -> JobFiles:
    """Return the files of a job, given by parameter. Raises `InvalidRequest` for a deleted file."""
    found = {param: job_file(session, project_id, file_id, param) for param, file_id in files.items()}
    return JobFiles(found["training_file"], found.get("validation_file"), found.get("test_file"))


def plan_job(
    store: BlobStore,
    spec: JobSpec,
    base_model: str,
    files: JobFiles,
    models_dir: Path,
    passing_share: float | None = None,
    budget_of: JobSpec | None = None,
) -> PlannedJob:
    """Collect the inputs of an estimate. It reads files, so call it outside of transactions.

    `passing_share` is that of the demonstrations, for a job that trains only those that pass its grader; None while it
    is not known. Then all of them count. `budget_of` is the job that decides the budget of a control.

    Raises `FilesNotProcessed` before the files are validated, and `InvalidRequest` for a model of unknown size or a
    deleted file.
    """
    training = _report(files.training)
    held_out, test = (0 if file is None else _report(file).rows for file in (files.validation, files.test))
    model = registry.resolve(base_model, models_dir)
    shape = _shape(model)
    rows, answered = _trained_rows(training, spec, passing_share)
    budget = None
    if budget_of is not None:
        compared, _ = _trained_rows(training, budget_of, passing_share)
        budget = resolve(budget_of, rows=compared, parameters=shape.active)
    return PlannedJob(
        spec=spec,
        base_model=base_model,
        plan=resolve(spec, rows=rows, parameters=shape.active, budget=budget),
        data=Data(
            rows=rows,
            held_out_rows=held_out,
            test_rows=test,
            expert_share=answered / rows,
            teachers_a_row=training.teacher_responses.total / training.rows,
            graded_first=training.expert_rows if spec.grades_demonstrations else 0,
        ),
        texts=_texts(_rows(store, files.training, training), _tokenizer(model.directory, spec), spec),
        shape=shape,
        passing_share=passing_share if spec.grades_demonstrations else None,
    )


def _trained_rows(training: FileReport, spec: JobSpec, passing_share: float | None) -> tuple[int, float]:
    """Return the number of rows that a job trains, and of those with an answer of their own."""
    rows, answered = training.rows, float(_rows_with_answers(training, spec))
    if spec.grades_demonstrations:
        answered *= 1.0 if passing_share is None else passing_share
        if isinstance(spec.settings, ImitationMethod):  # the other rows are left out
            rows = max(1, round(answered))
            answered = rows
    return rows, answered


def passing_share(job: Job) -> float | None:
    """Return the share of a job's demonstrations that pass its grader, as a worker or the lint found it."""
    if job.demonstrations is not None:
        grades = GradedDemonstrations.model_validate(job.demonstrations)
        if grades.is_complete and grades.total:
            return grades.passed / grades.total
    return None if job.lint is None else LintReport.model_validate(job.lint).passing_share


def _report(file: File) -> FileReport:
    if file.report is None:
        raise FilesNotProcessed
    return FileReport.model_validate(file.report)


def try_plan(
    store: BlobStore,
    spec: JobSpec,
    base_model: str,
    files: JobFiles,
    models_dir: Path,
    passing_share: float | None = None,
    budget_of: JobSpec | None = None,
) -> PlannedJob | None:
    """Return the inputs of an estimate, or None: no job fails because it cannot be estimated."""
    try:
        return plan_job(store, spec, base_model, files, models_dir, passing_share, budget_of)
    except GrouptuneError as error:
        log.info("estimate.none", reason=error.message)
        return None


def on_workers(session: Session, planned: PlannedJob, alive_seconds: float) -> Forecast:
    """Forecast the job on the workers that are alive and have enough GPUs for it."""
    trains = [worker for worker in list_workers(session, alive_seconds) if worker.trains]
    fitting = [(worker.worker.name, hardware_for(planned.spec.resources, worker.hardware)) for worker in trains]
    nodes = planned.spec.resources.nodes
    candidates = [(name, one.giving(one.processes * nodes)) for name, one in fitting if one is not None]
    return forecast(planned, candidates, observations(session))


def note(
    database: Database,
    store: BlobStore,
    models_dir: Path,
    alive_seconds: float,
    project_id: str,
    job_id: str,
    share: float | None = None,
) -> None:
    """Store an estimate with a new job, unless it has one or its inputs are not known yet.

    `share` is the `passing_share` of `plan_job`.
    """
    try:
        with database.transaction() as session:
            job = job_of_project(session, project_id, job_id)
            spec = stored_specs.read(job.id, job.spec)
            base_model, _ = starting_point(session, project_id, spec.model, models_dir)
            files, budget_of = files_of(session, project_id, job.files), controls.budget_of(session, job)
        planned = plan_job(store, spec, base_model, files, models_dir, share, budget_of)
        with database.transaction() as session:
            new_estimate = on_workers(session, planned, alive_seconds).estimate
            session.execute(
                update(Job)
                .where(Job.id == job_id, Job.estimate.is_(None))
                .values(estimate=new_estimate.model_dump(mode="json")),
                execution_options={"synchronize_session": False},
            )
    except GrouptuneError as error:  # the worker that claims the job makes the estimate
        log.info("estimate.none", job=job_id, reason=error.message)


def store_for_worker(session: Session, claim: Claim, planned: PlannedJob, hardware: Hardware) -> None:
    """Replace the estimate of a claimed job with one for its worker's device. Raises `LostLease`."""
    stored = session.scalar(select(Job.estimate).where(Job.id == claim.job_id))
    knows_share = stored is not None and stored["based_on"].get("passing_share") is not None
    lacks_share = planned.passing_share is not None and not knows_share
    if stored is None or stored["device"] != hardware.device or lacks_share:
        new_estimate = estimate(planned, hardware, observations(session))
        update_owned(session, claim, estimate=new_estimate.model_dump(mode="json"))


def _shape(model: BaseModel) -> Shape:
    shape = shape_of(model)
    if shape is None:
        raise InvalidRequest(
            f"The size of the base model '{model.name}' is unknown: {model.directory} has no readable safetensors.",
            param="model",
            code="model_size_unknown",
        )
    return shape


def _rows(store: BlobStore, file: File, report: FileReport) -> list[Row]:
    blob, _ = file.rows
    try:
        with store.open(blob) as stream:
            return sample_rows(stream, report)
    except BlobMissing as error:
        raise InvalidRequest(error.message, param="training_file", code="invalid_file") from error


def _texts(rows: Sequence[Row], tokenizer: ChatTokenizer | None, spec: JobSpec) -> Texts:
    """Return mean sizes in tokens if the model's tokenizer is on this machine, else in characters."""

    def size(text: str) -> int:
        return len(text) if tokenizer is None else tokenizer.count(text)

    def context(row: Row) -> int:
        if tokenizer is None:
            return sum(len(message["content"] or "") + MESSAGE_CHARACTERS for message in row.prompt_messages)
        try:
            return len(tokenizer.prompt_ids(row.prompt_messages, row.tools))
        except TemplateRefused:
            return 0

    trained = [_trained_texts(row, spec) for row in rows]
    experts = [sum(map(size, texts)) for texts in trained if texts]
    if isinstance(spec.settings, PreferenceMethod):
        experts = [size(answer_text(answer)) for row in rows for answer in row.preference or ()]
    # Earlier turns that are trained stand in the context, but are counted as answers.
    prompts = [max(0, context(row) - sum(map(size, texts[:-1]))) for row, texts in zip(rows, trained, strict=True)]
    teachers = [size(answer.content) for row in rows for answer in row.teacher]
    unit: Literal["characters", "tokens"] = "characters" if tokenizer is None else "tokens"
    return Texts(_mean(prompts), _mean(experts), _mean(teachers), unit)


def _trained_texts(row: Row, spec: JobSpec) -> list[str]:
    """Return the texts of a row's answers that the job trains."""
    if spec.train_turns == "all":
        return [answer_text(row.messages[index]) for index in row.trained]
    return [] if row.expert is None else [row.expert]


def _rows_with_answers(report: FileReport, spec: JobSpec) -> int:
    """Return the number of rows with an answer of their own that the job trains."""
    if isinstance(spec.settings, PreferenceMethod):
        return report.preference_rows
    every = report.trained_rows if spec.train_turns == "all" and not spec.grades_demonstrations else None
    return report.expert_rows if every is None else every


def _tokenizer(directory: Path, spec: JobSpec) -> ChatTokenizer | None:
    try:
        return load(directory).using(spec.chat_template_kwargs)
    except UnusableTokenizer:
        return None


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def observations(session: Session) -> list[Observation]:
    """Return the measurements of the latest finished jobs of all projects."""
    is_measured = (Job.measured.is_not(None), Job.finished_at.is_not(None))
    latest = select(Job.measured).where(*is_measured).order_by(Job.finished_at.desc()).limit(JOBS)
    return [Measured.model_validate(measured).observation for measured in session.scalars(latest)]


_REPORTED: Final = text(
    """
    SELECT count(*) AS steps,
           sum(CAST(values->>'gft/timing/rollout' AS float8)) AS rollout,
           sum(CAST(values->>'gft/timing/grading' AS float8)) AS grading,
           sum(CAST(values->>'gft/timing/update' AS float8)) AS update,
           sum(CAST(values->>'step_time' AS float8)) AS steps_seconds,
           max(CAST(values->>'gft/peak_memory_bytes' AS float8)) AS peak_memory,
           (SELECT trained_tokens FROM jobs WHERE id = :job_id) AS trained_tokens,
           avg(CAST(values->>'gft/prompt_length' AS float8)) AS prompt,
           avg(coalesce(
               CAST(values->>'gft/expert/length' AS float8),
               (CAST(values->>'gft/preferred/length' AS float8)
                   + CAST(values->>'gft/non_preferred/length' AS float8)) / 2
           )) AS expert,
           avg(CAST(values->>'gft/teacher/length' AS float8)) AS teacher,
           avg(CAST(values->>'gft/self/length' AS float8)) AS own
    FROM metrics WHERE job_id = :job_id AND step > 0
    """
)


def store_measured(session: Session, claim: Claim, planned: PlannedJob, hardware: Hardware) -> None:
    """Store what a job that ends now has taken, for later estimates. Raises `LostLease`."""
    if (measured := measure(session, claim.job_id, planned, hardware)) is not None:
        update_owned(session, claim, measured=measured.model_dump(mode="json"))


def measure(session: Session, job_id: str, planned: PlannedJob, hardware: Hardware) -> Measured | None:
    """Return what the job has taken until now; None if it reported no step."""
    reported = session.execute(_REPORTED, {"job_id": job_id}).one()
    if reported.steps == 0:
        return None
    took = func.coalesce(JobAttempt.ended_at, func.now()) - JobAttempt.started_at
    setup = JobAttempt.training_at - JobAttempt.started_at
    attempts = session.execute(
        select(took.label("took"), setup.label("setup")).where(JobAttempt.job_id == job_id)
    ).all()
    seconds = sum(attempt.took.total_seconds() for attempt in attempts)
    # With several attempts the parts are unknown: steps that a later attempt repeated are stored once.
    parts = None
    if len(attempts) == 1 and attempts[0].setup is not None and reported.steps_seconds is not None:
        before = attempts[0].setup.total_seconds()
        rest = max(0.0, seconds - before - reported.steps_seconds)
        parts = Seconds(before, reported.rollout or 0.0, reported.grading or 0.0, reported.update or 0.0, rest)
    planned = measurements.shortened(planned, reported.steps)
    means = {name: getattr(reported, name) for name in ("prompt", "expert", "teacher", "own")}
    lengths = measurements.mean_lengths(planned, means)
    return Measured.of(
        planned,
        hardware,
        attempts=len(attempts),
        seconds=seconds,
        parts=parts,
        lengths=lengths,
        trained_tokens=reported.trained_tokens,
        peak_memory=reported.peak_memory,
    )
