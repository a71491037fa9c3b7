"""Runs of evals, their output items and comparisons, as clients see them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from app.api.pagination import Item
from app.core.evals import runs
from app.core.evals.comparison import PairedMeans, RunComparison
from app.core.evals.tables import EvalRow, EvalRun, EvalRunStatus
from app.core.spec.described import Described
from app.core.spec.evals import CriterionResult, ModelUsage, RowSample, RowStatus, SamplerSpec, Totals


class EvalError(Described):
    """An error. For strict clients both fields are empty where there is none: the SDK's type is never null."""

    code: str
    """Stable identifier for programs."""
    message: str
    """What is wrong and how to fix it."""


def _error(found: Mapping[str, Any] | None, *, strict: bool) -> EvalError | None:
    if found is None:
        return EvalError(code="", message="") if strict else None
    return EvalError(code=found["code"], message=found["message"])


class ResultCounts(Described):
    """Finished rows by result."""

    total: int
    """Finished rows."""
    passed: int
    """Rows that passed all criteria."""
    failed: int
    """Rows that did not pass one criterion, and had an error in none."""
    errored: int
    """Rows without an answer, or whose answer could not be graded."""


class CriterionCountsObject(Described):
    """Finished rows of one criterion by result."""

    testing_criteria: str
    """Name of the criterion."""
    passed: int
    """Answers that passed."""
    failed: int
    """Answers that did not pass."""
    errored: int
    """Rows without an answer, or whose answer could not be graded."""


class ModelUsageObject(Described):
    """Usage of one model: the sampler, or a judge."""

    run_model_name: str = Field(alias="model_name")
    """The model."""
    invocation_count: int
    """Answers."""
    prompt_tokens: int
    """Tokens of prompts."""
    completion_tokens: int
    """Tokens of answers."""
    total_tokens: int
    """Both together."""
    cached_tokens: int
    """Tokens of prompts that a server had cached."""

    @classmethod
    def of(cls, model: str, used: ModelUsage) -> "ModelUsageObject":
        """Return the wire form."""
        counts = used.model_dump() | {"total_tokens": used.prompt_tokens + used.completion_tokens}
        return cls(model_name=model, **counts)


class EvalRunObject(Item):
    """A run of an eval. Poll it until `status` is `completed`, `failed` or `canceled`."""

    object: Literal["eval.run"] = "eval.run"
    eval_id: str
    """The eval."""
    name: str
    """Its name."""
    model: str
    """The model that answers; empty for a run that grades stored answers."""
    status: EvalRunStatus
    """The state of the run."""
    data_source: dict[str, Any]
    """The rows, and where their answers come from."""
    rows: int
    """Rows to finish; `result_counts.total` of them are finished."""
    result_counts: ResultCounts
    """Finished rows by result."""
    per_testing_criteria_results: list[CriterionCountsObject]
    """Finished rows by criterion and result."""
    per_model_usage: list[ModelUsageObject]
    """Usage by model."""
    report_url: str
    """The run in the dashboard."""
    error: EvalError | None
    """Why the run failed; null unless it did."""
    metadata: dict[str, str] | None
    """Keys and values of the client."""
    created_at: int
    """Unix seconds."""
    started_at: int | None
    """Unix seconds; null until a worker has started it."""
    finished_at: int | None
    """Unix seconds; null until it has ended."""

    @classmethod
    def of(
        cls, run: EvalRun, dashboard: str, *, strict: bool, content: list[dict[str, Any]] | None = None
    ) -> "EvalRunObject":
        """Return the run as clients see it. `dashboard` is the dashboard's URL, and `content` the rows to show."""
        totals, source = Totals.model_validate(run.totals), run.data_source
        if content is not None:
            source = source | {"source": source["source"] | {"content": content}}
        return cls(
            id=run.id,
            eval_id=run.eval_id,
            name=run.name,
            model=(run.sampler or {}).get("model", ""),
            status=EvalRunStatus(run.status),
            data_source=source,
            rows=run.rows,
            result_counts=ResultCounts(
                total=totals.total, passed=totals.passed, failed=totals.failed, errored=totals.errored
            ),
            per_testing_criteria_results=[
                CriterionCountsObject(
                    testing_criteria=counts.name, passed=counts.passed, failed=counts.failed, errored=counts.errored
                )
                for counts in totals.criteria
            ],
            per_model_usage=[ModelUsageObject.of(model, used) for model, used in totals.usage.items()],
            report_url=f"{dashboard}/evals/{run.eval_id}/runs/{run.id}",
            error=_error(run.error, strict=strict),
            metadata=run.labels,
            created_at=int(run.created_at.timestamp()),
            started_at=None if run.started_at is None else int(run.started_at.timestamp()),
            finished_at=None if run.finished_at is None else int(run.finished_at.timestamp()),
        )


