"""Regrades stored groups with another grader and recomputes their advantages. No SQL here."""

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

from app.core.graders.registry import waits
from app.core.graders.run import grade
from app.core.graders.toolbox import CONNECTIONS, LimitedTools, Toolbox
from app.core.graders.types import Grade, Sample
from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.graders import BaseGrader
from app.core.spec.policy_loss import AdvantageScaling
from app.core.spec.reports import GroupRecord, MemberRecord

ERRORS_SHOWN: Final = 3


@dataclass(frozen=True)
class StoredGroup:
    """A group as stored by training, and its row of the training file."""

    id: str
    step: int
    record: GroupRecord
    item: Mapping[str, Any]


@dataclass(frozen=True)
class MemberPair:
    """A member's reward and advantage before and after; None where grading failed."""

    before: MemberRecord
    reward: float | None
    advantage: float | None
    error: str | None


@dataclass(frozen=True)
class RegradedGroup:
    """A group with both grades of every member."""

    group: StoredGroup
    members: tuple[MemberPair, ...]
    has_contrast: bool


@dataclass(frozen=True)
class SourceMeans:
    """Mean rewards of grade source."""

    members: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Summary:
    """Summary of the changes that the other grader makes."""

    groups: int
    members: int
    errors_before: int
    errors_after: int
    error_samples: tuple[str, ...]
    sources: dict[str, SourceMeans]
    no_contrast_before: float | None
    no_contrast_after: float | None
    """Fractions of the groups."""
    rank_correlation: float | None
    """Spearman correlation over members that both graders graded; None if grade of them gives equal rewards to all."""
    compared_advantages: int
    changed_signs: int
    """Number of advantages that change sign."""


def regrade(
    grader: BaseGrader,
    groups: Sequence[StoredGroup],
    tools: Toolbox | LimitedTools,
    seconds: float,
    scaling: AdvantageScaling = "std",
) -> list[RegradedGroup]:
    """Return the groups graded within the time limit, in order; a group is graded completely or not at all."""
    threads = ThreadPoolExecutor(CONNECTIONS if waits(grader) else tools.workers, thread_name_prefix="regrade")
    try:
        pending = [
            [
                threads.submit(
                    grade, grader, Sample.of(member.parts, finished=member.finished), dict(group.item), tools
                )
                for member in group.record.members
            ]
            for group in groups
        ]
        done, _ = wait([future for futures in pending for future in futures], timeout=seconds)
        return [
            _compared(group, [future.result() for future in futures], scaling)
            for group, futures in zip(groups, pending, strict=True)
            if done.issuperset(futures)
        ]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _compared(group: StoredGroup, grades: Sequence[Grade], scaling: AdvantageScaling) -> RegradedGroup:
    """Compute advantages; members that could not be graded leave the group, as in training."""
    rewards = [grade.reward for grade in grades]
    advantages = group_advantages(rewards, scaling)
    return RegradedGroup(
        group,
        tuple(
            MemberPair(before, grade.reward, advantage, grade.error)
            for before, grade, advantage in zip(group.record.members, grades, advantages, strict=True)
        ),
        has_contrast([reward for reward in rewards if reward is not None]),
    )


def summarise(groups: Sequence[RegradedGroup]) -> Summary:
    """Summarise all groups."""
    pairs = [pair for group in groups for pair in group.members]
    both = [(pair.before.reward, pair.reward) for pair in pairs if pair.before.reward is not None]
    ranked = [(before, after) for before, after in both if after is not None]
    advantages = [(pair.before.advantage, pair.advantage) for pair in pairs]
    weighed = [(before, after) for before, after in advantages if before is not None and after is not None]
    errors = [pair.error for pair in pairs if pair.error is not None]
    return Summary(
        groups=len(groups),
        members=len(pairs),
        errors_before=sum(pair.before.error is not None for pair in pairs),
        errors_after=len(errors),
        error_samples=tuple(dict.fromkeys(errors))[:ERRORS_SHOWN],
        sources={
            str(source): _means([pair for pair in pairs if pair.before.source == source])
            for source in dict.fromkeys(pair.before.source for pair in pairs)
        },
        no_contrast_before=_mean([float(group.group.record.zero_variance) for group in groups]),
        no_contrast_after=_mean([float(not group.has_contrast) for group in groups]),
        rank_correlation=rank_correlation(ranked),
        compared_advantages=len(weighed),
        changed_signs=sum(before * after < 0 for before, after in weighed),
    )


def _means(pairs: Sequence[MemberPair]) -> SourceMeans:
    before = [pair.before.reward for pair in pairs if pair.before.reward is not None]
    after = [pair.reward for pair in pairs if pair.reward is not None]
    return SourceMeans(len(pairs), _mean(before), _mean(after))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation, from -1 to 1; ties share their mean rank. None if grade side is constant."""
    if len(pairs) < 2:
        return None
    try:
        return statistics.correlation(*(_ranks([pair[side] for pair in pairs]) for side in (0, 1)))
    except statistics.StatisticsError:  # all values are equal
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]
