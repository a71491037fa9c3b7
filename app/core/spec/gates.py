"""Gates: conditions on a job's held-out results that must hold for the job to succeed. The grammar only.

    eval/accuracy >= 0.8
    eval/loss < 1.2
    eval/reward no worse than alias prod by 0.01
    eval/reward vs control >= 0

`no worse than alias prod` and `vs control >= 0` alone mean `eval/reward`, the former with no margin.
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field

MAX_GATES: Final = 16
LOWER_IS_BETTER: Final = frozenset({"eval/loss", "eval/forward_kl", "eval/grader_errors", "eval/clipped_ratio"})
ALIAS_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
DEFAULT_METRIC: Final = "eval/reward"

_METRIC: Final = (
    r"eval/(?:reward|accuracy|loss|entropy|forward_kl|mean_length|clipped_ratio|grader_errors|pass@[1-9]\d?"
    r"|rewards/(?:margins|accuracies|chosen|rejected))"
)
_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ABSOLUTE: Final = re.compile(rf"(?P<metric>{_METRIC})\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>{_NUMBER})")
_RELATIVE: Final = re.compile(
    rf"(?:(?P<metric>{_METRIC})\s+)?no worse than alias (?P<alias>{ALIAS_PATTERN})(?:\s+by (?P<margin>{_NUMBER}))?"
)
_CONTROL: Final = re.compile(rf"(?:(?P<metric>{_METRIC})\s+)?vs control\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>{_NUMBER})")
_SIGNS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Gate:
    """One condition on one held-out metric."""

    metric: str
    sign: str
    bound: float | None
    """The limit of the metric; None for a relative gate, whose limit is the value of `alias` with a `margin`."""
    alias: str | None = None
    margin: float = 0.0
    vs_control: bool = False
    """Whether `bound` limits the difference from the job's control instead of the value itself."""

    def against(self, value: float) -> "Gate":
        """Return the absolute gate of a relative one, given the `value` of the model that the alias names."""
        room = self.margin if self.metric in LOWER_IS_BETTER else -self.margin
        return Gate(self.metric, self.sign, value + room)

    def passes(self, value: float | None) -> bool:
        """Return whether a measured value passes. A missing or non-finite value never does."""
        if value is None or self.bound is None or not math.isfinite(value):
            return False
        return _SIGNS[self.sign](value, self.bound)


def parse(text: str) -> Gate:
    """Parse a gate. Raises `ValueError` with the expected form."""
    plain = " ".join(text.split())
    if match := _ABSOLUTE.fullmatch(plain):
        return Gate(match["metric"], match["sign"], float(match["bound"]))
    if match := _RELATIVE.fullmatch(plain):
        metric, margin = match["metric"] or DEFAULT_METRIC, float(match["margin"] or 0)
        if margin < 0:
            raise ValueError(f"'{text}': the margin after `by` cannot be negative")
        return Gate(metric, "<=" if metric in LOWER_IS_BETTER else ">=", None, match["alias"], margin)
    if match := _CONTROL.fullmatch(plain):
        return Gate(match["metric"] or DEFAULT_METRIC, match["sign"], float(match["bound"]), vs_control=True)
    raise ValueError(
        f"'{text}' is not a gate. Write a held-out metric, a comparison and a number (eval/accuracy >= 0.8), or "
        "compare with the model of an alias (eval/reward no worse than alias prod by 0.01) or with the job's control "
        "(vs control >= 0). Metrics: eval/reward, "
        "eval/accuracy, eval/pass@k, eval/loss, eval/entropy, eval/forward_kl, eval/mean_length, eval/clipped_ratio, "
        "eval/grader_errors, and of dpo jobs eval/rewards/margins, eval/rewards/accuracies, eval/rewards/chosen, "
        "eval/rewards/rejected"
    )


def _checked(text: str) -> str:
    parse(text)
    return text


GateText = Annotated[str, Field(max_length=200), AfterValidator(_checked)]
AliasName = Annotated[str, Field(max_length=64, pattern=rf"^{ALIAS_PATTERN}$")]
