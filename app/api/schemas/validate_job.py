"""Bodies of `/v1/fine_tuning/jobs/validate`."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from app.api.schemas.jobs import RowUse
from app.core.lint.report import LintReport
from app.core.spec.described import Described
from app.core.spec.job import JobSpec, PreferenceMethod
from app.core.spec.plan import Plan


class ValidationProblem(Described):
    """A problem of a request."""

    code: str | None
    """Stable identifier for programs; docs/errors.md lists the codes."""
    message: str
    """What is wrong and how to fix it."""
    param: str | None = Field(description="Dotted path of the field.")


class JobPlan(Described):
    """Every `auto`, resolved. Steps can shrink a little if rows are rendered later: some may be dropped."""

    model: str
    """The model that training starts from."""
    parameters: int = Field(description="Number of parameters of the base model.")
    rows: int
    """Rows of the training file that are used."""
    held_out_rows: int
    """Rows of the validation file that are used."""
    total_steps: int
    """Number of optimiser steps."""
    learning_rate: float
    """The method's base learning rate times the multiplier."""
    method: dict[str, Any] = Field(description="As sent, with defaults and resolved `auto` values.")

    @classmethod
    def of(cls, spec: JobSpec, plan: Plan, parameters: int, rows: int, held_out_rows: int) -> "JobPlan":
        """Return the wire form of a plan."""
        decided = asdict(plan) | {"eval_samples": min(plan.eval_samples, held_out_rows)}
        total_steps, learning_rate = decided.pop("total_steps"), decided.pop("learning_rate")
        settings = spec.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        settings["hyperparameters"] |= decided
        if isinstance(spec.settings, PreferenceMethod):
            settings["hyperparameters"]["beta"] = spec.settings.hyperparameters.resolved_beta
        return cls(
            model=spec.model,
            parameters=parameters,
            rows=rows,
            held_out_rows=held_out_rows,
            total_steps=total_steps,
            learning_rate=learning_rate,
            method={"type": str(spec.method), str(spec.method): settings},
        )


class Validation(Described):
    """Whether the job could be created."""

    object: Literal["fine_tuning.job.validation"] = "fine_tuning.job.validation"
    valid: bool
    """Whether the job could be created."""
    errors: list[ValidationProblem]
    """What prevents the job from being created."""
    warnings: list[ValidationProblem] = Field(
        default=[],
        description="Flaws of a valid job: `held_out_overlap`, held-out prompts that are trained on, or test prompts "
        "that are also in the validation file; "
        "`rows_too_long` or `rows_dropped`, more than a tenth of the rows cannot be used; `answers_left_out`, "
        "`parts_left_out`, `tools_left_out` or `tool_calls_left_out`, something is missing of rows that are used; "
        "`rows_not_rendered` or `model_not_pulled`, what could not be checked yet; `ignored_field`, settings without "
        "effect; `converted_field`, OpenAI's settings that have another form here.",
    )
    rows: RowUse | None = Field(
        default=None,
        description="Rows of the training file that the job uses. Null while the file is not validated, and if its "
        "rows are rendered later (see `warnings`).",
    )
    held_out_rows: RowUse | None = Field(default=None, description="Rows of the validation file, in the same way.")
    test_rows: RowUse | None = Field(default=None, description="Rows of the test file, in the same way.")
    plan: JobPlan | None = Field(
        description="Null if the job has errors, while the training file is not validated, and if the model's size is "
        "unknown."
    )
    lint: LintReport | None = Field(
        default=None,
        description="Lint report of the training file. Null if the job has errors, while the file is not "
        "validated, and for jobs whose file is not linted (`GET /v1/fine_tuning/jobs/{id}/lint` says why).",
    )
