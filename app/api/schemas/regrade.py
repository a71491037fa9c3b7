"""Bodies of `/v1/fine_tuning/jobs/{id}/regrade`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Final, Literal

from pydantic import Field

from app.core.graders.regrade import MemberPair, RegradedGroup, summarise
from app.core.spec.described import Described
from app.core.spec.graders import Grader

MAX_GROUPS: Final = 500
MAX_STEP: Final = 2_147_483_647


class Regrade(Described):
    """A grader, and the groups to grade with it."""

    grader: Grader
    """The other grader."""
    step_from: Annotated[int, Field(ge=0, le=MAX_STEP, description="The first step.")] = 0
    step_to: Annotated[int, Field(ge=0, le=MAX_STEP, description="The last step.")] = MAX_STEP
    limit: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_GROUPS,
            description="Maximum number of groups. If there are more, some from all over the steps are chosen.",
        ),
    ] = 100


class RegradedMember(Described):
    """A member with the job's grade and the other grader's."""

    source: str
    """Where the answer comes from: expert, teacher or self."""
    text: str
    """The answer."""
    reward_before: float | None
    """The job's reward; null if the job's grader could not grade it."""
    reward_after: float | None = Field(description="Null if it could not be graded; it would have left the group.")
    advantage_before: float | None
    """The job's advantage; null if the member was not graded."""
    advantage_after: float | None
    """The advantage with the other grader's rewards; null if the member was not graded."""
    error: str | None = Field(description="Why the other grader could not grade it.")

    @classmethod
    def of(cls, pair: MemberPair) -> "RegradedMember":
        """Return the wire form."""
        return cls(
            source=str(pair.before.source),
            text=pair.before.text,
            reward_before=pair.before.reward,
            reward_after=pair.reward,
            advantage_before=pair.before.advantage,
            advantage_after=pair.advantage,
            error=pair.error,
        )


class RegradedGroupObject(Described):
    """A group with both grades."""

    id: str
    """Id of the group."""
    step: int
    """The step that the group belongs to."""
    row: int = Field(description="Line of the training file, from 1.")
    prompt: str
    """The prompt of the group."""
    contrast_before: bool
    """Whether the job's rewards differed within the group."""
    contrast_after: bool
    """Whether the other grader's rewards differ within the group."""
    members: list[RegradedMember]
    """The answers of the group."""


class SourceRewards(Described):
    """Mean rewards of the members of one source."""

    members: int
    """Number of members of the source."""
    before: float | None
    """Mean reward of the job's grader; null if it graded none of them."""
    after: float | None
    """Mean reward of the other grader; null if it graded none of them."""


class RegradeSummary(Described):
    """Differences between the two graders over all groups."""

    groups: int
    """Number of regraded groups."""
    members: int
    """Number of their members."""
    errors_before: int
    """Members that the job's grader could not grade."""
    errors_after: int = Field(
        description="Members that the other grader could not grade; they never count as reward 0."
    )
    error_samples: list[str]
    """Some of the other grader's errors."""
    sources: dict[str, SourceRewards] = Field(description="Mean reward by source.")
    no_contrast_before: float | None = Field(
        description="Share of the groups in which all members had the same reward."
    )
    no_contrast_after: float | None
    """The same share with the other grader's rewards."""
    rank_correlation: float | None = Field(
        description="Spearman's rank correlation over members that both graders graded; null if one of them gave all "
        "the same reward."
    )
    compared_advantages: int
    """Members that have an advantage from both graders."""
    changed_signs: int = Field(description="Advantages whose sign differs between the graders.")


class Regraded(Described):
    """The groups with both grades, and a summary."""

    object: Literal["fine_tuning.job.regrade"] = "fine_tuning.job.regrade"
    job_id: str
    """The job."""
    available_groups: int = Field(description="Number of groups in these steps.")
    ungraded_groups: int = Field(description="Chosen groups that were not graded in time; request fewer.")
    summary: RegradeSummary
    """Differences between the two graders."""
    data: list[RegradedGroupObject]
    """The regraded groups."""

    @classmethod
    def of(cls, job_id: str, available: int, chosen: int, groups: Sequence[RegradedGroup]) -> "Regraded":
        """Return the wire form of `groups`, those graded among `chosen` of `available` groups."""
        return cls(
            job_id=job_id,
            available_groups=available,
            ungraded_groups=chosen - len(groups),
            summary=RegradeSummary.model_validate(asdict(summarise(groups))),
            data=[_group(group) for group in groups],
        )


def _group(regraded: RegradedGroup) -> RegradedGroupObject:
    record = regraded.group.record
    return RegradedGroupObject(
        id=regraded.group.id,
        step=regraded.group.step,
        row=record.row,
        prompt=record.prompt,
        contrast_before=not record.zero_variance,
        contrast_after=regraded.has_contrast,
        members=[RegradedMember.of(pair) for pair in regraded.members],
    )
