"""The distribution of rewards and the worst answers."""

from itertools import pairwise

from app.core.graders.types import Grade
from app.core.lint.graded_answers import BINS, MAX_WORST, GradedAnswers
from app.core.spec.reports import Source


def graded(*rewards: float | None) -> GradedAnswers:
    answers = GradedAnswers()
    for line, reward in enumerate(rewards, 1):
        grade = Grade(reward=reward, error="cannot be read" if reward is None else None)
        answers.add(line, Source.expert, f"answer {line}", grade)
    return answers


def test_worst_answers_come_first() -> None:
    answers = graded(*(1 - number / 100 for number in range(50)), None, 0.51)
    worst = answers.worst()
    assert (worst[0].line, worst[0].reward, worst[0].error) == (51, None, "cannot be read")
    assert [answer.line for answer in worst[1:4]] == [50, 52, 49]
    assert len(worst) == MAX_WORST


def test_many_rewards_are_counted_in_intervals() -> None:
    bins = graded(*(number / 40 for number in range(41)), None).distribution()
    assert (len(bins), bins[0].start, bins[-1].end, bins[-1].answers) == (BINS, 0, 1, 5)
    assert sum(bin.answers for bin in bins) == 41
    assert all(left.end == right.start for left, right in pairwise(bins))


def test_float_noise_makes_no_new_reward() -> None:
    assert [(bin.start, bin.answers) for bin in graded(0.1 + 0.2, 0.3, 1).distribution()] == [(0.3, 2), (1, 1)]
    assert graded(None).distribution() == ()
