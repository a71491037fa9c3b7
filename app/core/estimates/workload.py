"""Counts the work of a job: prompts, members, tokens, grader calls. No seconds and no bytes here."""

from dataclasses import dataclass
from typing import Final

from app.core.spec.job import GroupMethod, JobSpec, PreferenceMethod
from app.core.spec.plan import MIN_SPLIT_ROWS, Plan

STARTING_SAMPLES: Final = 16
"""Answers of the starting policy that the forward KL is estimated on."""
FLAT_SHARE: Final = 0.2
"""Assumed fraction of groups without contrast."""


@dataclass(frozen=True)
class Data:
    """Size statistics of a training file and a validation file."""

    rows: int
    held_out_rows: int
    """Rows of the validation file."""
    expert_share: float
    """Fraction of rows that have a demonstration; for dpo, a pair."""
    teachers_a_row: float
    test_rows: int = 0
    """Rows of the test file."""
    graded_first: int = 0
    """Demonstrations that are graded before training."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of one text each; 0 without texts."""

    prompt: float
    """The rendered chat up to and including the generation prompt."""
    expert: float
    """A demonstration, or an answer of a pair."""
    teacher: float
    own: float
    """A rollout."""


@dataclass(frozen=True)
class Work:
    """The total work of a job."""

    steps: int
    groups_a_step: float
    groups: int
    members: float
    """Mean members of a group."""
    own_a_group: int
    prompt_tokens: float
    """Tokens of all groups; each prompt counts once because its members share it."""
    response_tokens: float
    rollouts: int
    teacher_requests: int
    grader_calls: int
    evaluations: float
    """Evaluations of `held_out` rows; the two of the rows that report count by their number of rows."""
    answers_an_evaluation: int
    """Rollouts of evaluations: greedy, and sampled for pass@k."""
    held_out: int
    """Rows of an evaluation during training."""
    checkpoints: int
    lengths: Lengths
    reference_tokens: float = 0.0
    """Tokens that are scored once before the first step (dpo)."""
    live_share: float = 1.0
    """Expected fraction of groups with contrast, after resampling; the others are in no update."""
    resampled_groups: float = 0.0
    """Expected number of groups without contrast that are discarded, beyond `groups`."""


def groups_of(plan: Plan, rows: int) -> int:
    """Return the number of groups in all steps; the steps of an epoch differ by at most one group."""
    return plan.total_steps * rows // -(-rows // plan.batch_size)


def count(spec: JobSpec, plan: Plan, data: Data, lengths: Lengths) -> Work:
    """Return the work of a job that runs all steps of its plan."""
    groups = groups_of(plan, data.rows)
    mix = spec.group
    paired = isinstance(spec.settings, PreferenceMethod)
    experts = (2 if paired else mix.expert) * data.expert_share
    given = min(mix.teacher, data.teachers_a_row)
    teachers = given if spec.teacher is None else float(mix.teacher)
    taught = lengths.teacher or lengths.expert or spec.settings.sampling.max_tokens / 2
    # One request per row, whatever the number of epochs; answers already stored for the project cost nothing.
    requests = min(groups, data.rows) if teachers > given and spec.teacher and spec.teacher.base_url else 0
    members = experts + teachers + mix.self_
    grouped = isinstance(spec.settings, GroupMethod)
    flat, resampled = _without_contrast(spec, groups)
    held_out, reporting = _held_out(plan, data)
    evaluations = 1 + -(-plan.total_steps // plan.eval_interval) + 2 * reporting / held_out if held_out else 0.0
    sampled = held_out * (1 + spec.settings.evaluation.pass_samples) if spec.settings.grader else 0
    return Work(
        steps=plan.total_steps,
        groups_a_step=groups / plan.total_steps,
        groups=groups,
        members=members,
        own_a_group=mix.self_,
        prompt_tokens=groups * lengths.prompt,
        response_tokens=groups * (experts * lengths.expert + teachers * taught + mix.self_ * lengths.own),
        rollouts=groups * mix.self_ + round(resampled * mix.self_),
        teacher_requests=requests,
        grader_calls=data.graded_first
        + (round((groups + resampled) * members) if grouped else 0)
        + round(evaluations * sampled),
        evaluations=evaluations,
        answers_an_evaluation=sampled,
        held_out=held_out,
        checkpoints=-(-plan.total_steps // plan.checkpoint_interval),
        lengths=lengths,
        reference_tokens=(data.rows + held_out + reporting) * (lengths.prompt + experts * lengths.expert)
        if paired
        else 0.0,
        live_share=1.0 - flat,
        resampled_groups=resampled,
    )


def _without_contrast(spec: JobSpec, groups: int) -> tuple[float, float]:
    """Return the expected fraction of groups without contrast that stay in a step, and how many are replaced in all."""
    if not isinstance(spec.settings, GroupMethod):
        return 0.0, 0.0
    rounds = spec.settings.resampling_rounds
    replaced = groups * sum(FLAT_SHARE**round_ for round_ in range(1, rounds + 1))
    return FLAT_SHARE ** (rounds + 1), replaced


def _held_out(plan: Plan, data: Data) -> tuple[int, int]:
    """Return the rows of an evaluation during training, and the others, which report."""
    rows, test = (min(rows, plan.eval_samples) for rows in (data.held_out_rows, data.test_rows))
    if test or rows < MIN_SPLIT_ROWS:
        return rows, test
    return rows // 2, rows - rows // 2
