"""Bodies of `/v1/fine_tuning/jobs/validate`."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.core.lint.report import LintReport
from app.core.spec.job import JobSpec
from app.core.spec.plan import Plan


class ValidationProblem(BaseModel):
    """A problem of a request."""

    code: str | None
    message: str
    param: str | None = Field(description="Dotted path of the field.")


class JobPlan(BaseModel):
    """Every `auto`, resolved. The number of steps can shrink a little: rows that are too long are dropped later."""

    model: str
    parameters: int = Field(description="Number of parameters of the base model.")
    rows: int
    held_out_rows: int
    total_steps: int
    learning_rate: float
    method: dict[str, Any] = Field(description="As sent, with defaults and resolved `auto` values.")

    @classmethod
    def of(cls, spec: JobSpec, plan: Plan, parameters: int, rows: int, held_out_rows: int) -> "JobPlan":
        """Return the wire form of a plan."""
        decided = asdict(plan)
        total_steps, learning_rate = decided.pop("total_steps"), decided.pop("learning_rate")
        settings = spec.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        settings["hyperparameters"] |= decided
        return cls(
            model=spec.model,
            parameters=parameters,
            rows=rows,
            held_out_rows=held_out_rows,
            total_steps=total_steps,
            learning_rate=learning_rate,
            method={"type": str(spec.method), str(spec.method): settings},
        )


class Validation(BaseModel):
    """Whether the job could be created."""

    object: Literal["fine_tuning.job.validation"] = "fine_tuning.job.validation"
    valid: bool
    errors: list[ValidationProblem]
    warnings: list[ValidationProblem] = Field(
        default=[],
        description="Flaws of a valid job: `held_out_overlap`, held-out prompts that are also trained on; "
        "`rows_too_long`, rows over `max_length` or the model's own limit; `ignored_field`, settings without "
        "effect; `converted_field`, OpenAI's settings that have another form here; or why the model's tokenizer cannot "
        "be used.",
    )
    plan: JobPlan | None = Field(
        description="Null if the job has errors, while the training file is not validated, and if the model's size is "
        "unknown."
    )
    lint: LintReport | None = Field(
        default=None,
        description="Lint report of the training file. Null if the job has errors, while the file is not "
        "validated, and for jobs whose file is not linted (`GET /v1/fine_tuning/jobs/{id}/lint` says why).",
    )
