"""Which adapter gets published: the one that evaluated best, and when to stop looking for a better one."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.core.spec.reports import Evaluated
from worker.training.model import Policy


@dataclass
class BestAdapter:
    """The best evaluation after the first step; of equals the later one.

    The score is the mean held-out reward; for a job without a grader, the negative loss on held-out demonstrations.
    """

    patience: int | None = None
    step: int | None = None
    score: float | None = None
    base_score: float | None = None
    """Of the model before the first step."""
    adapter: dict[str, Tensor] = field(default_factory=dict)
    """A copy of the best adapter, on the CPU."""
    evaluations: int = 0
    stale: int = 0
    """Evaluations since the score last rose."""

    def take(self, evaluated: Evaluated, policy: Policy) -> bool:
        """Notes an evaluation of `policy`; whether it is the best so far."""
        score = _score(evaluated)
        if evaluated.step == 0:
            self.base_score = score
            return False
        self.evaluations += 1
        if score is None or (self.score is not None and score < self.score):
            self.stale += 1
            return False
        self.stale = 0 if self.score is None or score > self.score else self.stale + 1
        self.step, self.score = evaluated.step, score
        self.adapter = {name: value.detach().cpu().clone() for name, value in policy.trained.items()}
        return True

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.stale >= self.patience

    @torch.no_grad()
    def restore(self, policy: Policy) -> None:
        """Puts the best adapter back into the policy; without evaluations the policy stays as it is."""
        if self.step is None or self.step == policy.version:
            return
        for name, parameter in policy.trained.items():
            parameter.copy_(self.adapter[name])
        policy.version = self.step

    def reason(self, last_step: int) -> str:
        """Why the published step was chosen, for people."""
        if self.step is None or self.score is None:
            return "the adapter after the last step; there was no held-out evaluation to choose by"
        best = f"{_named(self.score)} at step {self.step}"
        chosen = f"{best} is the best of {self.evaluations} evaluations up to step {last_step}"
        if self.base_score is not None and self.base_score > self.score:
            return f"{chosen}; before training it was {abs(self.base_score):.4g}, so training did not help"
        return chosen

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint keeps besides the adapter."""
        names = ("step", "score", "base_score", "evaluations", "stale")
        return {name: getattr(self, name) for name in names}


def _score(evaluated: Evaluated) -> float | None:
    if "eval/reward" in evaluated.values:
        return evaluated.values["eval/reward"]
    loss = evaluated.values.get("eval/loss")
    return None if loss is None else -loss


def _named(score: float) -> str:
    # Rewards lie between 0 and 1 by the graders' contract, so a negative score is a loss.
    return f"held-out loss {-score:.4g}" if score < 0 else f"mean held-out reward {score:.4g}"
