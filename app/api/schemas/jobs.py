"""Bodies of `/v1/fine_tuning/jobs`: OpenAI's object with every required field, and Grouptune's additions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.api.pagination import Item
from app.api.schemas.job_results import (
    ComparisonObject,
    ControlObject,
    GateVerdict,
    shown_control,
    shown_evaluation,
    shown_gates,
)
from app.api.schemas.strict_graders import as_openai
from app.core import ids
from app.core.estimates.estimate import Estimate
from app.core.estimates.measurements import Measured
from app.core.jobs import stored_specs
from app.core.jobs.metric_series import Point
from app.core.jobs.progress import Phase
from app.core.jobs.queries import JobDetails
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Checkpoint, Job, JobEvent
from app.core.jobs.verdicts import Verdict
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.described import Described
from app.core.spec.job import Hyperparameters, JobSpec
from app.core.spec.reports import TrainingPath
from app.core.spec.resources import Resources
from app.core.spec.teacher_answers import Spent


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())


class JobError(Described):
    """Why a job failed."""

    code: str
    """Stable identifier for programs; docs/errors.md lists the codes."""
    message: str
    """What is wrong and how to fix it."""
    param: str | None
    """The field of the job to change; null if none caused the failure."""


class Progress(Described):
    """The progress of a job."""

    step: int
    """The last finished step; 0 before the first one."""
    total_steps: int | None = Field(description="Null until the job has started.")
    eta_seconds: float | None = Field(
        description="Seconds to the end: estimated at first, then extrapolated from the latest steps."
    )
    phase: Phase | None = Field(
        description="What a running job does, null for other jobs. `loading_model` includes the download of a missing "
        "base model and, for `dpo`, the reference log-probabilities. `grading_demonstrations` selects those that pass "
        "the grader. `evaluating_base_model` is the held-out evaluation before the first step, `saving_model` the time "
        "after the last step."
    )
    run_seconds: float | None = Field(
        description="Seconds that workers have run the job, over all attempts. Time in the queue, paused or between "
        "attempts does not count. Null before the first attempt."
    )
    metrics: dict[str, float] = Field(
        description="The metrics `reward`, `rewards/margins` and `loss` of the last step, as far as the job has them."
    )


class RowUse(Described):
    """How many rows of a file a job uses."""

    used: int
    """Rows that the job uses."""
    dropped: dict[str, int] = Field(
        description="Rows that are not used, by reason: `template_refused`, `prompt_too_long`, `answer_too_long`, "
        "`no_answer` or `demonstration_rejected`."
    )


class JobObject(Item):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int = Field(description="Unix seconds.")
    finished_at: int | None = Field(description="Set for succeeded, failed and cancelled jobs.")
    estimated_finish: int | None
    """Unix seconds at which the job is expected to end; null if that is not known."""
    model: str
    """The model that training starts from."""
    fine_tuned_model: str | None = Field(description="Set for succeeded jobs.")
    organization_id: str = Field(description="The project that the job belongs to.")
    status: str = Field(description="One of OpenAI's states, or `paused`.")
    training_file: str
    """The file with the rows to learn from."""
    validation_file: str | None
    """The file with the held-out rows; null without one."""
    test_file: str | None
    """The file with the held-out rows that report; null if half of the validation file does."""
    result_files: list[str]
    """Ids of the result files, a CSV table of metrics by step; empty until the job is finished."""
    hyperparameters: dict[str, Any] = Field(description="`auto` until the job has started, then the actual values.")
    trained_tokens: int | None
    """Tokens that the loss counted, over all steps; null until the job is finished."""
    teacher_usage: Spent | None = Field(
        description="What all attempts have spent on the job's teacher; null before the first request."
    )
    error: JobError | None
    """Why the job failed; null unless it did."""
    seed: int
    """Seed of the data order, the rollouts and the adapter's first values."""
    integrations: list[Any] | None = Field(description="Trackers that also receive the metrics.")
    method: dict[str, Any] = Field(description="As sent, with defaults filled in.")
    metadata: dict[str, str] | None
    """Your own key-value pairs."""
    user_provided_suffix: str | None
    """The `suffix` of the request."""
    progress: Progress
    """How far training has come."""
    queue_position: int | None = Field(
        description="1 for the job that starts next; null unless queued, and while the job waits for its control."
    )
    waiting_for: str | None = Field(
        description="Why no worker takes a queued job yet; null for other jobs, and if one may take it at any moment."
    )
    priority: int = Field(
        description="Jobs with a higher priority start first and may preempt a running job with a lower one."
    )
    attempt: int = Field(description="Number of times that a worker has started the job.")
    evaluation: dict[str, Any] | None = Field(
        description="`before` and `after`: results on the held-out rows that report, with 95 % `intervals` and their "
        "number of `rows`. `history`: evaluations during training, on the other held-out rows, which select the "
        "adapter (`selection_rows` is their number; 0 if they are too few to be split). Sample answers, and the lines "
        "of both kinds of rows, are in finished jobs, and in others with `samples=true`; lists leave them out."
    )
    verdict: Verdict | None = Field(
        description="Whether the trained model is better than the one that training started from, on held-out rows "
        "that did not select it. `no_change`: the 95 % interval of the difference includes 0. Null until training is "
        "finished, and if the job has no held-out rows; `comparison` says why."
    )
    comparison: ComparisonObject | None = Field(
        description="The numbers behind the verdict; null until training is finished."
    )
    control: ControlObject | None = Field(
        description="A job with another method on the same rows that this job is compared with; null without one."
    )
    control_of: str | None = Field(description="The job whose control this job is; null for all other jobs.")
    gates: list[GateVerdict] = Field(
        description="Conditions on the held-out results that must hold for the job to succeed."
    )
    alias: str | None = Field(description="Alias that names the trained model once the job has succeeded.")
    chat_template_kwargs: dict[str, Any] = Field(description="Variables of the model's chat template.")
    resources: Resources = Field(description="The workers that the job needs.")
    rows: RowUse | None = Field(
        description="Rows of the training file; null until they are rendered with the model's chat template. For a "
        "model that is not on the server yet, that is when the job starts."
    )
    held_out_rows: RowUse | None = Field(description="Rows of the validation file, in the same way.")
    test_rows: RowUse | None = Field(description="Rows of the test file, in the same way.")
    demonstrations: GradedDemonstrations | None = Field(
        description="Grades of the demonstrations, for jobs that train only those that pass (`demonstrations` "
        "`graded`); null before a worker grades them, and for other jobs."
    )
    training_path: TrainingPath | None = Field(
        description="How the job computes log-probabilities of its model, and why; null until the model is loaded."
    )
    estimate: Estimate | None = Field(
        description="Estimated time, memory and tokens; null until the job's files and model are available."
    )
    measured: Measured | None = Field(description="Measured time, memory and tokens; set when training is finished.")
    stop_request: str | None = Field(
        description="`cancel` or `pause`: requested while a worker trains; the worker stops at its next step. "
        "`preempt`: a job with a higher priority is about to replace it."
    )
    paused: bool = Field(description="True if the status is `paused`, for clients whose enum lacks that value.")

    @classmethod
    def of(cls, details: JobDetails, *, strict: bool, samples: Mapping[str, Any] | None = None) -> "JobObject":
        """Return the wire form; `strict` uses only OpenAI's enum values. Without `samples` evaluations have none."""
        job, eta, finish = details.job, details.eta_seconds, details.estimated_finish
        spec = stored_specs.read_to_show(job.id, job.spec)
        paused = job.status == JobStatus.paused
        return cls(
            id=job.id,
            created_at=_unix(job.created_at),
            finished_at=_unix(job.finished_at) if job.finished_at else None,
            estimated_finish=None if finish is None else round(finish),
            model=spec.model,
            fine_tuned_model=job.fine_tuned_model,
            organization_id=job.project_id,
            status="queued" if strict and paused else job.status,
            training_file=job.training_file,
            validation_file=job.validation_file,
            test_file=job.test_file,
            result_files=job.result_files,
            hyperparameters=_hyperparameters(job, spec.hyperparameters),
            trained_tokens=job.trained_tokens,
            teacher_usage=None if job.teacher_usage is None else Spent.model_validate(job.teacher_usage),
            error=JobError.model_validate(job.error) if job.error else None,
            seed=spec.seed,
            integrations=_integrations(spec, strict=strict),
            method=_method(spec, strict=strict),
            metadata=spec.metadata,
            user_provided_suffix=spec.suffix,
            progress=Progress(
                step=job.step,
                total_steps=job.total_steps,
                eta_seconds=eta,
                phase=details.phase,
                run_seconds=details.run_seconds,
                metrics=details.values,
            ),
            queue_position=details.queue_position,
            waiting_for=details.waiting_for,
            priority=job.priority,
            attempt=job.attempt,
            evaluation=shown_evaluation(job.evaluation, samples),
            verdict=None if job.verdict is None else Verdict(job.verdict),
            comparison=None if job.comparison is None else ComparisonObject.model_validate(job.comparison),
            control=shown_control(job, spec, details.control),
            control_of=job.control_of,
            gates=shown_gates(job, spec),
            alias=spec.alias,
            chat_template_kwargs=spec.chat_template_kwargs,
            resources=spec.resources,
            rows=_rows(job, "rows"),
            held_out_rows=_rows(job, "held_out_rows"),
            test_rows=_rows(job, "test_rows"),
            demonstrations=None
            if job.demonstrations is None
            else GradedDemonstrations.model_validate(job.demonstrations),
            training_path=None if job.training_path is None else TrainingPath.model_validate(job.training_path),
            estimate=None if job.estimate is None else Estimate.model_validate(job.estimate),
            measured=None if job.measured is None else Measured.model_validate(job.measured),
            stop_request=job.stop_request,
            paused=paused,
        )


