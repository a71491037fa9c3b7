"""The numbers of one optimiser step, under TRL's names where they exist and `gft/` where they are ours."""

import statistics
from collections.abc import Iterable

from app.core.spec.reports import GroupRecord, MemberRecord, Source
from worker.training.optimizer import UpdateResult, all_members
from worker.training.types import GroupMember, PromptGroup


def _mean(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return statistics.fmean(kept) if kept else None


def _sampling_gap(members: list[GroupMember]) -> dict[str, float | None]:
    """Distance of the sampler's log-probs from the trainer's, over rollouts that took part in the update."""
    gaps = [
        abs(sampled - trained)
        for member in members
        for sampled, trained in zip(member.sampled_logprobs, member.trainer_logprobs, strict=False)
    ]
    return {
        "sampling/sampling_logp_difference/mean": _mean(gaps),
        "sampling/sampling_logp_difference/max": max(gaps, default=None),
    }


def _per_source(source: Source, members: list[GroupMember]) -> dict[str, float | None]:
    mine = [member for member in members if member.source == source]
    if not mine:
        return {}
    return {
        f"gft/{source}/reward": _mean(m.reward for m in mine),
        f"gft/{source}/advantage": _mean(m.advantage for m in mine),
        f"gft/{source}/nll": _mean(m.mean_nll for m in mine),
        f"gft/{source}/mean_p": _mean(m.mean_p for m in mine),
        f"gft/{source}/rectified_frac": _mean(m.rectified_frac for m in mine),
        f"gft/{source}/length": _mean(float(len(m.ids)) for m in mine),
    }


def _per_grader(grader: str, members: list[GroupMember]) -> dict[str, float | None]:
    """The job's grader, and a multi's parts by their keys."""
    by_name = {grader: [member.reward for member in members if member.reward is not None]}
    for name in sorted({name for member in members for name in member.scores} - {grader}):
        by_name[name] = [member.scores[name] for member in members if name in member.scores]
    values: dict[str, float | None] = {}
    for name, rewards in by_name.items():
        values[f"rewards/{name}/mean"] = _mean(rewards)
        values[f"rewards/{name}/std"] = statistics.stdev(rewards) if len(rewards) > 1 else None
    return values


def step_metrics(groups: list[PromptGroup], update: UpdateResult, grader: str | None) -> dict[str, float | None]:
    """All values of one step, except timings; `grader` names the reward series."""
    members = all_members(groups)
    rewards = [member.reward for member in members if member.reward is not None]
    rollouts = [member for member in members if member.source is Source.self]
    weighted = [(m.rectified_frac, len(m.ids)) for m in members if m.rectified_frac is not None]
    values: dict[str, float | None] = {
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "entropy": _mean(member.entropy for member in members),
        "kl": _mean(member.kl for member in members),
        "completions/mean_length": _mean(float(len(m.ids)) for m in (rollouts or members)),
        "completions/clipped_ratio": _mean(0.0 if m.finished else 1.0 for m in (rollouts or members)),
        "gft/rectified_frac": sum(f * n for f, n in weighted) / sum(n for _, n in weighted) if weighted else None,
        "gft/prompt_length": _mean(float(len(group.prompt.ids)) for group in groups),
        "gft/prefix_dedup_ratio": update.prefix_dedup_ratio,
        "gft/skipped_update": 0.0 if update.applied else 1.0,
        **_sampling_gap(rollouts),
    }
    for source in Source:
        values |= _per_source(source, members)
    if grader is None:
        return values
    stds = [
        statistics.stdev(graded)
        for group in groups
        if len(graded := [m.reward for m in group.members if m.reward is not None]) > 1
    ]
    values |= {
        "reward": _mean(rewards),
        "reward_std": _mean(stds),
        **_per_grader(grader, members),
        "frac_reward_zero_std": _mean(1.0 if group.zero_variance else 0.0 for group in groups),
        "gft/grader_errors": float(sum(member.error is not None for member in members)),
        "gft/demo_reward_fail_frac": _mean(
            None if m.reward is None else float(m.reward <= 0) for m in members if m.source is Source.expert
        ),
    }
    demo, own = values.get("gft/expert/reward"), values.get("gft/self/reward")
    if demo is not None and own is not None:
        values["gft/reward_gap"] = demo - own
    return values


def group_records(groups: list[PromptGroup]) -> tuple[GroupRecord, ...]:
    """What the inspector shows of a step."""
    return tuple(
        GroupRecord(
            idx=idx,
            row=group.prompt.line,
            prompt=group.prompt.text,
            zero_variance=group.zero_variance,
            members=tuple(_member_record(member) for member in group.members),
        )
        for idx, group in enumerate(groups)
    )


def _member_record(member: GroupMember) -> MemberRecord:
    return MemberRecord(
        source=member.source,
        text=member.text,
        tokens=len(member.ids),
        reward=member.reward,
        advantage=member.advantage,
        rectified_frac=member.rectified_frac,
        mean_p=member.mean_p,
        finished=member.finished,
        adapter_version=member.adapter_version,
        error=member.error,
        scores=member.scores if len(member.scores) > 1 else {},
        teacher=member.teacher,
    )
