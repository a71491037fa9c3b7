"""What a job would be, on the wire."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.core.lint.report import LintReport
from app.core.spec.job import JobSpec
from app.core.spec.plan import Plan


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    code: str | None
    message: str
    param: str | None = Field(description="Dotted path of the field.")


class JobPlan(BaseModel):
    """Every `auto` with its value. Rows that turn out too long are dropped later: it can get a little smaller."""

    model: str
    parameters: int = Field(description="Weights of the base model.")
    rows: int
    held_out_rows: int
    total_steps: int
    learning_rate: float
    method: dict[str, Any] = Field(description="As sent, with defaults and the values of `auto` filled in.")

    @classmethod
    def of(cls, spec: JobSpec, plan: Plan, parameters: int, rows: int, held_out_rows: int) -> "JobPlan":
        """The wire form of a plan."""
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
    """Whether a job could be created as it is."""

    object: Literal["fine_tuning.job.validation"] = "fine_tuning.job.validation"
    valid: bool
    errors: list[Problem]
    warnings: list[Problem] = Field(
        default=[],
        description="What a valid job would better not have: `held_out_overlap`, held-out prompts that are trained on; "
        "`rows_too_long`, rows over `max_length` or the model's own limit; or why its tokenizer cannot be asked.",
    )
    plan: JobPlan | None = Field(
        description="Null if there are errors, and while the training file is validated or the model is not known well "
        "enough."
    )
    lint: LintReport | None = Field(
        default=None,
        description="What the training file's answers would teach; null if there are errors, while the file is "
        "validated, and for jobs whose file is not linted (`GET /v1/fine_tuning/jobs/{id}/lint` would say why).",
    )
