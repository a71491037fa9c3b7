"""The training signal of each group without rollouts, and running totals over the rows."""

from collections.abc import Sequence
from math import comb, isfinite
from typing import Final, NamedTuple

from app.core.files.validation_report import Issue
from app.core.graders.types import Grade
from app.core.lint.graded_answers import GradedAnswers
from app.core.lint.report import AnswerCount, GroupCount, LintReport
from app.core.plurals import plural
from app.core.spec.advantages import ZERO_VARIANCE_RANGE
from app.core.spec.answers import ParsedAnswer
from app.core.spec.job import GroupMix
from app.core.spec.reports import Source
from app.core.spec.rows import Row

MAX_ISSUES: Final = 50


class Answers(NamedTuple):
    """The known answers of a row."""

    expert: ParsedAnswer | None
    teachers: tuple[ParsedAnswer, ...]

    @classmethod
    def of(cls, row: Row, mix: GroupMix) -> "Answers":
        """Take the answers that a group of this mix can hold."""
        teachers = tuple(ParsedAnswer(answer.content) for answer in row.teacher) if mix.teacher else ()
        expert = ParsedAnswer.of(row.demonstration) if mix.expert and row.demonstration is not None else None
        return cls(expert, teachers)

    def all(self) -> tuple[ParsedAnswer, ...]:
        """Return all answers, the expert's first."""
        return self.teachers if self.expert is None else (self.expert, *self.teachers)


def chance_of_contrast(expert: float | None, teachers: Sequence[float], drawn: int) -> float:
    """Return the probability that the expert and `drawn` of the teacher answers, drawn uniformly, differ in reward.

    All rewards are equal with probability sum over values v of C(n_v, drawn) / C(n, drawn), where n_v of the n teacher
    answers have the value v; with an expert, only the expert's value counts. Fewer than two members never differ.
    """
    drawn = min(drawn, len(teachers))
    if drawn + (expert is not None) < 2:
        return 0.0
    if expert is not None:
        counts = [sum(abs(reward - expert) <= ZERO_VARIANCE_RANGE for reward in teachers)]
    else:
        counts = _counts(teachers)
    return 1 - sum(comb(count, drawn) for count in counts) / comb(len(teachers), drawn)


def _counts(rewards: Sequence[float]) -> list[int]:
    """Count the rewards by value; values within float noise count as equal."""
    counts: list[int] = []
    least = 0.0
    for reward in sorted(rewards):
        if counts and reward - least <= ZERO_VARIANCE_RANGE:
            counts[-1] += 1
        else:
            least = reward
            counts.append(1)
    return counts


class Tally:
    """Running totals over the graded rows of one file."""

    def __init__(self, mix: GroupMix) -> None:
        self.rows = 0
        self.limit = 0.0
        """Sum over rows: 1 for each group that can have a training signal, rollouts included."""
        self._mix = mix
        self._signal = 0.0
        self._experts, self._teachers = _Source(), _Source()
        self._groups = {"contrast": 0, "same": 0, "few": 0}
        self._errors, self._warnings = _Issues(), _Issues()
        self._graded = GradedAnswers()
        self._several_valid = 0

    def add(self, line: int, row: Row, answers: Answers, grades: Sequence[Grade]) -> None:
        """Add a row; `grades` are those of `answers.all()`."""
        given = list(grades)
        passing = {
            "".join(answer.text.split()).casefold()
            for answer, grade in zip(answers.all(), grades, strict=True)
            if grade.passed
        }
        self._several_valid += len(passing) > 1
        for place, (answer, grade) in enumerate(zip(answers.all(), grades, strict=True)):
            is_expert = place == 0 and answers.expert is not None
            self._graded.add(line, Source.expert if is_expert else Source.teacher, answer.text, grade)
        expert = given.pop(0) if answers.expert is not None else None
        if expert is not None:
            self._experts.add(expert)
        for place, grade in enumerate(given):
            self._teachers.add(grade)
            if grade.reward is None:
                self._errors.add(line, f"teacher_responses[{place}]", f"cannot be graded: {grade.error}")
        teachers = [grade.reward for grade in given if grade.reward is not None]
        if expert is not None:
            self._judge(line, row, expert, teachers)
        self._count(line, expert.reward if expert is not None else None, teachers)

    def _judge(self, line: int, row: Row, expert: Grade, teachers: Sequence[float]) -> None:
        param = "completion" if row.item.get("completion") is not None else "messages"
        if expert.reward is None:
            self._errors.add(line, param, f"the demonstration cannot be graded: {expert.error}")
        elif not expert.passed:
            message = f"the demonstration fails its own grader: it earns {expert.reward:g}"
            if teachers and max(teachers) > expert.reward:
                message += f" and a teacher answer {max(teachers):g}, so training would move away from it"
            self._errors.add(line, param, message)

    def _count(self, line: int, expert: float | None, teachers: Sequence[float]) -> None:
        self.rows += 1
        known = [*teachers] if expert is None else [expert, *teachers]
        members = min(self._mix.teacher, len(teachers)) + (expert is not None)
        signal = chance_of_contrast(expert, teachers, self._mix.teacher)
        if members < 2:
            self._groups["few"] += 1
            if known and not self._mix.self_:  # a group of one trains by its reward (A = R)
                signal = sum(reward != 0 for reward in known) / len(known)
        elif signal:
            self._groups["contrast"] += 1
        else:
            self._groups["same"] += 1
            self._warnings.add(line, None, f"all {plural(members, 'known answer')} of the group earn {known[0]:g}")
        self._signal += signal
        self.limit += 1.0 if self._mix.self_ else signal

    @property
    def has_signal(self) -> bool:
        """Whether a group can have a training signal, rollouts included."""
        return self.limit > 0

    @property
    def has_pass(self) -> bool:
        """Whether a demonstration passes the grader."""
        return self._experts.count().passed > 0

    def report(self, rows: int, sample: str, *, stopped: bool) -> LintReport:
        """Return the totals as the report of a file with `rows` rows."""
        total = max(1, self.rows)
        return LintReport(
            rows=rows,
            rows_graded=self.rows,
            sample=sample,
            stopped=stopped,
            group=self._mix,
            experts=self._experts.count(),
            teachers=self._teachers.count(),
            groups=GroupCount(**self._groups),
            signal_share=min(1.0, self._signal / total),
            signal_share_limit=min(1.0, self.limit / total),
            errors=tuple(self._errors.first),
            error_count=self._errors.count,
            warnings=tuple(self._warnings.first),
            warning_count=self._warnings.count,
            rewards=self._graded.distribution(),
            worst=self._graded.worst(),
            several_valid=self._several_valid,
        )


class _Source:
    def __init__(self) -> None:
        self._graded = self._passed = self._errors = 0
        self._total = 0.0

    def add(self, grade: Grade) -> None:
        if grade.reward is None:
            self._errors += 1
            return
        self._graded += 1
        self._passed += grade.passed
        self._total += grade.reward

    def count(self) -> AnswerCount:
        mean = self._total / self._graded if self._graded and isfinite(self._total) else None
        return AnswerCount(graded=self._graded, passed=self._passed, errors=self._errors, mean_reward=mean)


class _Issues:
    def __init__(self) -> None:
        self.first: list[Issue] = []
        self.count = 0

    def add(self, line: int, param: str | None, message: str) -> None:
        self.count += 1
        if len(self.first) < MAX_ISSUES:
            self.first.append(Issue(line=line, param=param, message=message[:500]))