def _rows(job: Job, name: str) -> RowUse | None:
    found = (job.rows or {}).get(name)
    return None if found is None else RowUse.model_validate(found)


def _integrations(spec: JobSpec, *, strict: bool) -> list[dict[str, Any]] | None:
    shown = [item.model_dump(mode="json") for item in spec.integrations if not strict or item.type == "wandb"]
    return shown or None


def _hyperparameters(job: Job, requested: Hyperparameters) -> dict[str, Any]:
    resolved = job.hyperparameters or {}
    names = ("batch_size", "learning_rate_multiplier", "n_epochs")
    return {name: resolved.get(name, getattr(requested, name)) for name in names}


def _method(spec: JobSpec, *, strict: bool) -> dict[str, Any]:
    kind = str(spec.method)
    settings = spec.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    if kind == "gft" and (strict or spec.typed_form):
        typed = {name: settings[name] for name in ("grader", "hyperparameters")}
        return _typed({"type": "reinforcement", "reinforcement": typed, "gft": settings}, strict=strict)
    if kind == "dft" and strict:
        return {"type": "supervised", "supervised": settings, "dft": settings}
    return _typed({"type": kind, kind: settings}, strict=strict)


def _typed(method: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Show strict clients a grader of OpenAI's types; `method.grader` is then the whole one."""
    if not strict or method["type"] != "reinforcement":
        return method
    settings = method["reinforcement"]
    grader = settings["grader"]
    typed = as_openai(grader)
    return method if typed == grader else method | {"reinforcement": settings | {"grader": typed}, "grader": grader}


class EventObject(Item):
    """An event of a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    """Unix seconds."""
    level: Literal["info", "warn", "error"]
    """How serious the event is."""
    message: str
    """What happened, in one sentence."""
    type: Literal["message", "metrics"]
    """`metrics`: `data` has the metrics of one step. `message`: all other events."""
    data: dict[str, Any] | None
    """Details for programs; null without any."""

    @classmethod
    def of(cls, event: JobEvent) -> "EventObject":
        """Return the wire form of a row."""
        return cls.model_validate(
            {
                "id": event.id,
                "created_at": _unix(event.created_at),
                "level": event.level,
                "message": event.message,
                "type": event.type,
                "data": event.data,
            }
        )


class CheckpointObject(Item):
    """A checkpoint from which training can resume."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    """Unix seconds."""
    fine_tuned_model_checkpoint: str
    """Name of the checkpoint, for inference and download."""
    fine_tuning_job_id: str
    """The job."""
    step_number: int
    """The step after which the checkpoint was written."""
    metrics: dict[str, Any] = Field(description="OpenAI's `step` and `train_loss`, and all other metrics of that step.")

    @classmethod
    def of(cls, checkpoint: Checkpoint, job: Job, project: str) -> "CheckpointObject":
        """Return the wire form of a row. Its name starts with the name of the job's model, published or not."""
        spec = stored_specs.read_to_show(job.id, job.spec)
        model = ids.fine_tuned_model(ids.base_of(spec.model), project, spec.suffix, job.id)
        return cls(
            id=checkpoint.id,
            created_at=_unix(checkpoint.created_at),
            fine_tuned_model_checkpoint=ids.checkpoint_model(model, checkpoint.step),
            fine_tuning_job_id=job.id,
            step_number=checkpoint.step,
            metrics={"step": checkpoint.step, "train_loss": checkpoint.metrics.get("loss")} | checkpoint.metrics,
        )


class MetricSeries(Described):
    """Metrics by step, one list per name; null where a step has no such metric or its value is not a number."""

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    """The job."""
    steps: list[int]
    """The steps of the values in `series`."""
    series: dict[str, list[float | None]]
    """Values by name of the metric, in the order of `steps`."""
    is_sampled: bool = Field(description="Whether steps were left out because of `points`.")

    @classmethod
    def of(cls, job_id: str, points: list[Point], names: list[str], *, is_sampled: bool) -> "MetricSeries":
        """Return the series called `names`, or all series if `names` is empty."""
        all_names = sorted({name for _, values in points for name in values})
        return cls(
            job_id=job_id,
            steps=[step for step, _ in points],
            series={name: [values.get(name) for _, values in points] for name in (names or all_names)},
            is_sampled=is_sampled,
        )


class GroupList(Described):
    """Groups of one or several steps."""

    object: Literal["list"] = "list"
    job_id: str
    """The job."""
    step: int | None = Field(description="Null for a range of steps, and if the job has recorded no groups yet.")
    steps: list[int] = Field(description="The latest steps that have groups, at most 10,000.")
    data: list[dict[str, Any]] = Field(
        description="Prompt and members. Each member has its source, text, reward, advantage and share of rectified "
        "tokens."
    )
    has_more: bool
    """Whether more groups follow."""
    first_id: str | None
    """Id of the first group of this page; null if the page is empty."""
    last_id: str | None
    """Id of the last group of this page, for `after`; null if the page is empty."""

    @classmethod
    def of(
        cls, job_id: str, step: int | None, steps: list[int], groups: list[dict[str, Any]], more: bool
    ) -> "GroupList":
        """Return the wire form of a page."""
        ends = (groups[0]["id"], groups[-1]["id"]) if groups else (None, None)
        return cls(job_id=job_id, step=step, steps=steps, data=groups, has_more=more, first_id=ends[0], last_id=ends[1])


class JobDeleted(Described):
    """The job is deleted."""

    id: str
    """The job."""
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    deleted: Literal[True] = True
