"""Grades the known answers of a file's rows: all rows up to a cap, else a fixed random sample."""

import random
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.core.files.validation_report import FileReport
from app.core.graders.registry import waits
from app.core.graders.run import Grade, GraderPool, Sample
from app.core.lint.report import LintReport
from app.core.lint.training_signal import Answers, Tally
from app.core.plurals import plural
from app.core.spec.job import GroupMethod, GroupMix, JobSpec
from app.core.spec.rows import Row, read_rows

SEED: Final = 0
"""Seed of the sample: the same file always gives the same rows."""
ROWS_AHEAD: Final = 32
"""Rows graded at once; each has a handful of answers."""


@dataclass(frozen=True)
class Budget:
    """The cost limits of a lint."""

    answers: int
    """Approximate maximum of graded answers; rows are graded completely."""
    seconds: float
    """Wall time after which the lint reports its results so far."""


BEFORE_ACCEPTING: Final = Budget(answers=1_000, seconds=3.0)
WHILE_WAITING: Final = Budget(answers=2_000, seconds=15.0)
IN_BACKGROUND: Final = Budget(answers=20_000, seconds=60.0)


def why_not(spec: JobSpec) -> str | None:
    """Return why a job's training file is not linted; None if it is."""
    grader = spec.settings.grader
    if not isinstance(spec.settings, GroupMethod) and not spec.grades_demonstrations:
        return f"The method '{spec.method}' has no groups."
    if not spec.group.expert and not spec.group.teacher:
        return "Its groups contain only rollouts."
    if grader is None or waits(grader):
        return (
            "Its grader calls another server, which may cost money. To lint the file anyway, set `remote` in "
            "POST /v1/files/{id}/lint."
        )
    return None


def lint_file(
    path: Path,
    counts: FileReport,
    pool: GraderPool,
    mix: GroupMix,
    budget: Budget,
    *,
    until: Callable[[Tally], bool] = lambda _tally: False,
) -> LintReport:
    """Lint a valid file, described by `counts`, with the pool's grader.

    The lint ends as soon as `until` is true of the totals, such as `Tally.has_signal`. Raises `RowError` if the file
    turns out to be invalid, and `OSError`.
    """
    chosen, sample = _choose(counts, mix, budget.answers)
    tally = Tally(mix)
    deadline = time.monotonic() + budget.seconds
    waiting: deque[_Graded] = deque()
    stopped = False
    try:
        for line, row in read_rows(path, chosen):
            answers = Answers.of(row, mix)
            pairs = [(Sample.of(answer), row.item) for answer in answers.all()]
            waiting.append(_Graded(line, row, answers, pool.submit(pairs)))
            if len(waiting) >= ROWS_AHEAD:
                waiting.popleft().take(tally, deadline)
            if until(tally):
                break
        while waiting and not until(tally):
            waiting.popleft().take(tally, deadline)
    except TimeoutError:
        stopped = True
    finally:
        for graded in waiting:
            graded.cancel()
    return tally.report(counts.rows, sample, stopped=stopped)


def _choose(counts: FileReport, mix: GroupMix, most_answers: int) -> tuple[Container[int] | None, str]:
    """Return the numbers of the rows to grade (None: all), and a description of the choice."""
    answers = counts.expert_rows * mix.expert + (counts.teacher_responses.total if mix.teacher else 0)
    if answers <= most_answers:
        return None, f"all {plural(counts.rows, 'row')}"
    size = max(1, counts.rows * most_answers // answers)
    chosen = frozenset(random.Random(SEED).sample(range(counts.rows), size))  # noqa: S311 - a sample, not a secret
    return chosen, f"{size:,} of {plural(counts.rows, 'row')}, a fixed random sample (seed {SEED})"


@dataclass(frozen=True)
class _Graded:
    """A row whose answers are being graded."""

    line: int
    row: Row
    answers: Answers
    grades: Sequence[Future[list[Grade]]]

    def take(self, tally: Tally, deadline: float) -> None:
        """Wait for the grades and count them. Raises `TimeoutError` at the deadline (of time.monotonic)."""
        grades: list[Grade] = []
        try:
            for future in self.grades:
                grades += future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            self.cancel()
            raise
        if time.monotonic() > deadline:
            raise TimeoutError
        tally.add(self.line, self.row, self.answers, grades)

    def cancel(self) -> None:
        for future in self.grades:
            future.cancel()
