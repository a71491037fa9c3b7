"""The two uses of held-out rows in a run: evaluations that training is watched and selected by, and results."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.core.spec.reports import Evaluated
from worker.training.evaluation import Evaluator
from worker.training.types import Prompt


@dataclass
class HeldOut:
    """Evaluates the current policy on the rows of either use."""

    charted: Evaluator | None = None
    """On the rows that select, or on those that report if they are too few to split. None without held-out rows."""
    reporting: Evaluator | None = None
    """On the rows that report."""
    _latest: Evaluated | None = field(init=False, default=None)

    @property
    def selects(self) -> bool:
        """Whether evaluations during training may select the adapter: not on rows that report."""
        return self.charted is not self.reporting

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The rows that report."""
        return () if self.reporting is None else self.reporting.prompts

    @property
    def selection_lines(self) -> tuple[int, ...]:
        """The lines of the rows that select."""
        if self.charted is None or not self.selects:
            return ()
        return tuple(prompt.line for prompt in self.charted.prompts)

    def evaluate(self, step: int) -> Evaluated | None:
        """Evaluates the policy after `step`."""
        self._latest = None if self.charted is None else self.charted.evaluate(step)
        return self._latest

    def result(self, step: int) -> Evaluated | None:
        """Evaluates the policy, which is that of `step`, on the rows that report."""
        if not self.selects and self._latest is not None and self._latest.step == step:
            return self._latest
        return None if self.reporting is None else self.reporting.evaluate(step)
