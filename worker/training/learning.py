"""Watches whether the job learns: warns if the first steps leave the adapter unchanged, fails if all steps do."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from app.core.plurals import plural
from app.core.spec.reports import Message, TrainerExit
from worker.training.interfaces import Reporter
from worker.training.optimizer import UpdateResult
from worker.training.policy_loss import PolicyLoss
from worker.training.types import JobFailure, PromptGroup

_FEWEST_STEPS: Final = 5
_MOST_STEPS: Final = 25
_SHARE: Final = 0.05


@dataclass
class _Seen:
    """Counts over all steps of the job, stored in its checkpoints."""

    steps: int = 0
    updates: int = 0
    """Steps that changed the adapter."""
    non_finite: int = 0
    """Steps whose gradient was not finite."""
    zero: int = 0
    """Steps whose gradient was 0 although answers were trained."""
    groups: int = 0
    lone_groups: int = 0
    """Groups with fewer than two graded answers, which therefore have no advantage."""
    answers: int = 0
    """Graded answers."""
    masked: int = 0
    """Rollouts that were cut off and masked."""
    lowest: float | None = None
    highest: float | None = None


class LearningMonitor:
    """Counts the steps that change the adapter, over all attempts of the job."""

    def __init__(self, report: Reporter, total_steps: int, loss: PolicyLoss) -> None:
        self._report = report
        self._loss = loss
        self._patience = min(_MOST_STEPS, max(_FEWEST_STEPS, math.ceil(_SHARE * total_steps)))
        self._seen = _Seen()

    def note(self, groups: Iterable[PromptGroup], update: UpdateResult) -> None:
        """Counts one finished step with the groups of all ranks; warns once about first steps without an update."""
        seen = self._seen
        seen.steps += 1
        seen.non_finite += not math.isfinite(update.grad_norm)
        seen.zero += update.applied and update.grad_norm == 0
        seen.updates += update.applied and update.grad_norm > 0
        if seen.updates:
            return
        for group in groups:
            rewards = [member.reward for member in group.members if member.reward is not None]
            seen.groups += 1
            seen.lone_groups += len(rewards) < 2
            seen.answers += len(rewards)
            seen.masked += sum(self._loss.is_masked(member) for member in group.members)
            seen.lowest = min(rewards if seen.lowest is None else [seen.lowest, *rewards], default=None)
            seen.highest = max(rewards if seen.highest is None else [seen.highest, *rewards], default=None)
        if seen.steps == self._patience:
            message = f"The first {plural(seen.steps, 'step')} changed nothing: {self._reason()}"
            self._report(Message(level="warn", message=message, data={"code": "nothing_learned"}))

    def check(self) -> None:
        """Raises `JobFailure` if no step has changed the adapter."""
        if self._seen.steps and not self._seen.updates:
            message = f"None of the {plural(self._seen.steps, 'step')} changed the model: {self._reason()}"
            raise JobFailure(TrainerExit.bad_data, "nothing_learned", message, "training_file")

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return asdict(self._seen)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self._seen = _Seen(**state)

    def _reason(self) -> str:
        seen = self._seen
        if seen.non_finite == seen.steps:
            return "no gradient was finite. Lower hyperparameters.learning_rate_multiplier."
        if seen.zero == seen.steps:
            return "every gradient was 0. The model already writes the answers of the rows; train on other rows."
        if seen.answers == 0:
            return "no answer was graded. See the errors of the grader in the groups of the steps."
        if seen.lone_groups == seen.groups:
            return (
                f"every group ({seen.groups:,} in all) had a single graded answer and nothing to compare it with. "
                "Raise group.self, name a teacher, or add teacher_responses to the rows."
            )
        if seen.masked >= seen.answers:
            return (
                f"every rollout ({seen.masked:,} in all) was cut off, and mask_truncated leaves it out. Raise "
                "sampling.max_tokens."
            )
        if seen.lowest == seen.highest:
            return (
                f"the grader gave the same reward, {seen.lowest:g}, to every answer ({seen.answers:,} in all). "
                "Check with POST /v1/fine_tuning/alpha/graders/run that a right answer gets a higher reward than a "
                "wrong one."
            )
        return (
            f"in every group ({seen.groups:,} in all), all answers had the same reward, so none was better than "
            "another. Raise group.self or the temperature, use rows that the model answers right only sometimes, or a "
            "grader that gives part of the reward to partly right answers."
        )
