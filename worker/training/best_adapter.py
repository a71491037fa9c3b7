"""Best-adapter selection: keeps a copy of the adapter with the best held-out score, which is the one to publish."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from app.core.spec.reports import Evaluated
from worker.training.early_stopping import EarlyStopping
from worker.training.model import Policy

SelectionMetric = Literal["eval/reward", "eval/loss"]
_NAMES: Final[dict[SelectionMetric, str]] = {"eval/reward": "mean held-out reward", "eval/loss": "held-out loss"}


@dataclass
class BestAdapter:
    """The adapter with the best evaluation after step 0; of equal scores, the later one.

    A score is a value of the metric, with the sign changed if lower is better.
    """

    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    metric: SelectionMetric = "eval/reward"
    step: int | None = None
    score: float | None = None
    base_score: float | None = None
    """Score of the model before the first step."""
    adapter: dict[str, Tensor] = field(default_factory=dict)
    """A copy of the best adapter, on the CPU."""
    evaluations: int = 0

    def take(self, evaluated: Evaluated, policy: Policy) -> bool:
        """Records an evaluation of `policy` and returns whether it is the best so far."""
        score = self._score(evaluated)
        if evaluated.step == 0:
            self.base_score = score
            return False
        self.evaluations += 1
        self.early_stopping.note(has_improved=score is not None and (self.score is None or score > self.score))
        if score is None or (self.score is not None and score < self.score):
            return False
        self.step, self.score = evaluated.step, score
        self.adapter = {name: value.detach().cpu().clone() for name, value in policy.trained.items()}
        return True

    @torch.no_grad()
    def restore(self, policy: Policy) -> None:
        """Copies the best adapter back into the policy. Without evaluations the policy keeps its last adapter."""
        if self.step is None or self.step == policy.version:
            return
        for name, parameter in policy.trained.items():
            parameter.copy_(self.adapter[name])
        policy.version = self.step

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return _NAMES[self.metric]

    def reason(self, last_step: int) -> str:
        """Returns a sentence that says why the published step was chosen."""
        if self.step is None or self.score is None:
            return "the adapter after the last step; no held-out rows select one"
        best = f"{self.metric_name} {self._value(self.score):.4g} at step {self.step}"
        chosen = f"{best} is the best of {self.evaluations} evaluations up to step {last_step}"
        if self.base_score is not None and self.base_score > self.score:
            return f"{chosen}; before training it was {self._value(self.base_score):.4g}, so training did not help"
        return chosen

    def _score(self, evaluated: Evaluated) -> float | None:
        value = evaluated.values.get(self.metric)
        return None if value is None else self._value(value)

    def _value(self, score: float) -> float:
        """Returns the value of a score, or the score of a value."""
        return -score if self.metric == "eval/loss" else score

    def state(self) -> dict[str, str | float | int | None]:
        """Returns everything a checkpoint stores except the adapter itself."""
        return {
            "metric": self.metric,
            "step": self.step,
            "score": self.score,
            "base_score": self.base_score,
            "evaluations": self.evaluations,
            "stale": self.early_stopping.stale,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.step, self.score, self.base_score = state["step"], state["score"], state["base_score"]
        self.evaluations, self.early_stopping.stale = state["evaluations"], state["stale"]
