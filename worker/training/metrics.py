"""The metrics of one optimiser step: TRL's names where TRL has the metric, `gft/` for Grouptune's own."""

import resource
import statistics
from collections.abc import Iterable
from typing import Final

import torch

from app.core.spec.hardware import data_sheet
from app.core.spec.reports import GroupRecord, MemberRecord, Source
from worker.training.optimizer import UpdateResult, all_members
from worker.training.policy_loss import PolicyLoss
from worker.training.preference import SOURCES as PAIR_SOURCES
from worker.training.preference import pair_metrics
from worker.training.types import GroupMember, PromptGroup

FLOPS_A_TOKEN_AND_PARAMETER: Final = 4
"""2 in the forward pass, 2 in the backward pass: a frozen base model has no weight gradients. Adapter FLOPs are left
out."""


def peak_flops(device: torch.device) -> float | None:
    """Returns the peak bf16 rate of the device in FLOP/s, or None for CPUs and GPUs without a data sheet."""
    if device.type != "cuda":
        return None
    sheet = data_sheet(torch.cuda.get_device_name(device))
    return None if sheet is None else sheet.flops


def mfu(parameters: int, tokens: int, seconds: float, peak: float | None) -> float | None:
    """Returns the model FLOPs utilisation (0..1) of an update of `tokens` packed tokens; shared tokens count once.

    `parameters` are those that compute a token."""
    if peak is None:
        return None
    return FLOPS_A_TOKEN_AND_PARAMETER * parameters * tokens / (seconds * peak)


def peak_bytes(device: torch.device) -> int:
    """Returns the peak memory in bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return statistics.fmean(kept) if kept else None


def _sampling_gap(members: list[GroupMember]) -> dict[str, float | None]:
    """Returns mean and maximum of |sampler log p - trainer log p| over the tokens of trained rollouts, in nats."""
    gaps = [
        abs(sampled - trained)
        for member in members
        for sampled, trained in zip(member.sampled_logprobs, member.trainer_logprobs, strict=False)
    ]
    return {
        "sampling/sampling_logp_difference/mean": _mean(gaps),
        "sampling/sampling_logp_difference/max": max(gaps, default=None),
    }


def _importance(members: list[GroupMember]) -> dict[str, float | None]:
    """Returns mean and truncated fraction of the importance weights of all tokens; empty without such weights."""
    weighed = [(m.importance_ratio, m.importance_truncated or 0.0, len(m.ids)) for m in members if m.importance_ratio]
    tokens = sum(length for _, _, length in weighed)
    if not tokens:
        return {}
    return {
        "sampling/importance_sampling_ratio/mean": sum(ratio * length for ratio, _, length in weighed) / tokens,
        "gft/importance_truncated_frac": sum(truncated * length for _, truncated, length in weighed) / tokens,
    }


def loss_metrics(groups: list[PromptGroup], update: UpdateResult, loss: PolicyLoss) -> dict[str, float | None]:
    """Returns what the options of the loss that are on have left out: clipped tokens, masked and spared answers."""
    values: dict[str, float | None] = {}
    if loss.clip is not None:
        tokens = max(1, update.computed_tokens)
        values |= {
            "clip_ratio/low_mean": update.clipped_low / tokens,
            "clip_ratio/high_mean": update.clipped_high / tokens,
            "clip_ratio/region_mean": (update.clipped_low + update.clipped_high) / tokens,
        }
    if loss.mask_truncated:
        values["gft/masked_rollouts"] = float(sum(loss.is_masked(member) for member in all_members(groups)))
    if not loss.pushes_down_all:
        values["gft/spared_answers"] = float(sum(loss.is_spared(member) for member in all_members(groups)))
    return values


def _per_source(source: Source, members: list[GroupMember]) -> dict[str, float | None]:
    of_source = [member for member in members if member.source == source]
    if not of_source:
        return {}
    if source in PAIR_SOURCES:  # `pair_metrics` has their rewards by TRL's names
        return {
            f"gft/{source}/nll": _mean(m.mean_nll for m in of_source),
            f"gft/{source}/mean_p": _mean(m.mean_p for m in of_source),
            f"gft/{source}/length": _mean(float(len(m.ids)) for m in of_source),
        }
    return {
        f"gft/{source}/reward": _mean(m.reward for m in of_source),
        f"gft/{source}/advantage": _mean(m.advantage for m in of_source),
        f"gft/{source}/nll": _mean(m.mean_nll for m in of_source),
        f"gft/{source}/mean_p": _mean(m.mean_p for m in of_source),
        f"gft/{source}/rectified_frac": _mean(m.rectified_frac for m in of_source),
        f"gft/{source}/length": _mean(float(len(m.ids)) for m in of_source),
    }


def _per_grader(grader: str, members: list[GroupMember]) -> dict[str, float | None]:
    """Returns mean and std of the rewards of the job's grader, and of each part of a multi grader by its key."""
    by_name = {grader: [member.reward for member in members if member.reward is not None]}
    for name in sorted({name for member in members for name in member.scores} - {grader}):
        by_name[name] = [member.scores[name] for member in members if name in member.scores]
    values: dict[str, float | None] = {}
    for name, rewards in by_name.items():
        values[f"rewards/{name}/mean"] = _mean(rewards)
        values[f"rewards/{name}/std"] = statistics.stdev(rewards) if len(rewards) > 1 else None
    return values


def step_metrics(groups: list[PromptGroup], update: UpdateResult, grader: str | None) -> dict[str, float | None]:
    """Returns all values of one step except timings; `grader` is the name of the reward series."""
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
        **_importance(rollouts),
    }
    for source in Source:
        values |= _per_source(source, members)
    if any(member.source in PAIR_SOURCES for member in members):
        values |= pair_metrics(groups)
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
    demonstration, rollout = values.get("gft/expert/reward"), values.get("gft/self/reward")
    if demonstration is not None and rollout is not None:
        values["gft/reward_gap"] = demonstration - rollout
    return values


def group_records(groups: list[PromptGroup]) -> tuple[GroupRecord, ...]:
    """Returns the groups of a step for the group inspector."""
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
    parts = member.parts
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
        turn=member.turn,
        output_text=parts.text if parts and parts.text != member.text else None,
        output_reasoning=parts.reasoning if parts else "",
        output_tools=parts.tool_calls if parts else (),
    )
