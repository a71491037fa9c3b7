"""Grades the demonstrations before training, for jobs that train only those that pass (`demonstrations: "graded"`)."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from app.core.chat.encoding import Drop, rules_of
from app.core.graders.run import ExternalServices, GraderPool
from app.core.graders.types import Grade, Sample
from app.core.plurals import plural
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.job import TrainerSpec
from app.core.spec.reports import DemonstrationsGraded, Message, TrainerExit
from app.core.spec.rows import shown_lines
from worker.training.distributed import Ranks, in_order
from worker.training.interfaces import Reporter, StopFlag
from worker.training.rewards import grade_answers
from worker.training.trainer import Stopped
from worker.training.types import JobFailure, Prompt

PART: Final = 64
"""Demonstrations that a rank grades at a time; a stop waits for them."""
REPORT_SECONDS: Final = 2.0
"""Time between two reports of progress. A stopped run loses the grades since the last one at most."""


class DemonstrationGrades:
    """The grades of a job's demonstrations, in the order of their lines: those that are known, then new ones."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        known: GradedDemonstrations | None,
        rejected: Sequence[int],
        report: Reporter,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks | None = None,
    ) -> None:
        """`known` and `rejected` are the counts and the rejected lines of earlier attempts."""
        self._graded = [prompt for prompt in prompts if prompt.turns and prompt.demonstration is not None]
        self._prompts = prompts
        self._report = report
        self._clock = clock
        self._ranks = ranks or Ranks()
        # Another total means that another version rendered the rows: its grades are of other rows.
        is_same = known is not None and known.total == len(self._graded)
        self.counts = known if known is not None and is_same else GradedDemonstrations(total=len(self._graded))
        self.rejected = set(rejected) if is_same else set[int]()
        self._first_error: str | None = None

    def complete(self, pool: GraderPool, stop: StopFlag) -> bool:
        """Grades the demonstrations without a grade; returns False if a stop was requested first.

        The ranks share the work, and every rank gets all grades. Raises `JobFailure` if a server of the grader is
        unavailable, or if no demonstration passes.
        """
        if not self.counts.is_complete:
            if not self.counts.graded:
                self._report(DemonstrationsGraded(counts=self.counts))
            if not self._grade_rest(pool, stop):
                return False
            self._report(self._message())
        if not self.counts.passed:
            raise JobFailure(TrainerExit.bad_data, "no_demonstration_passes", self._refusal(), "method.demonstrations")
        return True

    def _grade_rest(self, pool: GraderPool, stop: StopFlag) -> bool:
        new: list[int] = []
        reported = self._clock()
        # All ranks stop at the same part: one that stopped alone would leave the others waiting for its grades.
        while not self.counts.is_complete and not self._ranks.sum(stop.is_set()):
            start = self.counts.graded
            part = self._graded[start : start + PART * self._ranks.size]
            new += self._count(part, in_order(self._ranks.gather(self._grade(pool, self._ranks.share(part)))))
            if self.counts.is_complete or self._clock() - reported >= REPORT_SECONDS:
                self._report(DemonstrationsGraded(counts=self.counts, rejected=tuple(new)))
                new, reported = [], self._clock()
        if new:
            self._report(DemonstrationsGraded(counts=self.counts, rejected=tuple(new)))
        return self.counts.is_complete

    def _grade(self, pool: GraderPool, prompts: Sequence[Prompt]) -> list[Grade]:
        pairs = [(prompt, Sample.of(prompt.demonstration)) for prompt in prompts if prompt.demonstration is not None]
        return grade_answers(pool, self._prompts, pairs, "demonstration")

    def _count(self, prompts: Sequence[Prompt], grades: Sequence[Grade]) -> list[int]:
        """Counts the grades of `prompts` and returns the rejected lines."""
        rejected = [prompt.line for prompt, grade in zip(prompts, grades, strict=True) if not grade.passed]
        failures = [grade.error for grade in grades if grade.reward is None]
        self._first_error = self._first_error or next(iter(failures), None)
        counts = self.counts
        self.counts = counts.model_copy(
            update={
                "passed": counts.passed + len(grades) - len(rejected),
                "failed": counts.failed + len(rejected) - len(failures),
                "errors": counts.errors + len(failures),
            }
        )
        self.rejected.update(rejected)
        return rejected

    def _message(self) -> Message:
        counts = self.counts
        message = f"{self._summary()}. The job trains without them" if self.rejected else self._summary()
        return Message(
            level="warn" if counts.errors else "info", message=message, data={"demonstrations": counts.model_dump()}
        )

    def _summary(self) -> str:
        counts, total = self.counts, plural(self.counts.total, "demonstration")
        if not self.rejected:
            return f"All {total} pass the grader" if counts.total else "The rows have no demonstration"
        parts = [f"{counts.failed:,} of {total} fail the grader"] if counts.failed else []
        if counts.errors:
            of = "" if parts else f" of {total}"
            parts.append(f"{counts.errors:,}{of} cannot be graded ({self._first_error or 'see the log'})")
        return f"{' and '.join(parts)} ({shown_lines(self.rejected)})"

    def _refusal(self) -> str:
        return (
            f"No demonstration passes the grader, so no demonstration is left to train. {self._summary()}. Change the "
            "grader or its `pass_threshold` (`grouptune files lint` shows the rewards), correct the demonstrations, or "
            "use `demonstrations` 'all'."
        )

    def without_rejected(self, answers_later: bool) -> tuple[list[Prompt], Counter[Drop]]:
        """Returns the prompts without rejected demonstrations, and counts those that lose their last answer.

        With `answers_later` a prompt needs no answer: rollouts or a teacher supply them. An imitation job trains a
        conversation whole or not at all: earlier answers led to a demonstration that is wrong or missing.
        """
        kept: list[Prompt] = []
        dropped: Counter[Drop] = Counter()
        for prompt in self._prompts:
            has_passed = prompt.demonstration is not None and prompt.line not in self.rejected
            left = prompt if has_passed else replace(prompt, turns=())
            if left.turns or left.teacher_answers or answers_later:
                kept.append(left)
            else:
                dropped[Drop.demonstration_rejected] += 1
        return kept, dropped


def passing(
    trainer_spec: TrainerSpec,
    prompts: Sequence[Prompt],
    use: Mapping[str, Any],
    outside: ExternalServices,
    ranks: Ranks,
    report: Reporter,
    stop: StopFlag,
) -> tuple[list[Prompt], dict[str, Any]]:
    """Returns the prompts without rejected demonstrations, and the numbers of rows in `use` without the rows lost.

    Raises `Stopped` on a stop request, and `JobFailure` as `DemonstrationGrades.complete`.
    """
    spec = trainer_spec.spec
    known = trainer_spec.demonstrations, trainer_spec.rejected_lines
    grades = DemonstrationGrades(prompts, *known, report, ranks=ranks)
    if spec.settings.grader is not None:
        with GraderPool(spec.settings.grader, outside) as pool:
            if not grades.complete(pool, stop):
                ranks.meet()  # the launcher ends the others once one has ended
                raise Stopped
    kept, lost = grades.without_rejected(rules_of(spec, trainer_spec.context_length).answers_later)
    return kept, {"used": len(kept), "dropped": {**use["dropped"], **{str(reason): n for reason, n in lost.items()}}}


def before_grading(use: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the use of a file's rows, in the form of `Started.rows`, without the effect of the grades."""
    if use is None:
        return None
    others = dict(use["dropped"])
    rejected = others.pop(Drop.demonstration_rejected, 0)
    return {"used": use["used"] + rejected, "dropped": others}