class EvalRunDeleted(Described):
    """The run and its rows are deleted."""

    object: Literal["eval.run.deleted"] = "eval.run.deleted"
    deleted: Literal[True] = True
    run_id: str
    """The run."""


class CriterionResultObject(Described):
    """One criterion's result on a row."""

    name: str
    """Name of the criterion."""
    type: str
    """Type of the criterion."""
    passed: bool
    """Whether the answer passed."""
    score: float | None
    """The reward; null if the answer could not be graded, for strict clients 0."""
    error: str | None
    """Why the answer could not be graded."""

    @classmethod
    def of(cls, result: CriterionResult, *, strict: bool) -> "CriterionResultObject":
        """Return the wire form."""
        score = 0.0 if strict and result.score is None else result.score
        return cls(name=result.name, type=result.type, passed=result.passed, score=score, error=result.error)


class SampleUsage(Described):
    """Tokens of an answer."""

    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Tokens of the answer."""
    total_tokens: int
    """Both together."""
    cached_tokens: int
    """Tokens of the prompt that a server had cached."""


class SampleObject(Described):
    """A row's answer, and how it was sampled."""

    model: str
    """The model that answered; empty for a stored answer."""
    input: list[dict[str, Any]]
    """The messages that the model was sent."""
    output: list[dict[str, Any]]
    """The answer as an assistant message; empty without an answer."""
    finish_reason: str
    """`stop`, `length` or `tool_calls`; empty without an answer."""
    usage: SampleUsage
    """Tokens of the answer."""
    error: EvalError | None
    """Why there is no answer; null unless there is none."""
    temperature: float
    """Sampling temperature."""
    top_p: float
    """See the run's `sampling_params`."""
    seed: int
    """Seed of the sampling."""
    max_completion_tokens: int
    """The limit that the run sets; 0 without one."""

    @classmethod
    def of(cls, sample: RowSample, sampler: SamplerSpec | None, *, strict: bool) -> "SampleObject":
        """Return the wire form."""
        used = sample.usage
        return cls(
            model=sample.model,
            input=[_plain(message) if strict else message for message in sample.input],
            output=list(sample.output),
            finish_reason=sample.finish_reason,
            usage=SampleUsage(
                prompt_tokens=used.prompt_tokens,
                completion_tokens=used.completion_tokens,
                total_tokens=used.prompt_tokens + used.completion_tokens,
                cached_tokens=used.cached_tokens,
            ),
            error=_error(None if sample.error is None else sample.error.model_dump(), strict=strict),
            temperature=1.0 if sampler is None else sampler.temperature,
            top_p=1.0 if sampler is None else sampler.top_p,
            seed=0 if sampler is None else sampler.seed,
            max_completion_tokens=0 if sampler is None else sampler.max_completion_tokens or 0,
        )


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is text, as the SDK's type requires; a call of tools alone has none."""
    return message if message.get("content") is not None else message | {"content": ""}


