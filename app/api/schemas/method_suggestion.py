"""Bodies of `/v1/files/{id}/suggested_method`."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from app.core.lint import method_choice
from app.core.lint.report import LintReport
from app.core.spec.described import Described
from app.core.spec.graders import BaseGrader, Grader
from app.core.spec.job import MethodType


class SuggestMethod(Described):
    """The grader that decides which answers are good."""

    model_config = ConfigDict(extra="forbid")

    grader: Grader | None = Field(default=None, description="Without it, the grader that is suggested for the file.")
    remote: bool = Field(
        default=False,
        description="Allow graders that call another server (judges, endpoints). Each answer costs a request.",
    )


class MethodSuggestion(Described):
    """A method that fits the file."""

    method: MethodType
    """The method."""
    demonstrations: Literal["all", "graded"] = Field(
        description="`graded`: train only the demonstrations that pass the grader."
    )
    reason: str
    """Why the method fits, in one sentence."""


class SuggestedMethod(Described):
    """The methods that fit a data file."""

    object: Literal["file.suggested_method"] = "file.suggested_method"
    file_id: str
    """The file."""
    suggestions: list[MethodSuggestion]
    """Best first; docs/method.md has the rules."""
    grader: dict[str, Any] | None = Field(description="The grader that was used; null if none was sent or suggested.")
    graded: str | None = Field(description="The rows whose answers were graded; null if none were.")
    offer: str | None = Field(
        description="Offers to train without the demonstrations that do not pass; null if all or none pass."
    )

    @classmethod
    def of(
        cls,
        file_id: str,
        suggestions: Sequence[method_choice.MethodSuggestion],
        grader: BaseGrader | None,
        lint: LintReport | None,
    ) -> "SuggestedMethod":
        """Return the wire form of suggestions."""
        return cls(
            file_id=file_id,
            suggestions=[MethodSuggestion(**one._asdict()) for one in suggestions],
            grader=None if grader is None else grader.as_written(),
            graded=None if lint is None or not lint.rows_graded else lint.sample,
            offer=None if lint is None else lint.offer(),
        )
