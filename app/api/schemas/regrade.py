"""Bodies of `/v1/fine_tuning/jobs/{id}/regrade`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from app.core.graders.regrade import MemberPair, RegradedGroup, summarise
from app.core.spec.graders import Grader

MAX_GROUPS: Final = 500
MAX_STEP: Final = 2_147_483_647


class Regrade(BaseModel):
    """A grader, and the groups to grade with it."""

    grader: Grader
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


class RegradedMember(BaseModel):
    """A member with the job's grade and the other grader's."""

    source: str
    text: str
    reward_before: float | None
    reward_after: float | None = Field(description="Null if it could not be graded; it would have left the group.")
    advantage_before: float | None
    advantage_after: float | None
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


class RegradedGroupObject(BaseModel):
    """A group with both grades."""

    id: str
    step: int
    row: int = Field(description="Line of the training file, from 1.")
    prompt: str
    contrast_before: bool
    contrast_after: bool
    members: list[RegradedMember]


class SourceRewards(BaseModel):
    """Mean rewards of the members of one source."""

    members: int
    before: float | None
    after: float | None


class RegradeSummary(BaseModel):
    """Differences between the two graders over all groups."""

    groups: int
    members: int
    errors_before: int
    errors_after: int = Field(
        description="Members that the other grader could not grade; they never count as reward 0."
    )
    error_samples: list[str]
    sources: dict[str, SourceRewards] = Field(description="Mean reward by source.")
    no_contrast_before: float | None = Field(
        description="Share of the groups in which all members had the same reward."
    )
    no_contrast_after: float | None
    rank_correlation: float | None = Field(
        description="Spearman's rank correlation over members that both graders graded; null if one of them gave all "
        "the same reward."
    )
    compared_advantages: int
    changed_signs: int = Field(description="Advantages whose sign differs between the graders.")


class Regraded(BaseModel):
    """The groups with both grades, and a summary."""

    object: Literal["fine_tuning.job.regrade"] = "fine_tuning.job.regrade"
    job_id: str
    available_groups: int = Field(description="Number of groups in these steps.")
    ungraded_groups: int = Field(description="Chosen groups that were not graded in time; request fewer.")
    summary: RegradeSummary
    data: list[RegradedGroupObject]

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