class OutputItemObject(Item):
    """A finished row of a run."""

    object: Literal["eval.run.output_item"] = "eval.run.output_item"
    eval_id: str
    """The eval."""
    run_id: str
    """The run."""
    datasource_item_id: int
    """Number of the row in the data source, from 1."""
    datasource_item: dict[str, Any]
    """The row's item."""
    status: RowStatus
    """`pass`: all criteria passed. `fail`: one did not. `error`: no answer, or one that could not be graded."""
    results: list[CriterionResultObject]
    """One result for each criterion; empty without an answer."""
    sample: SampleObject
    """The answer."""
    created_at: int
    """Unix seconds, when the row was finished."""

    @classmethod
    def of(cls, run: EvalRun, row: EvalRow, *, strict: bool) -> "OutputItemObject":
        """Return the wire form of a finished row."""
        assert row.status is not None  # noqa: S101 - only finished rows are shown
        assert row.finished_at is not None  # noqa: S101
        sampler = None if run.sampler is None else SamplerSpec.model_validate(run.sampler)
        results = [CriterionResult.model_validate(result) for result in row.results or ()]
        return cls(
            id=runs.item_id(run.id, row.number),
            eval_id=run.eval_id,
            run_id=run.id,
            datasource_item_id=row.number,
            datasource_item=row.item,
            status=RowStatus(row.status),
            results=[CriterionResultObject.of(result, strict=strict) for result in results],
            sample=SampleObject.of(RowSample.model_validate(row.sample), sampler, strict=strict),
            created_at=int(row.finished_at.timestamp()),
        )


class PairedMeansObject(Described):
    """One number of both runs, and the 95 % interval of the paired difference."""

    name: str
    """`pass_rate`, or the name of the criterion whose mean score it is."""
    baseline: float
    """Mean of the baseline."""
    run: float
    """Mean of the run."""
    difference: float
    """Mean of run - baseline over the rows."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    """Upper end."""
    rows: int
    """Rows with a result in both runs."""

    @classmethod
    def of(cls, means: PairedMeans) -> "PairedMeansObject":
        """Return the wire form."""
        found = means.difference
        return cls(
            name=means.name,
            baseline=means.baseline,
            run=means.run,
            difference=found.mean,
            low=found.low,
            high=found.high,
            rows=found.rows,
        )


class ChangedRowObject(Described):
    """A row that one run passed and the other did not."""

    datasource_item_id: int
    """Number of the row, from 1."""
    baseline: RowStatus
    """The baseline's result."""
    run: RowStatus
    """The run's result."""
    baseline_item_id: str
    """The baseline's output item."""
    run_item_id: str
    """The run's output item."""


class RunComparisonObject(Described):
    """How a run differs from a baseline on the same rows."""

    object: Literal["eval.run.comparison"] = "eval.run.comparison"
    eval_id: str
    """The eval."""
    run_id: str
    """The run."""
    baseline_id: str
    """The run that it is compared with."""
    rows: int
    """Rows of each run."""
    errored_rows: int
    """Rows with an error in either run, which count in no mean."""
    pass_rate: PairedMeansObject | None
    """Share of rows that pass; null if no row has a result in both runs."""
    criteria: list[PairedMeansObject]
    """Mean scores by criterion."""
    gained: int
    """Rows that only the run passed."""
    lost: int
    """Rows that only the baseline passed."""
    changed: list[ChangedRowObject]
    """The first of these rows."""

    @classmethod
    def of(cls, baseline: EvalRun, run: EvalRun, found: RunComparison) -> "RunComparisonObject":
        """Return the wire form."""
        return cls(
            eval_id=run.eval_id,
            run_id=run.id,
            baseline_id=baseline.id,
            rows=found.rows,
            errored_rows=found.errored_rows,
            pass_rate=None if found.pass_rate is None else PairedMeansObject.of(found.pass_rate),
            criteria=[PairedMeansObject.of(means) for means in found.criteria],
            gained=found.gained,
            lost=found.lost,
            changed=[
                ChangedRowObject(
                    datasource_item_id=row.number,
                    baseline=row.baseline,
                    run=row.run,
                    baseline_item_id=runs.item_id(baseline.id, row.number),
                    run_item_id=runs.item_id(run.id, row.number),
                )
                for row in found.changed
            ],
        )
