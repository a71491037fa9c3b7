"""Best-adapter selection: keeps a copy of the adapter with the best held-out score, which is the one to publish."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from app.core.spec.reports import Evaluated
from worker.training.early_stopping import EarlyStopping
from worker.training.model import Policy


@dataclass
class BestAdapter:
    """The adapter with the best evaluation after step 0; of equal scores, the later one.

    The score is the mean held-out reward, or the negative loss on held-out demonstrations for a job without a grader.
    """

    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    step: int | None = None
    score: float | None = None
    base_score: float | None = None
    """Score of the model before the first step."""
    adapter: dict[str, Tensor] = field(default_factory=dict)
    """A copy of the best adapter, on the CPU."""
    evaluations: int = 0

    def take(self, evaluated: Evaluated, policy: Policy) -> bool:
        """Records an evaluation of `policy` and returns whether it is the best so far."""
        score = _score(evaluated)
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

    def reason(self, last_step: int) -> str:
        """Returns a sentence that says why the published step was chosen."""
        if self.step is None or self.score is None:
            return "the adapter after the last step; the job has no held-out evaluation to choose by"
        best = f"{_score_text(self.score)} at step {self.step}"
        chosen = f"{best} is the best of {self.evaluations} evaluations up to step {last_step}"
        if self.base_score is not None and self.base_score > self.score:
            return f"{chosen}; before training it was {abs(self.base_score):.4g}, so training did not help"
        return chosen

    def state(self) -> dict[str, float | int | None]:
        """Returns everything a checkpoint stores except the adapter itself."""
        return {
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


def _score(evaluated: Evaluated) -> float | None:
    if "eval/reward" in evaluated.values:
        return evaluated.values["eval/reward"]
    loss = evaluated.values.get("eval/loss")
    return None if loss is None else -loss


def _score_text(score: float) -> str:
    # Graders return rewards between 0 and 1, so a negative score is a negated loss.
    return f"held-out loss {-score:.4g}" if score < 0 else f"mean held-out reward {score:.4g}"
