"""What a job does, counted: prompts, members, tokens, grader calls. Knows no seconds and no bytes."""

from dataclasses import dataclass
from typing import Final

from app.core.spec.job import GroupMethod, JobSpec
from app.core.spec.plan import Plan

BASE_SAMPLES: Final = 16
"""Answers of the base model that the forward KL is estimated on."""


@dataclass(frozen=True)
class Data:
    """A training file and a validation file, as far as counting goes."""

    rows: int
    held_out_rows: int
    expert_share: float
    """Of the rows that have a demonstration."""
    teachers_a_row: float


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of one text each; 0 where there are none."""

    prompt: float
    """The rendered chat up to and including the generation prompt."""
    expert: float
    teacher: float
    own: float
    """A rollout."""


@dataclass(frozen=True)
class Work:
    """All that a job does."""

    steps: int
    groups_a_step: float
    groups: int
    members: float
    """Of a group, on average."""
    own_a_group: int
    prompt_tokens: float
    """Of all groups, each prompt once: its members share it."""
    response_tokens: float
    rollouts: int
    teacher_requests: int
    grader_calls: int
    evaluations: int
    answers_an_evaluation: int
    """Sampled ones, greedy and for pass@k."""
    held_out: int
    """Rows of an evaluation."""
    checkpoints: int
    lengths: Lengths


def groups_of(plan: Plan, rows: int) -> int:
    """Groups of all steps; the last step of an epoch may hold fewer than `batch_size`."""
    epochs, rest = divmod(plan.total_steps, -(-rows // plan.batch_size))
    return epochs * rows + min(rest * plan.batch_size, rows)


def count(spec: JobSpec, plan: Plan, data: Data, lengths: Lengths) -> Work:
    """The work of a job that makes all steps of its plan."""
    groups = groups_of(plan, data.rows)
    mix = spec.group
    experts = mix.expert * data.expert_share
    given = min(mix.teacher, data.teachers_a_row)
    teachers = given if spec.teacher is None else float(mix.teacher)
    taught = lengths.teacher or lengths.expert or spec.settings.sampling.max_tokens / 2
    # One request a row, whatever the epochs; what the project's other jobs have asked already costs none.
    asked = min(groups, data.rows) if teachers > given and spec.teacher and spec.teacher.base_url else 0
    members = experts + teachers + mix.self_
    grouped = isinstance(spec.settings, GroupMethod)
    held_out = plan.eval_samples
    evaluations = 0 if held_out == 0 else 1 + -(-plan.total_steps // plan.eval_interval)
    sampled = held_out * (1 + spec.settings.evaluation.pass_samples) if spec.settings.grader else 0
    return Work(
        steps=plan.total_steps,
        groups_a_step=groups / plan.total_steps,
        groups=groups,
        members=members,
        own_a_group=mix.self_,
        prompt_tokens=groups * lengths.prompt,
        response_tokens=groups * (experts * lengths.expert + teachers * taught + mix.self_ * lengths.own),
        rollouts=groups * mix.self_,
        teacher_requests=asked,
        grader_calls=(round(groups * members) if grouped else 0) + evaluations * sampled,
        evaluations=evaluations,
        answers_an_evaluation=sampled,
        held_out=held_out,
        checkpoints=-(-plan.total_steps // plan.checkpoint_interval),
        lengths=lengths,
    )
