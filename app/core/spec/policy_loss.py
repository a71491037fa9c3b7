"""Settings of the policy loss that `reinforcement` and `gft` share. docs/method.md names the source of each default."""

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from app.core.spec.frozen import Frozen

DEFAULT_CLIP: Final = 0.2
"""The value of PPO (arXiv 1707.06347), GRPO (arXiv 2402.03300) and TRL."""
DEFAULT_IMPORTANCE_CAP: Final = 2.0
"""The value of Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025)."""

AdvantageScaling = Literal["std", "none"]
Normalization = Literal["token", "sequence", "constant"]
Clip = Annotated[float, Field(gt=0, lt=1)] | Literal["auto"]


def _rollouts(info: ValidationInfo) -> int:
    """Return the rollouts of a group; 1 if the group itself is invalid, which has its own error."""
    return getattr(info.data.get("group"), "self_", 1)


def _other_members(info: ValidationInfo) -> int:
    group = info.data.get("group")
    return getattr(group, "expert", 0) + getattr(group, "teacher", 0)


class PolicyLossSettings(Frozen):
    """How rewards become a loss. A subclass declares `group` before these fields."""

    kl_coefficient: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the rollouts' divergence from the policy that training starts from: the base model, or the trained
    model that the job continues. 0 turns it off."""
    zero_variance: Literal["count", "drop"] = "count"
    """Whether answers of groups without contrast count in the loss's denominator."""
    advantage_scaling: AdvantageScaling = "std"
    """`std` divides advantages by the standard deviation of their group (GRPO); `none` does not (Dr. GRPO)."""
    loss_normalization: Normalization = "token"
    """`token` divides by all answer tokens of the step (DAPO); `sequence` averages each answer's tokens, then the
    answers (GRPO); `constant` divides by the answers times `sampling.max_tokens` (Dr. GRPO)."""
    off_policy_push_down: Literal["full", "none"] = "full"
    """Whether demonstrations and teacher answers below their group's average are made less likely, as in the paper.
    `none` leaves them out of the gradient; they still count in their group and in the divisor."""
    mask_truncated: bool = False
    """Leaves rollouts that `sampling.max_tokens` cut off out of the loss. Their rewards still count in their group."""
    updates_per_batch: Annotated[int, Field(ge=1, le=16)] = 1
    """Optimiser updates on each batch of rollouts. From the second on, the loss has PPO's clipped probability ratio."""
    clip_low: Clip = "auto"
    """The clipped ratio is at least 1 - clip_low; auto means 0.2. Only with several `updates_per_batch`."""
    clip_high: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] = "auto"
    """The clipped ratio is at most 1 + clip_high; auto means 0.2. DAPO uses 0.28. Only with several
    `updates_per_batch`."""
    importance_cap: Annotated[float, Field(ge=1, le=100)] | Literal["auto", "off"] = "auto"
    """Weights each token of a rollout by its probability in the trainer over that in the sampler, at most this number.
    auto means 2 for a `reinforcement` job whose rollouts come from a server, else off."""
    resampling_rounds: Annotated[int, Field(ge=0, le=16)] = 0
    """At most this number of times per step, groups without contrast are replaced by groups of other prompts (DAPO's
    dynamic sampling)."""

    @field_validator("mask_truncated", "importance_cap", "resampling_rounds")
    @classmethod
    def _has_rollouts(cls, value: float | str | bool, info: ValidationInfo) -> float | str | bool:
        if value not in (False, "auto", "off") and _rollouts(info) == 0:
            raise ValueError("applies to rollouts only: set group.self to at least 1, or remove it")
        return value

    @field_validator("off_policy_push_down")
    @classmethod
    def _has_other_members(cls, value: str, info: ValidationInfo) -> str:
        if value == "none" and not _other_members(info):
            raise ValueError(
                "applies to demonstrations and teacher answers only: set group.expert or group.teacher to at least 1, "
                "or remove it"
            )
        return value

    @field_validator("updates_per_batch")
    @classmethod
    def _has_rollouts_only(cls, updates: int, info: ValidationInfo) -> int:
        if updates > 1 and _other_members(info):
            raise ValueError(
                "several updates need a group of rollouts only, since other answers have no probability ratio: set "
                "group.expert and group.teacher to 0, or updates_per_batch to 1"
            )
        return updates

    @field_validator("clip_low", "clip_high")
    @classmethod
    def _clips_something(cls, clip: float | str, info: ValidationInfo) -> float | str:
        if clip != "auto" and info.data.get("updates_per_batch") == 1:
            raise ValueError(
                "would never be used: the ratio of the first update is 1. Set updates_per_batch to at least 2, or "
                "remove it"
            )
        return clip

    @property
    def clip(self) -> tuple[float, float] | None:
        """The resolved `clip_low` and `clip_high`; None with one update per batch, whose ratio is 1."""
        if self.updates_per_batch == 1:
            return None
        low, high = (DEFAULT_CLIP if value == "auto" else value for value in (self.clip_low, self.clip_high))
        return low, high

    def resolved_importance_cap(self, *, is_on: bool) -> float | None:
        """Return the largest importance weight, None for no weights. `is_on`: what auto means for the job."""
        if self.importance_cap == "auto":
            return DEFAULT_IMPORTANCE_CAP if is_on else None
        return None if self.importance_cap == "off" else self.importance_cap
